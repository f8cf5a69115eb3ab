"""What is done when a rule is met: on a real leg with its playout and its transcript, turn by turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from gateway import control
from gateway.background.conversation import Conversation, written
from gateway.commands import obey
from gateway.figures import LineSums, figures_of
from gateway.safety.normal import normalise
from gateway.safety.options import SafetyOptions
from gateway.safety.policy import Do, Policy, Rule
from gateway.safety.screen import MOST_TOLD, Screens
from gateway.state.records import Spoken
from gateway.turns import CallSums
from loadtests.safety import Silent
from media.chunk import Flags, Reply
from media.leg import Leg, Tenancy
from media.timebase import FRAMES_PER_TURN, MODEL_HZ, NS_PER_MS, TURN_NS, TURN_SAMPLES

LOUD = 9_000
REPLACED = 4_000


class Call:
    """A call that is listened to: a reply comes 20 ms after its tick, half a turn before it is heard."""

    name, is_over, recording = "c", False, None

    def __init__(
        self, policy: Policy, persona: str = "", tenant: str = "", *, moderated: bool = False
    ) -> None:
        self.leg: Leg[Any] = Leg(Silent())
        self.told: list[Any] = []
        self.events: list[str] = []
        self.heard: list[int] = []
        """Loudest sample of each 20 ms."""
        self.played = 0
        self.cause = ""
        self.conversation = Conversation("c", self.leg, self.told.append)
        self._later: list[Callable[[], None]] = []
        self.screens = Screens(
            SafetyOptions(policy, moderated=moderated), MODEL_HZ, self.told.append, self._later.append
        )
        self.screens.look_after(self, persona, tenant)
        self.leg.lease(Tenancy(0, 1, 0, 100 * NS_PER_MS))
        self._now_ns = TURN_NS

    def withhold(self, turn: int, since: int) -> None:
        self.conversation.withhold(turn, since)

    def hang_up(self, cause: str = "") -> None:
        self.cause = cause

    def press(self, digits: str) -> bool:
        return False

    def pull(self, frames: int) -> None:
        for _ in range(frames):
            frame = np.frombuffer(self.leg.playout.pull(), np.int16)
            self.heard.append(int(np.abs(frame).max()))

    def turn(self, text: str = "", level: int = LOUD, flags: Flags = Flags.NONE) -> None:
        self._now_ns += TURN_NS
        chunk = self.leg.cut(self._now_ns, self._now_ns, self._now_ns)
        assert chunk is not None
        self.events += chunk.events
        self.played += chunk.played_samples
        self.conversation.turned()
        self.pull(1)
        pcm = np.full(TURN_SAMPLES, level, np.int16)
        reply = self.leg.screened(Reply(1, chunk.turn, self._now_ns, pcm, text=text, flags=flags))
        self.conversation.replied(reply, self.leg.receive_reply(reply))
        while self._later:
            self._later.pop()()
        self.pull(FRAMES_PER_TURN - 1)

    def place(self, turn: int) -> slice:
        """Of that turn's frames among those that were heard."""
        frame = self.leg.playout.frame_of(turn)
        return slice(frame, frame + FRAMES_PER_TURN)

    def of_turn(self, turn: int) -> set[int]:
        return set(self.heard[self.place(turn)])

    def met(self) -> list[tuple[str, str, int]]:
        return [(m.rule, m.did, m.turn) for m in self.told if isinstance(m, control.PolicyMet)]

    def lines(self) -> list[Spoken]:
        self.conversation.end()
        return [line for m in self.told if isinstance(m, control.Said) for line in m.lines]

    @property
    def balanced(self) -> bool:
        ledger, waiting = self.leg.playout.ledger, self.leg.playout.waiting
        return ledger.offered == ledger.played + ledger.late + ledger.flushed + ledger.withheld + waiting


def rule(do: Do, *phrases: str, name: str = "rude", **more: Any) -> Rule:
    return Rule(name, do, tuple(normalise(f"{phrase} ") for phrase in phrases), **more)


