"""A small curve of a small network, and the rows that are kept of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.bench.__main__ import DATA, main  # noqa: E402
from model_server.bench.cost_curve import HISTORY_TURNS, _between, _ledger  # noqa: E402
from tests.model_server.engine.conftest import random_checkpoint  # noqa: E402


def test_the_true_limit_is_what_the_ledger_admits_by_what_was_measured() -> None:
    points = [{"calls": 1, "p99_ms": 20.0}, {"calls": 11, "p99_ms": 40.0}, {"calls": 21, "p99_ms": 80.0}]
    predict_ns = _between(points)
    assert [predict_ns(rows) / 1e6 for rows in (1, 6, 11, 16, 21, 22)] == [20, 30, 40, 60, 80, 84]
    assert _ledger(predict_ns) == (4 * 11, 60_000_000), "four steps of 40 ms are all that a turn has room for"
    assert _ledger(_between([{"calls": 4, "p99_ms": 200.0}]))[0] == 1, "one call always has room"


@pytest.mark.long
def test_a_curve_has_all_points_a_line_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = random_checkpoint(tmp_path)
    arguments = ["cost-curve", "--calls", "1", "2", "--steps", "2", "--speech", "2"]
    for _ in range(2):
        assert main([*arguments, "--checkpoint", str(checkpoint), "--out", str(tmp_path)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(p["turns"], p["calls"]) for p in result["points"]] == [
        (turns, calls) for turns in HISTORY_TURNS for calls in (1, 2)
    ]
    assert [point["calls"] for point in result["speech"]] == ([1, 2] if DATA.is_dir() else [])
    assert result["admitted"] > 0 and result["true_limit"] > 0
    histories = [point["positions_a_call"] for point in result["points"] if point["calls"] == 1]
    assert histories == sorted(histories) and histories[0] > 0
    assert all(0 < point["p50_ms"] <= 1000 for point in result["points"])
    assert result["fixed_ms"] + result["per_call_ms"] + result["per_1000_positions_ms"] > 0
    with (tmp_path / "cost-curve.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    assert (tmp_path / "cost-curve.png").stat().st_size > 1000
