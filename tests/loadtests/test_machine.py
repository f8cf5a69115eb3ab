"""Stalls are told from ours, and what would coincide by chance is said beside what did."""

from __future__ import annotations

import time

import numpy as np
import pytest

from loadtests.machine import STALL_NS, Stalls, witnessed

MS, S = 1_000_000, 1_000_000_000


def times(*values: float) -> np.ndarray:
    return np.array([round(value * MS) for value in values], np.int64)


def test_a_gap_belongs_to_the_stall_at_its_chunks_cut() -> None:
    stalls = Stalls(times(1_000), times(10))
    at_it = times(*(790 + 20 * frame for frame in range(10)))  # cut at 990 to 1040
    before, after = times(700), times(5_000)
    told = stalls.figures((0, 10 * S), [at_it, before, after])
    assert told is not None
    assert (told["stalls"], told["worst_ms"], told["gaps"], told["gaps_at_stalls"]) == (1, 10.0, 3, 1)
    assert told["expected_by_chance"] == pytest.approx(3 * 0.07 / 10, abs=0.01)


def test_a_long_stall_counts_though_a_short_one_began_later() -> None:
    stalls = Stalls(times(1_000, 1_010), times(300, 3))
    told = stalls.figures((0, 2 * S), [times(1_050)])
    assert told is not None and told["gaps_at_stalls"] == 1


def test_stalls_outside_of_the_time_measured_do_not_count() -> None:
    told = Stalls(times(100, 900), times(5, 5)).figures((500 * MS, S), [])
    assert told is not None and (told["stalls"], told["stalls_per_s"]) == (1, 2.0)


def test_without_a_witness_nothing_is_said() -> None:
    assert Stalls(refused="no real-time priority").figures((0, S), []) is None


@pytest.mark.processes
def test_witnesses_watch_and_end() -> None:
    begun_ns = time.monotonic_ns()
    with witnessed() as stalls:
        pass
    if stalls.refused:
        pytest.skip(stalls.refused)
    assert (stalls.lasted_ns >= STALL_NS).all()
    assert (stalls.begun_ns >= begun_ns).all() and (stalls.begun_ns <= time.monotonic_ns()).all()
