"""Figures, rows and pictures of load tests."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from gateway.caller.analysis import Windows
from gateway.caller.report import CallReport, summarise_delay
from loadtests.processes import Usage
from loadtests.report import Costs, append_row, draw, figures, flatten, parse_turns, table, turns_between

NO_TURNS = {"total": None, "missed": None, "late": None}


def call(
    delays: list[float], *, status: int = 200, retry: int | None = None, gap_ms: float = 0
) -> CallReport:
    answered = status == 200
    windows = Windows(
        sent_ns=np.arange(len(delays), dtype=np.int64) * 200_000_000,
        delay_ms=np.array(delays),
        score=np.ones(len(delays)),
        judged=len(delays),
        active_ms=1000.0,
        gap_ms=gap_ms,
        gap_starts_ns=np.zeros(int(gap_ms // 20), dtype=np.int64),
    )
    return CallReport(
        uri="sip:x@h", codec="PCMU", status=status, reason="", retry_after_s=retry, ended_by="us",
        setup_ms=10.0 if answered else None, sent_packets=50, received_packets=50, lost_packets=1,
        duplicate_packets=0, reordered_packets=0, other_datagrams=0, send_errors=0, jitter_ms=0.5,
        longest_silence_ms=21.0, delay_ms=summarise_delay(windows) if answered else None, gap_ms=gap_ms,
        active_ms=1000.0 if answered else 0.0, concealed_ms=20.0, mos=4.0 if answered else None,
        windows=windows if answered else None, recording=None, rate_hz=8000,
    )  # fmt: skip


def test_figures_of_a_run() -> None:
    reports = [
        call([230.0] * 50),
        call([230.0] * 25 + [260.0] * 25, gap_ms=40),
        call([], status=503, retry=5),
        call([], status=486),
    ]
    costs = Costs(10.0, {"sip-worker": Usage(0.5, 1, 2), "model-server": Usage(0.1, 0, 1)}, grown_mb=3.0)
    result = figures(reports, costs, {"total": 100, "missed": 1, "late": 2})
    assert (result["answered"], result["refused"], result["refused_with_retry_after"]) == (2, 2, 1)
    assert result["statuses"] == {"200": 2, "503": 1, "486": 1}
    assert result["cpu_percent_per_call"] == {"model-server": 0.5, "sip-worker": 2.5, "total": 3.0}
    assert result["rss_mb_per_call"] == 1.5
    assert result["delay_ms"] == {
        "p50": 30.0, "p95": 60.0, "p99": 60.0, "max": 60.0, "growth": 30.0, "calls_grown": 1,
    }  # fmt: skip
    assert (result["gap_ms"], result["calls_with_gaps"]) == (40.0, 1)
    assert result["turns"] == {"total": 100, "missed": 1, "late": 2}
    assert result["setup_ms"]["p50"] == 10.0


def test_nothing_answered_is_all_none() -> None:
    result = figures([call([], status=503)], None, NO_TURNS)
    assert result["answered"] == 0
    assert result["cpu_percent_per_call"] is None
    assert result["rss_mb_per_call"] is None
    assert set(result["delay_ms"].values()) == {None, 0}  # no call grew
    assert table(result)


def test_turns_are_summed_over_labels_and_absent_ones_are_none() -> None:
    text = (
        "# HELP microturn_turns_total turns\n# TYPE microturn_turns_total counter\n"
        'microturn_turns_total{worker="0"} 10.0\nmicroturn_turns_total{worker="a } b"} 5\n'
        "microturn_turns_missed_total 2\nmicroturn_turns_missed_created 1.7e9\n"
    )
    turns = parse_turns(text)
    assert turns == {"total": 15, "missed": 2, "late": None}
    assert turns_between({"total": 5, "missed": None, "late": None}, turns) == {
        "total": 10,
        "missed": 2,
        "late": None,
    }
    assert turns_between(None, None) == NO_TURNS


def test_rows_are_appended_and_new_columns_come_last(tmp_path: Path) -> None:
    path = tmp_path / "results/sip.csv"
    append_row(path, flatten({"date": "d1", "delay_ms": {"p50": 1, "p99": None}}))
    append_row(path, {"date": "d2", "delay_ms.p50": 2, "delay_ms.p99": 3, "new": "a,b"})
    append_row(path, {"date": "d3"})
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["date", "delay_ms.p50", "delay_ms.p99", "new"]
    assert [row["date"] for row in rows] == ["d1", "d2", "d3"]
    assert [row["new"] for row in rows] == ["", "a,b", ""]


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    path = tmp_path / "sip-2.png"
    assert draw(path, [call([230.0, 231.0], gap_ms=40), call([], status=503)], "two calls")
    assert path.stat().st_size > 5000
    assert not draw(path, [call([], status=503)], "no call")
