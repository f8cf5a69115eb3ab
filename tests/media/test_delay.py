"""The target follows what a buffer can follow, and forgets what it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from media.delay import GUARD_MS, MAX_MS, DelayEstimator
from media.timebase import NS_PER_MS, NS_PER_S

CLOCK, FRAME_NS, TICKS = 48_000, 20 * NS_PER_MS, 960


class Arrivals:
    """Packets every 20 ms, each later by what `hear` is given."""

    def __init__(self) -> None:
        self.estimator = DelayEstimator(CLOCK)
        self.sent = 0

    def hear(self, late_ms: float) -> None:
        self.estimator.update(self.sent * FRAME_NS + int(late_ms * NS_PER_MS), self.sent * TICKS)
        self.sent += 1

    def target_ms(self) -> float:
        return self.estimator.estimate()


def test_without_jitter_the_target_is_the_guard_and_the_floor_is_the_transit() -> None:
    line = Arrivals()
    assert line.target_ms() == GUARD_MS
    for _ in range(600):
        line.hear(37.0)
    assert line.target_ms() == GUARD_MS and line.estimator.floor_ns == 37 * NS_PER_MS


def test_one_packet_in_fifty_may_be_later_than_the_target() -> None:
    line, rng = Arrivals(), np.random.default_rng(2)
    late = rng.random(500) * 12
    for ms in late:
        line.hear(float(ms))
    usual, of_late = np.quantile(late, 0.98), late[-40:].max()
    assert line.target_ms() - GUARD_MS == pytest.approx(min(usual, of_late) - late.min(), abs=0.3)


def test_rare_spikes_are_not_followed_and_frequent_ones_are() -> None:
    for every, followed in ((100, False), (25, True)):
        line = Arrivals()
        for index in range(1_000):
            line.hear(80.0 if index % every == every // 2 else 0.0)
        assert (line.target_ms() > 80) is followed


def test_jitter_that_is_over_is_forgotten_in_a_second_and_remembered_when_it_comes_back() -> None:
    line, rng = Arrivals(), np.random.default_rng(3)
    for _ in range(500):
        line.hear(float(rng.random() * 60))
    assert line.target_ms() > 55
    for _ in range(54):  # the last of the late ones came up to 60 ms later
        line.hear(0.0)
    assert line.target_ms() == GUARD_MS
    line.hear(60.0)
    assert line.target_ms() > 55


def test_a_burst_after_a_stall_is_one_late_packet() -> None:
    line = Arrivals()
    for _ in range(500):
        line.hear(0.0)
    for held in range(10, 0, -1):
        line.hear(20.0 * held)  # all at the same moment
    for _ in range(30):
        line.hear(0.0)
    assert line.target_ms() == GUARD_MS


def test_a_line_that_moves_for_good_has_a_new_floor() -> None:
    for step_ms in (-100.0, 100.0, 5_000.0):
        line = Arrivals()
        for late_ms in (200.0, 200.0 + step_ms):
            for _ in range(600):
                line.hear(late_ms)
        assert line.target_ms() == GUARD_MS, step_ms
        assert line.estimator.floor_ns == int(200 + step_ms) * NS_PER_MS


def test_a_move_that_no_buffer_can_follow_is_taken_over_within_five_packets() -> None:
    line = Arrivals()
    for _ in range(400):
        line.hear(0.0)
    for _ in range(5):
        line.hear(5_000.0)
    assert line.target_ms() == GUARD_MS and line.estimator.floor_ns == 5_000 * NS_PER_MS


def test_the_target_is_bounded() -> None:
    line, rng = Arrivals(), np.random.default_rng(5)
    for _ in range(2_000):
        line.hear(float(rng.random() * 400))
        assert GUARD_MS <= line.target_ms() <= MAX_MS


def test_the_floor_follows_a_drifting_clock() -> None:
    for ppm in (-200, 200):
        line = Arrivals()
        for index in range(6_000):
            line.hear(100.0 + index * 0.02 * ppm / 1_000)
        assert line.target_ms() <= GUARD_MS + 2.1
        now_ms = 100.0 + 6_000 * 0.02 * ppm / 1_000
        assert abs(line.estimator.floor_ns / NS_PER_MS - now_ms) <= 2.1


def test_a_silence_longer_than_the_window_leaves_the_target_as_it_was() -> None:
    line = Arrivals()
    line.hear(0.0)
    line.estimator.update(60 * NS_PER_S, TICKS)  # a lone packet, a minute late
    assert line.target_ms() == GUARD_MS
