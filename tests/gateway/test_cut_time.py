"""When chunks are cut: early enough for all of a group, and at a time that keeps still."""

from __future__ import annotations

import pytest

from gateway.cut_time import EARLY_NS, LATE_NS, STEP_NS, TELEPHONE_COST_NS, CutTime
from media.timebase import NS_PER_MS, TURN_NS

US = 1_000


def _taught(most_calls: int, cost_ns: int) -> CutTime:
    """After thousands of cuts that took so long."""
    time = CutTime(most_calls, TELEPHONE_COST_NS)
    for _ in range(4000):
        time.took(cost_ns)
    return time


def test_before_any_cut_is_measured_it_goes_by_what_one_usually_takes() -> None:
    assert CutTime(40, 700 * US).ahead_ns(0, 0, 4) == (EARLY_NS + 14_000 * US, LATE_NS + 7_000 * US)


def test_calls_that_join_do_not_move_the_cut_of_those_that_are_there() -> None:
    time = _taught(100, 70 * US)
    assert len({time.ahead_ns(0, calls, 5) for calls in range(1, 21)}) == 1


def test_there_is_time_for_all_cuts_of_the_group_twice() -> None:
    time = _taught(100, 70 * US)
    whole_ns, late_ns = time.ahead_ns(0, 20, 5)
    assert whole_ns - EARLY_NS >= 2 * 20 * 69 * US
    assert late_ns - LATE_NS >= 20 * 69 * US


def test_a_group_with_more_than_its_share_gets_the_time_that_it_needs() -> None:
    time = _taught(100, 70 * US)
    assert time.ahead_ns(0, 60, 5)[0] - EARLY_NS >= 2 * 60 * 69 * US


@pytest.mark.parametrize("costs_us", [(60, 75), (75, 60), (55, 90, 70)])
def test_a_measure_that_wanders_does_not_move_it_down(costs_us: tuple[int, ...]) -> None:
    time = _taught(100, 90 * US)
    first = time.ahead_ns(0, 20, 5)
    for cost_us in costs_us:
        for _ in range(4000):
            time.took(cost_us * US)
        assert time.ahead_ns(0, 20, 5) == first


def test_it_grows_with_the_cost_and_comes_back_when_half_would_do() -> None:
    time = _taught(100, 70 * US)
    usual = time.ahead_ns(0, 20, 5)
    for _ in range(4000):
        time.took(400 * US)
    assert time.ahead_ns(0, 20, 5) > usual
    for _ in range(4000):
        time.took(70 * US)
    assert time.ahead_ns(0, 20, 5) == usual


def test_one_cut_that_took_very_long_moves_nothing() -> None:
    time = _taught(100, 70 * US)
    usual = time.ahead_ns(0, 20, 5)
    time.took(1_000_000_000)
    assert time.ahead_ns(0, 20, 5) == usual


def test_the_time_ahead_is_of_whole_steps() -> None:
    whole_ns, late_ns = _taught(37, 83 * US).ahead_ns(0, 3, 5)
    assert (whole_ns - EARLY_NS) % (2 * STEP_NS) == (late_ns - LATE_NS) % STEP_NS == 0


def test_what_another_engine_has_at_the_same_tick_is_cut_in_time_too() -> None:
    time = _taught(100, 70 * US)
    usual = time.ahead_ns(0, 20, 5)
    time.ahead_ns(0, 60, 1, "lab")  # its one group has the tick of our first
    both = time.ahead_ns(0, 20, 5)
    assert both[0] - EARLY_NS >= 2 * 80 * 69 * US and both > usual
    assert time.ahead_ns(1, 20, 5) == usual, "nobody else is due then"
    time.forget("lab")
    assert time.ahead_ns(0, 20, 5) == usual, "it is gone, and less than half is needed"


def test_it_is_quiet_until_the_first_cut_of_any_engine_that_has_calls() -> None:
    time = CutTime(100, 70 * US)
    assert time.quiet_ns(0) == TURN_NS, "nobody is cut"
    time.next_cut("", 0, 50 * NS_PER_MS, 1)
    time.next_cut("lab", 0, 20 * NS_PER_MS, 2)
    time.next_cut("lab", 1, 5 * NS_PER_MS, 0)  # a group without calls
    assert time.quiet_ns(0) == 20 * NS_PER_MS and time.quiet_ns(25 * NS_PER_MS) == 0, "it is due"
    time.next_cut("lab", 0, 220 * NS_PER_MS, 2)
    assert time.quiet_ns(25 * NS_PER_MS) == 25 * NS_PER_MS
    time.forget("")
    assert time.quiet_ns(25 * NS_PER_MS) == 195 * NS_PER_MS, "of an engine that is gone nobody is cut"
