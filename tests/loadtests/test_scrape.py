"""The load test of the metrics: calls make figures larger, never more; every part of the catalogue is in it."""

from __future__ import annotations

import pytest

from gateway import catalogue
from loadtests.scrape import Look, fed, main, time_reports

STATS = {"counters": {"turns_total": 5}, "gauges": {"free_calls": 9}, "histograms": {}}


def test_calls_make_no_series() -> None:
    looks = {calls: Look(fed(calls, STATS).text, 1) for calls in (0, 50, 500)}
    assert looks[0].series == looks[50].series == looks[500].series > 500
    assert looks[500].bytes > looks[0].bytes, "nothing was fed"
    text = fed(500, STATS).text().decode()
    missing = [
        family.name for family in catalogue.families("gateway") if f"# TYPE {family.name} " not in text
    ]
    assert not missing
    assert 'microturn_call_mos_count{door="telephone"} 500.0' in text
    assert 0 < time_reports(200) < 1_000


def test_slips_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--calls", "1"], ["--live", "500"], ["--looks", "0"]):
        assert main(wrong) == 2
    assert "--live 500" in capsys.readouterr().err
