"""A small curve of a small network, and the rows that are kept of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.bench.__main__ import main  # noqa: E402
from model_server.bench.cost_curve import HISTORY_TURNS, _crossing  # noqa: E402
from tests.model_server.engine.conftest import random_checkpoint  # noqa: E402


@pytest.mark.parametrize(
    ("ms", "expected"),
    [([1.0, 3.0, 9.0], 12.5), ([1.0, 5.0, 6.0], 9.375), ([20.0, 30.0, 40.0], None), ([1.0, 2.0, 3.0], None)],
)
def test_the_limit_lies_between_two_points(ms: list[float], expected: float | None) -> None:
    assert _crossing([5, 10, 20], ms, limit_ms=4.5) == expected


def test_a_curve_has_all_points_a_line_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = random_checkpoint(tmp_path)
    arguments = ["cost-curve", "--calls", "1", "2", "--steps", "2"]
    for _ in range(2):
        assert main([*arguments, "--checkpoint", str(checkpoint), "--out", str(tmp_path)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(p["turns"], p["calls"]) for p in result["points"]] == [
        (turns, calls) for turns in HISTORY_TURNS for calls in (1, 2)
    ]
    histories = [point["positions_a_call"] for point in result["points"]]
    assert histories == sorted(histories) and histories[0] > 0
    assert all(0 < point["p50_ms"] <= 1000 for point in result["points"])
    assert result["fixed_ms"] + result["per_call_ms"] + result["per_1000_positions_ms"] > 0
    with (tmp_path / "cost-curve.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    assert (tmp_path / "cost-curve.png").stat().st_size > 1000
