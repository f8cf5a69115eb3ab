"""What is done to a live call from outside: by its leg, in either kind of worker."""

from __future__ import annotations

import numpy as np
import pytest

from gateway import control
from gateway.commands import obey
from gateway.recording.call import CallRecording
from media.chunk import Flags, Reply
from media.chunker import Chunker
from media.leg import Leg
from media.timebase import FRAMES_PER_TURN, TURN_NS, TURN_SAMPLES
from tests.support.frame_store import FrameStore
from tests.support.two_doors import leg_of


class Call:
    """A telephone call without a telephone."""

    def __init__(self) -> None:
        self.store = FrameStore()
        self.leg: Leg[Chunker] = leg_of(Chunker(8_000, self.store))  # type: ignore[assignment]
        self.is_over = False
        self.recording: CallRecording | None = None
        self.digits = ""

    def hang_up(self, cause: str = "") -> None:
        self.is_over = True

    def press(self, digits: str) -> bool:
        self.digits += digits
        return True


def do(call: Call | None, what: control.Do, value: str = "") -> control.Done:
    return obey(call, control.Command(7, "c", what, value))


def test_commands_are_done_and_answered() -> None:
    call = Call()
    assert do(call, "digits", "12#") == control.Done(7, 204) and call.digits == "12#"
    assert do(call, "text", "x" * 1_000).status == 204
    full = do(call, "text", "x" * 1_000)
    assert (full.status, full.code) == (409, "turn-full")
    assert (do(call, "record", "start").status, do(call, "record", "start").code) == (403, "not-recorded")
    assert do(call, "hang-up").status == 204 and call.is_over
    assert do(call, "hang-up").status == 404 and do(None, "text", "x").status == 404


def test_a_muted_caller_is_not_heard_and_the_model_knows_it() -> None:
    call = Call()
    leg = call.leg
    loud = np.full(160, 9_000, np.int16)

    def cut(turn: int) -> tuple[int, Flags, tuple[str, ...]]:
        for frame in range(FRAMES_PER_TURN):
            call.store.put(turn * FRAMES_PER_TURN + frame, loud, 0)
        leg.intake.look()
        now_ns = (turn + 1) * TURN_NS
        chunk = leg.cut(now_ns, now_ns, now_ns)
        assert chunk is not None
        return int(np.abs(chunk.pcm).max()), chunk.flags & Flags.HELD, chunk.events

    for turn in range(4):
        cut(turn)
    assert cut(4)[0] > 5_000
    do(call, "mute-caller")
    do(call, "mute-caller")
    assert cut(5) == (0, Flags.HELD, ("muted",)) and cut(6) == (0, Flags.HELD, ())
    do(call, "unmute-caller")
    level, flags, events = cut(7)
    assert level > 5_000 and not flags and events == ("unmuted",)


@pytest.mark.parametrize("muted", [True, False])
def test_a_muted_model_is_not_heard_and_the_ledger_says_so(muted: bool) -> None:
    call = Call()
    playout = call.leg.playout
    playout.start(0, 0)
    do(call, "mute-model" if muted else "unmute-model")
    call.leg.turn = 1
    assert call.leg.receive_reply(Reply(1, 0, 0, np.full(TURN_SAMPLES, 9_000, np.int16)))
    heard = b"".join(playout.pull() for _ in range(FRAMES_PER_TURN))
    assert bool(np.abs(np.frombuffer(heard, np.int16)).max() == 0) is muted
    assert (playout.ledger.played == 0) is muted and playout.ledger.flushed == (1_600 if muted else 0)


@pytest.mark.parametrize(
    ("meanwhile", "then"), [("mute-model", True), ("unmute-model", False), ("mute-caller", False)]
)
def test_a_mute_outlives_whoever_the_model_listened_to(meanwhile: str, then: bool) -> None:
    call = Call()
    playout = call.leg.playout
    playout.only_listens = True  # a person has joined
    do(call, meanwhile)
    assert (playout.muted or playout.only_listens) is (meanwhile != "unmute-model")
    playout.only_listens = False  # and has left
    assert playout.muted is then
