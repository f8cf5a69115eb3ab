"""Which sessions fit, in memory and in time."""

from __future__ import annotations

import pytest

from model_server.bench.held import CannotMeasure, Room, buckets_for, held

GB = 10**9


def test_sessions_fit_beside_the_weights() -> None:
    h200 = Room("H200", 150 * GB, 140 * GB, weights=60 * GB, session=GB // 2)
    assert h200.sessions == 137  # 0.92 * 140 - 60 = 68.8
    h200.expect_one("a model")


def test_a_device_that_is_too_small_is_refused_with_the_numbers() -> None:
    small = Room("Some GPU", 24 * GB, 23 * GB, weights=60 * GB, session=2 * GB)
    assert small.sessions == 0
    with pytest.raises(CannotMeasure) as refused:
        small.expect_one("small-30b-a3b")
    for part in (
        "Some GPU has 24.0 GB, 23.0 of them free",
        "expected 67.4 free",
        "60.0 GB of weights",
        "--config",
    ):
        assert part in str(refused.value)
    Room("Just enough", 68 * GB, 68 * GB, weights=60 * GB, session=2 * GB).expect_one("it")


@pytest.mark.parametrize(
    ("sessions", "sizes"),
    [(8, (1, 4, 8)), (100, (1, 4, 8)), (4, (1, 4)), (6, (1, 4, 6)), (1, (1,)), (2, (1, 2))],
)
def test_buckets_end_with_what_fits(sessions: int, sizes: tuple[int, ...]) -> None:
    assert buckets_for(sessions, (4, 1, 8)) == sizes


P99_MS = {1: 20.0, 4: 30.0, 8: 60.0, 16: 110.0}


@pytest.mark.parametrize(
    ("groups", "deadline_ms", "most", "sessions"),
    [
        (1, 100, 99, 8),  # 16 take too long, and 9 are stepped as 16 are
        (1, 110, 99, 16),
        (1, 110, 12, 12),
        (2, 100, 99, 16),  # 60 + 60
        (4, 100, 99, 17),  # 60 + 3 x 30 are within the turn's 160, two of 60 and two of 30 are not
        (1, 19, 99, 0),
        (8, 100, 99, 8),  # 8 x 20 are all of it
    ],
)
def test_the_most_sessions_whose_steps_keep_deadline_and_turn(
    groups: int, deadline_ms: float, most: int, sessions: int
) -> None:
    assert held(P99_MS, groups, deadline_ms, most) == sessions
