"""Frames become chunks: nothing is lost from the account, and the delay comes back to its floor."""

from __future__ import annotations

import numpy as np

from media.chunker import GUARD_NS, LATE_BOUND_MS, Chunker
from media.timebase import FRAME_NS, NS_PER_MS, TURN_NS, samples_of

RATE = 8_000
FRAME = samples_of(20, RATE)
TURN = samples_of(200, RATE)
AGE_NS = 6 * NS_PER_MS
"""How old the newest frame is at a cut, in the tests that do not vary it."""


def tone(samples: int, start: int = 0) -> np.ndarray:
    return (8000 * np.sin(2 * np.pi * 437.0 * np.arange(start, start + samples) / RATE)).astype(np.int16)


class Line:
    """A sender with its own clock, and cuts on ours."""

    def __init__(self, ppm: float = 0.0) -> None:
        self.chunker = Chunker(RATE)
        self.period_ns = round(FRAME_NS / (1 + ppm * 1e-6))
        self.next_ns = 0
        self.now_ns = 10 * FRAME_NS + AGE_NS - FRAME_NS
        self.sent = 0
        self.blocked_from_ns = self.blocked_until_ns = 0
        self.cuts = 0

    @property
    def arrival_ns(self) -> int:
        """When the next frame comes: at its time, or when the line is free again."""
        blocked = self.blocked_from_ns <= self.next_ns < self.blocked_until_ns
        return self.blocked_until_ns if blocked else self.next_ns

    def turn(self) -> tuple[int, int]:
        """One turn; (concealed, dropped) samples."""
        while self.arrival_ns <= self.now_ns:
            self.chunker.receive_frame(tone(FRAME, self.sent), self.arrival_ns)
            self.sent += FRAME
            self.next_ns += self.period_ns
        cut = self.chunker.cut(self.now_ns)
        assert cut.pcm.shape == (TURN,) and cut.pcm.dtype == np.int16
        self.now_ns += TURN_NS
        self.cuts += 1
        self.check()
        return cut.concealed, cut.dropped

    def check(self) -> None:
        account = self.chunker.account
        assert account.received == self.sent
        assert account.received == account.used + account.dropped + self.chunker.waiting
        assert self.cuts * TURN == account.used + account.concealed + account.padded

    @property
    def delay_ns(self) -> int:
        """From the due time of the frame that ended the last chunk to its cut."""
        frame = -(-(self.sent - self.chunker.waiting) // FRAME) - 1
        return self.now_ns - TURN_NS - frame * self.period_ns


FLOOR_NS = FRAME_NS + GUARD_NS
"""A frame is cut at the first turn that finds it `GUARD_NS` old: at most a frame later than that."""


def test_a_steady_sender_is_cut_without_a_sample_lost_or_made_up() -> None:
    line = Line()
    assert [line.turn() for _ in range(500)] == [(0, 0)] * 500
    assert line.chunker.account.padded == 0


def test_the_first_chunk_is_padded_in_front_when_the_leg_begins_in_mid_turn() -> None:
    chunker = Chunker(RATE)
    chunker.receive_frame(tone(FRAME), 0)
    cut = chunker.cut(GUARD_NS)
    assert not cut.pcm[: TURN - FRAME].any() and np.array_equal(cut.pcm[TURN - FRAME :], tone(FRAME))
    assert (chunker.account.padded, cut.concealed, cut.dropped) == (TURN - FRAME, 0, 0)


def test_a_frame_too_young_is_left_for_the_next_chunk() -> None:
    chunker = Chunker(RATE)
    for index in range(11):
        chunker.receive_frame(tone(FRAME, index * FRAME), index * FRAME_NS)
    cut = chunker.cut(10 * FRAME_NS + GUARD_NS - 1)
    assert np.array_equal(cut.pcm, tone(TURN)) and chunker.waiting == FRAME


def test_a_late_frame_is_concealed_and_its_delay_is_taken_back_within_two_seconds() -> None:
    line = Line()
    for _ in range(10):
        line.turn()
    floor_ns = line.delay_ns
    line.blocked_from_ns = line.now_ns - 10 * NS_PER_MS
    line.blocked_until_ns = line.now_ns + 2 * NS_PER_MS  # the last frame misses its cut by 2 ms
    assert line.turn() == (FRAME, 0)
    results = [line.turn() for _ in range(10)]
    assert sum(dropped for _, dropped in results) == FRAME
    assert sum(concealed for concealed, _ in results) == 0
    assert line.delay_ns == floor_ns


def test_a_stall_is_concealed_and_said_and_what_comes_of_it_is_bounded() -> None:
    line = Line()
    for _ in range(10):
        line.turn()
    line.blocked_until_ns = line.now_ns + 3 * TURN_NS - 5 * NS_PER_MS
    stalled = [line.turn() for _ in range(3)]
    assert [concealed for concealed, _ in stalled] == [TURN, TURN, TURN]
    results = [line.turn() for _ in range(10)]  # 2 s
    assert sum(concealed for concealed, _ in results) == 0
    assert 3 * TURN - FRAME <= sum(d for _, d in stalled + results) <= 3 * TURN
    assert results[0][1] >= 3 * TURN - samples_of(LATE_BOUND_MS, RATE)
    assert line.delay_ns <= FLOOR_NS


def test_an_hour_with_drift_and_stalls_ends_at_the_delay_it_began_with() -> None:
    for ppm in (-200.0, 200.0):
        line = Line(ppm)
        rng = np.random.default_rng(7)
        for _ in range(10):
            line.turn()
        worst_after = 0
        since_stall = 0
        for turn in range(3600 * 5):
            if rng.random() < 1 / 300:
                line.blocked_from_ns = line.now_ns - FRAME_NS
                line.blocked_until_ns = line.now_ns + int(rng.integers(1, 1200)) * NS_PER_MS
                since_stall = 0
            line.turn()
            since_stall = since_stall + 1 if line.now_ns > line.blocked_until_ns + TURN_NS else 0
            if since_stall > 10:  # 2 s after the stall
                worst_after = max(worst_after, line.delay_ns)
            assert line.chunker.waiting <= 2 * TURN, turn
        assert 0 < worst_after <= FLOOR_NS + NS_PER_MS, (ppm, worst_after)


def test_drift_alone_costs_one_frame_in_a_hundred_seconds() -> None:
    for ppm, made_up, left_out in ((-200.0, True, False), (200.0, False, True)):
        line = Line(ppm)
        for _ in range(3600 * 5):
            line.turn()
        account = line.chunker.account
        expected = 3600 * RATE * 200e-6
        moved = account.concealed if made_up else account.dropped
        assert abs(moved - expected) <= 2 * FRAME
        assert (account.dropped > 0) is left_out and (account.concealed > 0) is made_up


def test_frames_of_odd_sizes_make_the_same_chunks() -> None:
    rng = np.random.default_rng(3)
    chunker, sent, out = Chunker(RATE), 0, []
    chunker.receive_frame(tone(TURN), 0)
    out.append(chunker.cut(AGE_NS).pcm)
    sent = TURN
    for turn in range(1, 50):
        left = TURN
        while left:
            size = min(left, int(rng.integers(1, 400)))
            chunker.receive_frame(tone(size, sent), turn * TURN_NS)
            sent += size
            left -= size
        out.append(chunker.cut(turn * TURN_NS + AGE_NS).pcm)
    assert np.array_equal(np.concatenate(out), tone(sent))


def test_nobody_cutting_drops_the_oldest_and_counts() -> None:
    chunker = Chunker(RATE)
    for index in range(100):
        chunker.receive_frame(tone(FRAME), index * FRAME_NS)
    assert chunker.waiting == 2 * TURN
    assert chunker.account.dropped == 100 * FRAME - 2 * TURN
