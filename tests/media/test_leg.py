"""A whole leg: frames in, chunks out, replies in, frames out, and no IO anywhere."""

from __future__ import annotations

import numpy as np

from media.chunk import Chunk, Flags, Reply
from media.chunker import Chunker
from media.conceal import DELAY
from media.leg import MAX_EVENTS, Leg, Tenancy
from media.timebase import FRAME_NS, NS_PER_MS, TURN_NS
from tests.support.frame_store import FrameStore

RATE = 8_000
FRAME = 160
BUDGET_NS = 5 * NS_PER_MS
CUT_AGE_NS = 8 * NS_PER_MS


def signal(samples: int) -> np.ndarray:
    """A sweep that repeats nowhere: any lag can be read off it."""
    t = np.arange(samples) / RATE
    return (7000 * np.sin(2 * np.pi * (300 + 8 * t) * t)).astype(np.int16)


class Echo:
    """A leg, its native clock and an echoing model that answers after `step_ns`."""

    def __init__(self, seconds: float) -> None:
        self.store = FrameStore()
        self.leg = Leg(Chunker(RATE, self.store))
        self.leg.lease(Tenancy(slot=0, generation=1, group=0, budget_ns=BUDGET_NS))
        self.sent = signal(int(seconds * RATE))
        self.heard: list[bytes] = []
        self.chunks: list[Chunk] = []
        self.frame = 0

    def run(self, turns: int, lose_replies: frozenset[int] = frozenset()) -> None:
        for _ in range(turns):
            for _ in range(10):
                now_ns = self.frame * FRAME_NS
                self.store.put(self.frame, self.sent[self.frame * FRAME : (self.frame + 1) * FRAME], now_ns)
                self.heard.append(self.leg.playout.pull())
                self.frame += 1
            self.leg.intake.look()
            chunk = self.leg.cut(now_ns + CUT_AGE_NS, now_ns + CUT_AGE_NS, now_ns)
            if chunk is not None:
                self.chunks.append(chunk)
                if chunk.turn not in lose_replies:
                    self.leg.receive_reply(Reply(chunk.generation, chunk.turn, now_ns, chunk.pcm))

    def lag(self, start: int, samples: int = 2400) -> int:
        """Samples between what was said at `start` and where it is heard."""
        heard = np.frombuffer(b"".join(self.heard), np.int16).astype(float)
        window = self.sent[start : start + samples].astype(float)
        scores = [
            float(np.dot(heard[start + lag : start + lag + samples], window)) for lag in range(1600, 2400)
        ]
        return 1600 + int(np.argmax(scores))


def test_speech_comes_back_one_turn_later_with_a_constant_lag() -> None:
    echo = Echo(20)
    echo.run(100)
    lags = {echo.lag(start) for start in range(8_000, 140_000, 8_000)}
    assert len(lags) == 1
    # the turn, the wait for the cut rounded up to frames, twice the context of the resampler, concealment's delay
    assert lags.pop() <= 1600 + 2 * FRAME + 48 + DELAY
    assert echo.leg.playout.ledger.missed_turns == 0


def test_the_model_is_told_what_was_really_heard() -> None:
    echo = Echo(10)
    echo.run(40, lose_replies=frozenset({20}))
    told = [chunk.played_samples for chunk in echo.chunks]
    assert sum(told) == 2 * echo.leg.playout.ledger.played
    assert told[10:20] == [3200] * 10
    assert sum(told[21:23]) == 3200  # of two turns, one was heard
    assert echo.leg.playout.ledger.missed_turns == 1


def test_replies_of_an_earlier_tenancy_are_not_played() -> None:
    echo = Echo(10)
    echo.run(10)
    last = echo.chunks[-1]
    echo.leg.vacate()
    assert not echo.leg.receive_reply(Reply(1, last.turn, 0, last.pcm))
    echo.run(5)
    assert len(echo.chunks) == 10 and echo.leg.turn == 15
    echo.leg.lease(Tenancy(slot=3, generation=2, group=1, budget_ns=BUDGET_NS))
    assert not echo.leg.receive_reply(Reply(1, last.turn, 0, last.pcm))
    echo.run(20)
    assert echo.leg.counters.stale_replies == 2
    assert [chunk.turn for chunk in echo.chunks[10:]] == list(range(15, 35))
    assert {chunk.generation for chunk in echo.chunks[10:]} == {2}
    assert echo.lag(8_000 * 5) <= 1600 + 2 * FRAME + 48 + DELAY


