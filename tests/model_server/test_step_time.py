from __future__ import annotations

import pytest

from model_server.step_time import StepTime


def measured(*points: tuple[int, int]) -> StepTime:
    step_time = StepTime()
    for rows, ns in points:
        for _ in range(20):
            step_time.add(rows, ns)
    return step_time


@pytest.mark.parametrize(
    ("points", "rows", "expected"),
    [
        ([], 5, 0),
        ([(4, 100)], 2, 100),
        ([(4, 100)], 8, 200),
        ([(1, 100), (64, 730)], 33, 420),
        ([(1, 100), (64, 730)], 128, 1370),
        ([(1, 500), (64, 300)], 100, 500),
    ],
)
def test_a_prediction_lies_on_the_line_of_what_was_measured(points, rows, expected):
    assert measured(*points).predict_ns(rows) == expected


def test_one_stall_in_hundreds_does_not_decide():
    step_time = StepTime()
    for n in range(400):
        step_time.add(8, 10**9 if n == 200 else 1000)
    assert step_time.predict_ns(8) == 1000


def test_old_steps_are_forgotten():
    step_time = measured((8, 50_000))
    for _ in range(600):
        step_time.add(8, 1000)
    assert step_time.predict_ns(8) == 1000


def test_stalls_of_a_start_up_are_taken_for_twice_the_usual_step():
    step_time = measured((1, 1000))
    step_time.add(1, 10**9)
    assert step_time.predict_ns(1) == 1000
    few = StepTime()
    for ns in (1000, 1000, 10**9, 10**9):
        few.add(4, ns)
    few.add(4, 1100)
    few.forget_stalls()
    assert few.predict_ns(4) == 2200
    few.add(4, 3000)
    assert few.predict_ns(4) == 2200
