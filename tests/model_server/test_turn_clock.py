from __future__ import annotations

import pytest

from media.timebase import NS_PER_MS, TURN_NS, tick_at_or_after
from model_server.turn_clock import Tick, TurnClock

MS = NS_PER_MS


def test_ticks_come_every_50_ms_with_four_groups():
    clock, now_ns, ticks = TurnClock(4), 1_010 * MS, []
    for _ in range(6):
        ticks.append(clock.next_tick(now_ns))
        now_ns = ticks[-1].tick_ns + 3 * MS
    assert ticks == [Tick((1050 + 50 * n) * MS, (1 + n) % 4) for n in range(6)]
    assert clock.skipped == 0


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 7, 10])
def test_the_ticks_are_those_that_every_process_knows(groups):
    clock, now_ns = TurnClock(groups), 123_456_789_012_345
    for _ in range(50):
        tick = clock.next_tick(now_ns)
        assert tick_at_or_after(now_ns, tick.group, groups) == tick.tick_ns
        now_ns = tick.tick_ns + 1


def test_the_first_tick_may_be_now():
    assert TurnClock(4).next_tick(5 * TURN_NS) == Tick(5 * TURN_NS, 0)
    assert TurnClock(4).next_tick(5 * TURN_NS + 1) == Tick(5 * TURN_NS + 50 * MS, 1)


def test_a_tick_that_is_a_little_late_is_run_at_once():
    clock = TurnClock(4)
    clock.next_tick(1_000 * MS)
    assert clock.next_tick(1_070 * MS) == Tick(1_050 * MS, 1)
    assert clock.next_tick(1_075 * MS) == Tick(1_100 * MS, 2)
    assert clock.skipped == 0


@pytest.mark.parametrize(("overslept_ms", "tick_ms", "skipped"), [(99, 50, 0), (100, 100, 1), (730, 700, 13)])
def test_of_many_overdue_ticks_only_the_newest_is_run(overslept_ms, tick_ms, skipped):
    clock = TurnClock(4)
    clock.next_tick(1_000 * MS)
    now_ns = (1_000 + overslept_ms) * MS
    assert clock.next_tick(now_ns).tick_ns == (1_000 + tick_ms) * MS
    assert clock.skipped == skipped
    assert clock.next_tick(now_ns).tick_ns == (1_050 + tick_ms) * MS > now_ns


def test_time_that_stands_still_repeats_no_tick():
    clock = TurnClock(2)
    assert [clock.next_tick(0).tick_ns // MS for _ in range(3)] == [0, 100, 200]
