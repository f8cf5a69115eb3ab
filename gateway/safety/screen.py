"""What is done in a call whose model says what the policy forbids.

    passing --a rule is met, or a command--> cut --the utterance is over, and so is what is heard instead--> passing
                                              `--hang-up--> over

Of a cut, what is queued from the turn in which the phrase began is taken back, and what follows is not heard until
the model was silent for a turn or ended a line. It is told (`safety cut NAME`), and its ledger says what was heard.
A worker's `Screens` has one `Screen` for each call that any rule is for.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import structlog

from gateway import control
from gateway.recording.announcements import read_announcement
from gateway.safety.options import SafetyOptions
from gateway.safety.policy import CAUSE, GRAVITY, Do, Rule
from gateway.safety.watch import Met, Watch
from media.chunk import PCM, Reply
from media.leg import Leg

log = structlog.get_logger()

SILENT_RMS: Final = 80.0
"""Of a turn that says nothing; comfort sound is below 40, speech in a telephone rarely below 300."""
MOST_TOLD: Final = 256
"""Of one call; what is met beyond that is counted alone."""

Tell = Callable[[control.WorkerMessage], None]
Soon = Callable[[Callable[[], None]], object]


class Screened(Protocol):
    """A call, whoever carries it."""

    @property
    def name(self) -> str: ...
    @property
    def leg(self) -> Leg[Any]: ...
    def withhold(self, turn: int, since: int) -> None:
        """What was said in turn `since` and later, and is not heard yet, never will be; `turn` is the newest."""
        ...

    def hang_up(self, cause: str = "") -> None:
        """End it; `cause` as in its record."""
        ...


@dataclass(slots=True)
class Counters:
    """Of one worker, since its start: rules that were met, by what they did."""

    safety_reported: int = 0
    safety_cuts: int = 0
    safety_replaced: int = 0
    safety_hung_up: int = 0
    safety_by_command: int = 0
    """Cuts for which there was no rule of ours."""
    safety_turns_withheld: int = 0
    safety_untold: int = 0


_COUNTERS: Final[dict[Do, str]] = {
    "report": "safety_reported", "cut": "safety_cuts", "replace": "safety_replaced", "hang-up": "safety_hung_up",
}  # fmt: skip


def _soon(do: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_soon(do)


class Screens:
    """Of one worker. `ValueError` for a sound that cannot be read."""

    def __init__(self, options: SafetyOptions, rate_hz: int, tell: Tell, soon: Soon = _soon) -> None:
        """`soon` calls what it is given when this turn's work is done."""
        self.counters = Counters()
        self.tell, self.soon = tell, soon
        self._policy, self._persona, self._moderated = options.policy, options.persona, options.moderated
        for rule in options.policy.rules:  # before the first call: compiling and reading take milliseconds
            rule.search()
        self._sounds: dict[str, PCM] = {
            rule.sound: read_announcement(Path(rule.sound), rate_hz)
            for rule in options.policy.rules
            if rule.sound
        }

    def look_after(self, call: Screened, persona: str, tenant: str, engine: str = "") -> None:
        """From its first turn on; a call that nothing is looked for in has no screen."""
        persona = persona or ("" if engine else self._persona)  # a further engine has its own
        rules = [rule for rule in self._policy.rules if rule.is_for(persona, tenant)]
        if rules:
            call.leg.playout.lookahead = self._policy.lookahead
        if rules or self._moderated:
            call.leg.screen = Screen(call, rules, self)

    def sound_of(self, rule: Rule) -> PCM | None:
        """int16 [n] at the worker's rate."""
        return self._sounds.get(rule.sound)

    def report(self) -> dict[str, int]:
        """Counters, by their names in the metrics."""
        return dataclasses.asdict(self.counters)


class Screen:
    """Of one call. `media.leg.Screen`."""

    def __init__(self, call: Screened, rules: list[Rule], screens: Screens) -> None:
        self._call, self._leg, self._screens = call, call.leg, screens
        self._watch = Watch(rules, patient=self._leg.playout.lookahead > 0)
        self._turn = 0
        """Of the newest reply."""
        self._sounded: int | None = None
        """Turn of the newest one that says something."""
        self._cutting = False
        self._met: set[str] = set()  # of the rules, in this cut
        self._told = 0

    def check(self, reply: Reply) -> Reply:
        """See `media.leg.Screen`."""
        self._turn = reply.turn
        if _sounds(reply):
            self._sounded = reply.turn
        met = self._watch.hear(reply.turn, reply.text)
        begins = bool(met) and self._meet(reply.turn, met)
        self._leg.withholds = self._cutting
        if not self._cutting:
            return reply
        self._screens.counters.safety_turns_withheld += 1
        if self._is_over(reply, begins=begins):
            self._cutting = False
            self._met.clear()
        return dataclasses.replace(reply, text="") if reply.text else reply

    def cut(self, name: str) -> bool:
        """Somebody else's word, by that name; False when the model says nothing now."""
        if self._cutting:
            return True
        if self._sounded is None or self._turn - self._sounded > self._leg.playout.lookahead:
            return False
        self._screens.counters.safety_by_command += 1
        self._begin(self._turn, 0)
        self._leg.receive_event(f"safety cut {name}")
        return True

    # -- inside

    def _meet(self, turn: int, met: list[Met]) -> bool:
        """Tells of each rule, in a cut once, and does what the gravest says; whether a cut begins."""
        met = [each for each in met if each.rule.name not in self._met]
        for each in met:
            self._note(turn, each.rule)
        gravest = max((each.rule for each in met), key=lambda rule: GRAVITY.index(rule.do), default=None)
        if gravest is None or (gravest.do == "report" and not self._cutting):
            return False
        begins = not self._cutting
        if begins:
            self._begin(turn, min(each.since for each in met if each.rule.do != "report"))
            self._leg.receive_event(f"safety {gravest.do} {gravest.name}")
        self._met.update(each.rule.name for each in met)
        sound = self._screens.sound_of(gravest)
        if sound is not None and not self._leg.playout.is_replaced:
            self._leg.playout.play_instead(turn, sound)
        if gravest.do == "hang-up":
            self._screens.soon(lambda: self._call.hang_up(CAUSE))
        return begins

    def _begin(self, turn: int, since: int) -> None:
        self._cutting = self._leg.withholds = True
        self._met.clear()
        self._leg.counters.cuts += 1
        self._leg.playout.withdraw(since)
        self._call.withhold(turn, since)

    def _is_over(self, reply: Reply, *, begins: bool) -> bool:
        if self._leg.playout.is_replaced:
            return False
        ends_line = reply.text.rstrip(" ").endswith("\n") if begins else "\n" in reply.text
        return ends_line or self._sounded != reply.turn

    def _note(self, turn: int, rule: Rule) -> None:
        counters, name = self._screens.counters, _COUNTERS[rule.do]
        setattr(counters, name, getattr(counters, name) + 1)
        self._told += 1
        if self._told > MOST_TOLD:
            counters.safety_untold += 1
            return
        log.warning("safety", call=self._call.name, rule=rule.name, did=rule.do, turn=turn)
        self._screens.tell(control.PolicyMet(self._call.name, rule.name, rule.do, turn))


def _sounds(reply: Reply) -> bool:
    if reply.text:
        return True
    samples = reply.pcm.astype(np.float32)
    return bool(np.dot(samples, samples) > SILENT_RMS**2 * len(samples))