def test_the_turn_of_the_word_is_not_heard_and_the_utterance_to_its_end_neither() -> None:
    call = Call(Policy((rule("cut", "seven"),)))
    for text in ("one ", "six ", "seven ", "", "eight "):
        call.turn(text)
    call.turn(level=0)  # silence: the utterance is over
    call.turn("nine ")
    call.turn(level=0)
    call.turn(level=0)
    assert call.of_turn(0) == {LOUD} and call.of_turn(6) == {LOUD}
    assert all(call.of_turn(turn) == {0} for turn in (2, 3, 4, 5))
    heard = call.heard[call.place(1)]
    assert heard[:-1] == [LOUD] * (
        FRAMES_PER_TURN - 1
    )  # what was heard of turn 1 is heard, and its end fades out
    assert call.met() == [("rude", "cut", 2)] and call.events == ["safety cut rude"]
    assert call.balanced and call.leg.playout.ledger.withheld == 4 * TURN_SAMPLES
    assert figures_of(LineSums(), CallSums(), call.leg, 0).cuts == 1
    assert call.screens.report()["safety_cuts"] == 1
    lines = call.lines()
    assert [(line.turn, line.text) for line in lines] == [
        (0, "one "),
        (1, "six "),
        (2, "[cut]"),
        (6, "nine "),
    ]
    assert [line.played_samples for line in lines] == [TURN_SAMPLES, TURN_SAMPLES, 0, TURN_SAMPLES]
    assert written(lines) == "model: one six [cut] nine"


def test_what_the_model_is_told_that_was_heard_is_what_was_heard() -> None:
    call, free = Call(Policy((rule("cut", "seven"),))), Call(Policy((rule("cut", "none"),)))
    for each in (call, free):
        for text in ("six ", "seven ", "", "", ""):
            each.turn(text)
        for _ in range(3):
            each.turn(level=0)
    withheld = call.leg.playout.ledger.withheld
    assert withheld == 5 * TURN_SAMPLES and free.played - call.played == withheld


def test_a_phrase_over_turns_is_cut_at_its_last_word_or_whole_with_lookahead() -> None:
    def say(lookahead: int) -> Call:
        call = Call(Policy((rule("cut", "go to hell"),), lookahead))
        for text in ("you ", "go to ", "hell ", ""):
            call.turn(text)
        for _ in range(4):
            call.turn(level=0)
        return call

    plain, ahead = say(0), say(1)
    assert LOUD in plain.of_turn(1) and plain.of_turn(2) == {0}
    assert plain.heard[plain.place(1)][-1] == 0  # but what was queued of it is taken back
    assert set(ahead.heard[ahead.place(0)][:-1]) == {LOUD}
    assert ahead.of_turn(1) == ahead.of_turn(2) == ahead.of_turn(3) == {0}
    assert ahead.leg.playout.frame_of(0) == plain.leg.playout.frame_of(0) + FRAMES_PER_TURN
    assert plain.balanced and ahead.balanced
    assert [line.text for line in ahead.lines()] == ["you ", "[cut]"]
    assert [line.text for line in plain.lines()] == ["you ", "go to ", "[cut]"]


def test_two_turns_of_lookahead_fit_and_patience_spares_longer_words() -> None:
    call = Call(Policy((rule("cut", "hell"),), 2))
    for text in ("oh hell", "o there ", "and hell", "", ""):
        call.turn(text)
    for _ in range(5):
        call.turn(level=0)
    assert call.of_turn(1) == {LOUD} and call.of_turn(2) == {0} == call.of_turn(3)
    assert call.met() == [("rude", "cut", 3)] and call.leg.playout.ledger.early == 0 and call.balanced


def test_a_line_feed_ends_what_is_cut() -> None:
    call = Call(Policy((rule("cut", "seven"),)))
    for text in ("seven ", "eight\n", "nine ", "seven\n", "ten "):
        call.turn(text)
    call.turn(level=0)
    assert [call.of_turn(turn) for turn in range(5)] == [{0}, {0}, {LOUD}, {0}, {LOUD}]
    assert call.met() == [("rude", "cut", 0), ("rude", "cut", 3)]


def test_a_report_changes_nothing_of_what_is_heard() -> None:
    call = Call(Policy((rule("report", "seven"),)))
    for text in ("seven ", "seven ", ""):
        call.turn(text)
    call.turn(level=0)
    assert call.of_turn(0) == call.of_turn(1) == {LOUD}
    assert call.met() == [("rude", "report", 0), ("rude", "report", 1)] and not call.events
    assert figures_of(LineSums(), CallSums(), call.leg, 0).cuts == 0


def test_the_gravest_decides_and_in_a_cut_each_rule_is_told_once() -> None:
    rules = (rule("report", "a", name="r"), rule("cut", "a", name="c"), rule("hang-up", "b", name="h"))
    call = Call(Policy(rules))
    for text in ("a ", "a ", "a ", "b "):
        call.turn(text)
    assert call.met() == [("r", "report", 0), ("c", "cut", 0), ("h", "hang-up", 3)]
    assert call.cause == "safety" and call.events == ["safety cut c"]
    assert figures_of(LineSums(), CallSums(), call.leg, 0).cuts == 1


