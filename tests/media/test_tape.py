"""Both sides of a call on one clock, without IO: a whole leg with its tape, and what goes wrong on either side."""

from __future__ import annotations

import numpy as np
import pytest

from media.chunk import Reply
from media.chunker import Chunker
from media.leg import Leg, Tenancy
from media.tape import MOST_FRAMES, WAIT_MS, Tape
from media.timebase import FRAME_NS, NS_PER_MS
from tests.support.frame_store import FrameStore

RATE, FRAME, TURN = 8_000, 160, 1_600
CUT_AGE_NS = 8 * NS_PER_MS


class Recorded:
    """A leg with an echoing model and a tape; what its caller got, and what was cut, kept beside it."""

    def __init__(self, not_before: int = 0) -> None:
        self.store = FrameStore()
        self.leg = Leg(Chunker(RATE, self.store))
        self.leg.lease(Tenancy(slot=0, generation=1, group=0, budget_ns=5 * NS_PER_MS))
        self.tape = self.leg.tape = Tape(RATE, not_before)
        self.rng = np.random.default_rng(7)
        self.heard: list[bytes] = []
        self.cut: list[np.ndarray] = []
        self.blocks: list[np.ndarray] = []
        self.places: list[int] = []
        self.frame = 0
        self._cut_of, self.leg.intake.cut = self.leg.intake.cut, self._keep  # type: ignore[method-assign]

    def _keep(self, now_ns: int):  # type: ignore[no-untyped-def]
        cut = self._cut_of(now_ns)
        self.cut.append(cut.pcm)
        return cut

    def run(self, turns: int, lose: float = 0.0) -> None:
        for _ in range(turns):
            for _ in range(10):
                now_ns = self.frame * FRAME_NS
                if self.rng.random() >= lose:
                    said = self.rng.integers(-9_000, 9_000, FRAME).astype(np.int16)
                    self.store.put(self.frame, said, now_ns)
                self.heard.append(self.leg.playout.pull())
                self.tape.hear(self.leg.playout.next_frame - 1, self.heard[-1])
                self.frame += 1
            self.leg.intake.look()
            chunk = self.leg.cut(now_ns + CUT_AGE_NS, now_ns + CUT_AGE_NS, now_ns)
            if chunk is not None:
                self.leg.receive_reply(Reply(chunk.generation, chunk.turn, now_ns, chunk.pcm))
            self.take()

    def take(self, *, to_the_end: bool = False) -> None:
        block = self.tape.take(to_the_end=to_the_end)
        if block is not None:
            self.places.append(block.at)
            self.blocks.append(block.pcm)

    def recording(self) -> np.ndarray:
        """int16 [n, 2]"""
        self.take(to_the_end=True)
        assert self.places == list(np.cumsum([0, *map(len, self.blocks)])[:-1])
        return np.concatenate(self.blocks)


def whole(recorded: Recorded) -> tuple[np.ndarray, np.ndarray]:
    """What both sides should be: all that was cut, and all frames of the caller, on the ear's clock."""
    return np.concatenate(recorded.cut), np.frombuffer(b"".join(recorded.heard), np.int16)


@pytest.mark.parametrize("lose", [0.0, 0.05])
def test_a_recording_is_what_each_side_heard_sample_by_sample(lose: float) -> None:
    recorded = Recorded()
    recorded.run(50, lose)
    left, right = recorded.recording().T
    said, heard = whole(recorded)
    # the first turn was cut 8 ms after the tenth frame began: its end is the clock's place 9 * 160 + 64
    end = 9 * FRAME + 64
    assert np.array_equal(left[: len(said) - (TURN - end)], said[TURN - end :])
    assert np.array_equal(right, heard)
    assert recorded.tape.counters.said_late == recorded.tape.counters.heard_late == 0


def test_a_pause_is_silence_of_the_same_length_and_moves_nothing() -> None:
    recorded = Recorded()
    recorded.run(10)
    begin = recorded.tape.place_of(10 * TURN)
    recorded.tape.pause(10 * TURN)
    recorded.run(7)
    assert recorded.tape.is_paused
    assert recorded.tape.resume(17 * TURN) == 7 * TURN
    recorded.run(10)
    left, right = recorded.recording().T
    said, heard = whole(recorded)
    said = said[TURN - 9 * FRAME - 64 :]
    for side, want in ((left, said), (right, heard)):
        got = side[: len(want)]
        assert not got[begin : begin + 7 * TURN].any()
        assert np.array_equal(got[:begin], want[:begin])
        assert np.array_equal(got[begin + 7 * TURN :], want[begin + 7 * TURN : len(got)])


def test_it_does_not_begin_before_it_may() -> None:
    recorded = Recorded(not_before=7 * FRAME + 3)
    recorded.run(10)
    left, right = recorded.recording().T
    said, heard = whole(recorded)
    assert np.array_equal(right, heard[8 * FRAME :])
    assert np.array_equal(left[:TURN], said[TURN - 9 * FRAME - 64 :][8 * FRAME :][:TURN])


def test_without_a_model_server_the_callers_ear_is_recorded_and_nothing_moves() -> None:
    recorded = Recorded()
    recorded.run(10)
    recorded.leg.vacate()
    for _ in range(55):  # nobody cuts turns
        recorded.heard.append(recorded.leg.playout.pull())
        recorded.tape.hear(recorded.leg.playout.next_frame - 1, recorded.heard[-1])
        recorded.frame += 1
        recorded.take()
    recorded.leg.lease(Tenancy(slot=1, generation=2, group=1, budget_ns=5 * NS_PER_MS))
    recorded.run(10)
    left, right = recorded.recording().T
    said, heard = whole(recorded)
    assert np.array_equal(right, heard)
    again = (10 * 10 + 55 + 9) * FRAME + 64  # the end of the first turn of the new lease
    assert np.array_equal(left[again : again + 9 * TURN], said[11 * TURN : 20 * TURN])
    assert not left[10 * TURN : again - TURN].any()


def test_frames_that_nobody_pulled_are_silence_in_their_place() -> None:
    tape = Tape(RATE)
    tape.say(TURN, np.ones(TURN, np.int16))
    loud = np.full(FRAME, 9, np.int16).tobytes()
    for frame in (0, 1, 5, 6, 9):
        tape.hear(frame, loud)
    block = tape.take()
    assert block is not None and block.at == 0
    assert [bool(part.any()) for part in block.pcm[:, 1].reshape(10, FRAME)] == [
        True, True, False, False, False, True, True, False, False, True
    ]  # fmt: skip


def test_what_comes_too_late_is_counted_and_moves_nothing() -> None:
    tape = Tape(RATE)
    tape.say(TURN, np.ones(TURN, np.int16))
    for frame in range(60):
        tape.hear(frame, bytes(2 * FRAME))
    block = tape.take()  # the caller's second turn is not here, and it is too late for it
    assert block is not None and len(block.pcm) == 60 * FRAME - WAIT_MS * 8
    tape.say(2 * TURN, np.ones(TURN, np.int16))
    assert tape.counters.said_late == TURN
    tape.hear(3, np.full(FRAME, 9, np.int16).tobytes())
    tape.hear(4, bytes(2 * FRAME))  # silence is none the less
    assert tape.take(to_the_end=True) is not None
    assert tape.counters.heard_late == FRAME


def test_what_nobody_takes_is_bounded_and_counted() -> None:
    tape = Tape(RATE)
    tape.say(TURN, np.ones(TURN, np.int16))
    for frame in range(MOST_FRAMES + 20):
        tape.hear(frame, bytes(2 * FRAME))
    assert tape.counters.heard_late == 20 * FRAME
