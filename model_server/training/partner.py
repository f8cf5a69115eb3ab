"""The ideal partner: what the model ought to write in each turn, by rules, from the truth of the conversation.

It makes the targets of training and stands in evaluation for what was to be done. Nothing of it runs in a call:
there the network alone decides, from the sound. Each skill is a `Skill` in `skills/`, with its rules in a table at
the head of its file; the rules here hold for all of them:

| what happens | in which turn |
|---|---|
| `heard:` token of a word | the first whose end is 100 ms (`stop`: 20 ms) or more after the word's end |
| more than one such word in one turn | the others in the next turns, in their order |
| `stop` | our voice is silent from the turn in which it is heard; whatever a skill was about is dropped |
| order of the tokens of a turn | heard word, actions and notes, said word with its note; at most 3 |
| a word that finds no room, or our voice busy | said in the next turn that has room |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from media.timebase import MODEL_HZ, TURN_MS, TURN_SAMPLES
from model_server.training.mouth import Mouth

SAY_LIMIT = 3
"""Tokens a turn."""
_HEARD_LIMIT = 1
_HEARD_AFTER_MS, _STOP_AFTER_MS = 100, 20
DIGITS = frozenset("0123456789")


def heard_turn(token: str, end_samples: int) -> int:
    """The turn in which a word that ends there is known."""
    after_ms = _STOP_AFTER_MS if token == "heard:stop" else _HEARD_AFTER_MS
    return max(0, -(-(end_samples + after_ms * MODEL_HZ // 1000) // TURN_SAMPLES) - 1)


def turns_of(seconds: float) -> int:
    """Whole turns that last at least so long."""
    return -(-round(seconds * 1000) // TURN_MS)


@dataclass(frozen=True, slots=True)
class Heard:
    """A word of the caller that has a token."""

    token: str
    pause_ms: int
    """From the end of the word before to its beginning."""


@dataclass(slots=True)
class Ear:
    """What a turn brings. A skill takes the words that are for it alone out of `words`."""

    turn: int
    words: list[str]
    """Heard, without the `heard:`."""
    silence_ms: int
    """Since the caller's last word ended, at the end of this turn; 0 while the caller speaks."""
    pause_ms: int = 0
    """The longest silence before one of `words`."""
    injected: tuple[str, ...] = ()
    seen: int = 0
    """Changes or repetitions that the camera completed in this turn."""


class Skill(Protocol):
    """One thing that the partner can do."""

    def step(self, ear: Ear, mouth: Mouth) -> tuple[str, ...]:
        """One turn; returns action tokens. What it says goes to the mouth."""
        ...

    def stopped(self) -> None:
        """The caller said stop: drop what this was about."""
        ...


@dataclass(frozen=True, slots=True)
class Written:
    """What the partner did in one turn."""

    say: tuple[str, ...]
    """Tokens, in order."""
    voice: tuple[int, int]
    """Row of the voice table and turns into it, or (-1, 0)."""


class Partner:
    """Skills with one mouth, asked in their order."""

    def __init__(self, skills: Sequence[Skill], mouth: Mouth) -> None:
        self._skills, self.mouth = skills, mouth
        self._heard: list[Heard] = []

    def step(
        self,
        turn: int,
        heard: Sequence[Heard] = (),
        silence_ms: int = 0,
        injected: tuple[str, ...] = (),
        seen: int = 0,
    ) -> Written:
        """One turn, with the words that are known by its end."""
        self._heard += heard
        taken, self._heard = self._heard[:_HEARD_LIMIT], self._heard[_HEARD_LIMIT:]
        now = [word.token for word in taken]
        ear = Ear(
            turn,
            words=[token.removeprefix("heard:") for token in now],
            silence_ms=0 if self._heard else silence_ms,
            pause_ms=max((word.pause_ms for word in taken), default=0),
            injected=injected,
            seen=seen,
        )
        if "stop" in ear.words:
            self.mouth.hush()
            for skill in self._skills:
                skill.stopped()
            ear.words = ear.words[ear.words.index("stop") + 1 :]
        actions: tuple[str, ...] = ()
        for skill in self._skills:
            actions += skill.step(ear, self.mouth)
        written = (*now, *actions)
        assert len(written) <= SAY_LIMIT, written
        begun, voice = self.mouth.step(SAY_LIMIT - len(written))
        return Written((*written, *begun), voice)
