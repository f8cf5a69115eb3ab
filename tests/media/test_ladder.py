"""The ladder's rule and its hysteresis, in virtual time."""

from __future__ import annotations

import numpy as np
import pytest

from media.ladder import BAD_LOSS, CAMERA, GOOD_LOSS, LAST, OPUS_BIT_S, UP_NS, Ladder, Line
from media.timebase import NS_PER_S


def rungs(losses: list[float], trips_ms: list[float | None] | None = None, every_s: int = 1) -> list[int]:
    """After each report."""
    ladder, out = Ladder(), []
    for at, loss in enumerate(losses):
        before = ladder.rung
        changed = ladder.update(loss, trips_ms[at] if trips_ms else 40.0, at * every_s * NS_PER_S)
        assert changed == (ladder.rung != before) and abs(ladder.rung - before) <= 1
        assert ladder.rung == ladder.downs - ladder.ups
        out.append(ladder.rung)
    return out


def test_a_line_that_loses_goes_down_rung_by_rung_and_comes_up_slowly() -> None:
    path = rungs([0.3] * 12 + [0.0] * 60)
    assert path.index(1) <= 4 and path.index(LAST) <= 10
    left = path.index(LAST - 1, path.index(LAST))
    assert left - 12 >= UP_NS // NS_PER_S
    assert path[-1] == 0 and path[left + 9] == LAST - 1


@pytest.mark.parametrize("every_s", [1, 5])
def test_reports_that_come_seldom_do_as_much(every_s: int) -> None:
    path = rungs([0.3] * (20 // every_s), every_s=every_s)
    assert path[-1] == LAST


def test_one_bad_second_and_usual_loss_change_nothing() -> None:
    assert set(rungs(([0.0] * 20 + [0.3]) * 10)) == {0}
    losses = [0.05 + 0.04 * (at % 2) for at in range(100)]  # between the two thresholds
    assert GOOD_LOSS < min(losses) < max(losses) < BAD_LOSS
    assert set(rungs(losses)) == {0}
    assert set(rungs([0.3] * 12 + losses)[20:]) == {LAST}  # nor does it come up


def test_a_round_trip_that_grows_is_a_line_that_is_full() -> None:
    trips: list[float | None] = [40.0] * 5 + [500.0] * 10 + [None] * 5 + [60.0] * 60
    path = rungs([0.0] * len(trips), trips)
    assert path[4] == 0 and path[14] == LAST and path[-1] == 0
    assert set(rungs([0.0] * 50, [600.0] * 50)) == {0}  # far away is not full


def test_a_line_that_swings_does_not_swing_the_call() -> None:
    rng = np.random.default_rng(7)
    path = rungs([float(x) for x in rng.choice([0.0, 0.25], 600)])
    assert sum(a != b for a, b in zip(path, path[1:], strict=False)) <= 6


def test_each_way_gives_up_what_it_has() -> None:
    line = Line()
    assert (line.camera, line.opus_bit_s, line.is_weak) == (CAMERA[0], OPUS_BIT_S[0], False)
    for second in range(12):
        line.inward.update(0.4, None, second * NS_PER_S)
    assert line.camera.frames == 0 and line.is_weak and line.opus_bit_s == OPUS_BIT_S[0]
    assert line.counts()["line_in_downs"] == LAST and line.counts()["line_out_downs"] == 0
