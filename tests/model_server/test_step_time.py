from __future__ import annotations

import random

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
        ([(4, 100)], 4, 100),
        ([(4, 100)], 8, 200),
        ([(1, 100), (64, 730)], 33, 420),
        ([(1, 100), (64, 730)], 128, 1370),
    ],
)
def test_a_prediction_lies_on_the_line_of_what_was_measured(points, rows, expected):
    assert measured(*points).predict_ns(rows) == expected


def test_a_prediction_never_falls_with_rows():
    falling = measured((1, 500), (64, 300))
    assert falling.line.per_row_ns == 0
    assert [falling.predict_ns(rows) for rows in (1, 30, 64, 100)] == [500, 500, 500, 500]


def test_the_three_parts_are_found_again():
    step_time = StepTime(positions_of_row=500)
    for rows in (1, 2, 3, 5, 9, 17, 33):  # a cell each, and so
        for kept in (0, 40, 150, 300, 600):  # are these
            step_time.add(rows, 7_000 + 900 * rows + 2 * rows * kept, rows * kept)
    line = step_time.line
    assert line.fixed_ns == pytest.approx(7_000, rel=1e-6)
    assert line.per_row_ns == pytest.approx(900, rel=1e-6)
    assert line.per_position_ns == pytest.approx(2, rel=1e-6)
    assert step_time.predict_ns(40, positions=0) == 7_000 + 900 * 40
    assert step_time.predict_ns(100) == 7_000 + 900 * 100 + 2 * 100 * 500, "calls as long as they ever get"


def test_the_slow_steps_of_a_size_count_for_that_size():
    step_time = StepTime()
    for n in range(100):
        step_time.add(1, 1_000)
        step_time.add(64, 64_000 * (2 if n % 10 == 0 else 1))
    assert step_time.predict_ns(1) == 1_000
    assert step_time.predict_ns(64) == pytest.approx(128_000, rel=0.02)
    assert step_time.predict_ns(128) > 200_000


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


def test_predictions_for_all_rows_are_those_for_each():
    rng = random.Random(3)
    measured = StepTime(positions_of_row=120)
    assert measured.predict_up_to_ns(3) == [0, 0, 0, 0]
    for _ in range(400):
        rows = rng.randrange(1, 40)
        measured.add(
            rows, rng.randrange(1_000_000, 9_000_000) + 90_000 * rows, positions=rows * rng.randrange(1, 90)
        )
    assert measured.predict_up_to_ns(50) == [0, *(measured.predict_ns(rows) for rows in range(1, 51))]
