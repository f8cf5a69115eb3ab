"""Whether anything grows: lines through what processes hold."""

from __future__ import annotations

import numpy as np
import pytest

from loadtests.soak import LEAST_ROUNDS, MOST_MB_AN_HOUR, Plan, Round, figures, slope


def rounds(mb_an_hour: float, noise: float, count: int = 40) -> list[Round]:
    chance = np.random.default_rng(3)
    told = {
        "sip": {
            "calls": 2, "answered": 2, "delay_ms": {"p99": 30.0}, "turns": {"total": 1_000, "missed": 1}
        }
    }  # fmt: skip
    return [
        Round(
            60.0 * number,
            {"gateway": 50.0 + mb_an_hour * number / 60 + float(chance.normal(0, noise)), "up": 20.0},
            told,
        )
        for number in range(count)
    ]


def test_the_slope_and_its_error_are_those_of_least_squares() -> None:
    at = np.array([0.0, 1.0, 2.0, 3.0])
    mean, error = slope(at, np.array([1.0, 3.0, 5.0, 7.0]))
    assert mean == pytest.approx(2.0) and error == pytest.approx(0.0, abs=1e-9)
    mean, error = slope(at, np.array([0.0, 1.0, 0.0, 1.0]))
    assert (mean, error) == (pytest.approx(0.2), pytest.approx(0.2828, abs=1e-3))


@pytest.mark.parametrize(
    ("mb_an_hour", "noise", "leaks"),
    [(0.0, 0.5, []), (20.0, 0.5, ["gateway"]), (0.9 * MOST_MB_AN_HOUR, 0.0, []), (3.0, 8.0, [])],
)
def test_a_leak_is_what_goes_up_by_more_than_chance_and_a_megabyte_an_hour(
    mb_an_hour: float, noise: float, leaks: list[str]
) -> None:
    found = figures(rounds(mb_an_hour, noise))
    assert found["leaks"] == leaks and found["mb_an_hour"]["up"] == 0.0
    assert found["rounds"] == 40 and found["calls"] == 80 and found["turns_missed_percent"] == 0.1


def test_few_rounds_say_nothing() -> None:
    with pytest.raises(RuntimeError, match="at least 8 are needed"):
        figures(rounds(0.0, 0.0, LEAST_ROUNDS - 1))


def test_a_plan_without_calls_is_an_operators_mistake() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Plan(1.0, 0, 0, 1.0, "echo")