def test_events_and_hold_are_said_in_the_next_chunk_and_bounded() -> None:
    echo = Echo(10)
    echo.run(1)
    for digit in range(MAX_EVENTS + 3):
        echo.leg.receive_event(f"dtmf {digit}")
    echo.run(1)
    echo.leg.hold(True)
    echo.leg.hold(True)
    echo.run(1)
    echo.leg.hold(False)
    echo.run(1)
    first, told, held, resumed = echo.chunks
    assert first.flags == Flags.FIRST and first.events == ()
    assert len(told.events) == MAX_EVENTS
    assert echo.leg.counters.events_dropped == 3
    assert held.events == ("hold",) and held.flags == Flags.HELD
    assert resumed.events == ("resume",) and resumed.flags == Flags.NONE


def test_a_model_that_yields_is_silent_within_a_frame() -> None:
    echo = Echo(10)
    echo.run(10)
    turn = echo.chunks[-1].turn
    echo.leg.playout.flush()
    assert echo.leg.receive_reply(Reply(1, turn, 0, np.zeros(3200, np.int16), flags=Flags.FLUSH)) is (
        turn >= 0
    )
    assert echo.leg.playout.ledger.flushed > 0


def test_a_clock_that_slept_is_caught_up_with() -> None:
    echo = Echo(10)
    echo.run(10)
    before = echo.leg.playout.next_frame
    newest_ns = (before - 1) * FRAME_NS
    assert echo.leg.catch_up(newest_ns + FRAME_NS) == 0
    assert echo.leg.catch_up(newest_ns + 5 * FRAME_NS) == 5
    assert echo.leg.playout.next_frame == before + 5
    assert echo.leg.catch_up(newest_ns + 5 * FRAME_NS) == 0


def test_ticks_that_were_slept_over_are_turns_that_were_missed() -> None:
    echo = Echo(12)
    echo.run(10)
    for _ in range(30):  # 600 ms in which nobody cuts, while sound comes and goes
        now_ns = echo.frame * FRAME_NS
        echo.store.put(echo.frame, echo.sent[echo.frame * FRAME : (echo.frame + 1) * FRAME], now_ns)
        echo.heard.append(echo.leg.playout.pull())
        echo.frame += 1
    echo.run(20)
    assert [chunk.turn for chunk in echo.chunks] == [*range(10), *range(13, 33)]
    ledger = echo.leg.playout.ledger
    assert (ledger.late_turns, ledger.missed_turns) == (0, 3)
    assert echo.lag(6 * RATE) == echo.lag(RATE)
    assert ledger.offered == ledger.played + ledger.flushed + echo.leg.playout.waiting


def test_an_hour_of_turns_keeps_its_books() -> None:
    store = FrameStore()
    leg = Leg(Chunker(RATE, store))
    leg.lease(Tenancy(0, 1, 0, BUDGET_NS))
    rng = np.random.default_rng(5)
    frame = np.zeros(FRAME, np.int16)
    reply_pcm = np.zeros(3200, np.int16)
    for turn in range(18_000):
        now_ns = turn * TURN_NS
        for index in range(10):
            store.put(10 * turn + index, frame, now_ns + index * FRAME_NS)
            leg.playout.pull()
        last_ns = now_ns + 9 * FRAME_NS
        leg.intake.look()
        chunk = leg.cut(last_ns + CUT_AGE_NS, last_ns + CUT_AGE_NS, last_ns)
        assert chunk is not None
        if rng.random() < 0.99:
            leg.receive_reply(Reply(1, chunk.turn, now_ns, reply_pcm))
    ledger, account = leg.playout.ledger, leg.intake.account
    waiting = leg.playout.waiting
    assert ledger.offered == ledger.played + ledger.late + ledger.flushed + ledger.early + waiting
    assert account.pulled == 18_000 * 1600
    assert (account.concealed, account.stretched, account.padded, account.dropped) == (0, 0, 0, 0)
    assert 100 < ledger.missed_turns < 260