def test_something_else_is_heard_instead(tmp_path: Path) -> None:
    frames = 35
    sound = np.full(frames * 320 - 100, REPLACED, np.int16)
    soundfile.write(tmp_path / "sorry.wav", sound, MODEL_HZ)
    call = Call(Policy((rule("replace", "seven", sound=str(tmp_path / "sorry.wav")),)))
    for text in ("six ", "seven ", ""):
        call.turn(text)
    call.turn(level=0)
    for text in ("eight ", "nine "):  # while the sound is heard, nothing begins in its middle
        call.turn(text)
    call.turn(level=0)
    for text in ("ten ", ""):
        call.turn(text)
    call.turn(level=0)
    begin = call.leg.playout.frame_of(1)
    assert set(call.heard[begin : begin + frames]) == {REPLACED}
    assert set(call.heard[begin + frames : call.leg.playout.frame_of(7)]) == {0} and call.of_turn(7) == {LOUD}
    assert call.met() == [("rude", "replace", 1)] and call.events == ["safety replace rude"] and call.balanced


def test_silence_of_a_cut_is_no_comfort_sound_and_its_turns_are_not_missed() -> None:
    call = Call(Policy((rule("cut", "seven"),)))
    call.turn("seven ")
    for _ in range(20):
        call.turn()
    assert set(call.heard) == {0} and call.leg.playout.ledger.missed_turns == 0


def test_rules_are_for_personas_and_tenants_and_others_have_no_screen() -> None:
    policy = Policy((rule("cut", "seven", personas=("read*",), tenants=("acme",)),), 1)
    for persona, tenant in (("count", "acme"), ("read-back", ""), ("", "acme")):
        call = Call(policy, persona, tenant)
        assert call.leg.screen is None and call.leg.playout.lookahead == 0
    assert Call(policy, "read-back", "acme").leg.screen is not None


def test_a_stale_reply_is_not_looked_at() -> None:
    call = Call(Policy((rule("cut", "seven"),)))
    call.turn("six ")
    stale = Reply(9, 0, 0, text="seven ")
    assert call.leg.screened(stale) is stale and not call.leg.receive_reply(stale) and not call.met()


def test_a_command_cuts_what_is_being_said_and_nothing_else() -> None:
    def cut() -> int:
        return obey(call, control.Command(1, "c", "cut", "moderation")).status

    call = Call(Policy(), moderated=True)
    assert cut() == 409
    call.turn("six ")
    call.turn("seven ")
    assert cut() == 204
    assert cut() == 204
    call.turn("")
    call.turn(level=0)
    call.turn("eight ")
    call.turn(level=0)
    call.turn(level=0)
    assert cut() == 409
    at = call.leg.playout.frame_of(1)
    assert call.of_turn(2) == call.of_turn(3) == {0} and call.of_turn(4) == {LOUD}
    assert call.heard[at] == LOUD and call.heard[at + FRAMES_PER_TURN - 1] == 0
    assert call.events == ["safety cut moderation"] and call.balanced
    assert call.screens.report()["safety_by_command"] == 1
    (six, seven, eight) = call.lines()
    assert (six.text, eight.text) == ("six ", "eight ") and seven.text == "seven \n[cut]"
    assert 0 < seven.played_samples < TURN_SAMPLES
    other = Call(Policy((rule("cut", "x", personas=("none",)),)))
    assert obey(other, control.Command(1, "c", "cut")).status == 409
    assert obey(call, control.Command(1, "c", "hang-up", "safety")).status == 204 and call.cause == "safety"


def test_who_says_it_all_the_time_is_counted_and_no_more_told() -> None:
    call = Call(Policy((rule("report", "x"),)))
    for _ in range(MOST_TOLD + 5):
        call.turn("x ")
    assert len(call.met()) == MOST_TOLD and call.screens.report()["safety_untold"] == 5


@pytest.mark.parametrize("flags", [Flags.NONE, Flags.FLUSH])
def test_the_model_that_falls_silent_by_itself_ends_the_cut(flags: Flags) -> None:
    call = Call(Policy((rule("cut", "seven"),)))
    call.turn("seven ")
    call.turn("", 0, flags)
    call.turn("eight ")
    call.turn(level=0)
    assert call.of_turn(0) == call.of_turn(1) == {0} and call.of_turn(2) == {LOUD} and call.balanced
