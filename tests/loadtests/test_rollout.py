"""A rolling restart of the chart's gateways, small; loadtests/results/rollout.csv has the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.chart.release import lacks
from loadtests.rollout import Plan, main, run


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.skipif(bool(lacks()), reason=f"not installed: {lacks()}")
def test_no_call_is_dropped_or_refused_while_gateways_are_restarted(tmp_path: Path) -> None:
    quick = ("drain.preStopSeconds=1", "drain.minReadySeconds=3", "edge.probeSeconds=1")
    result = run(Plan(calls=4, gateways=2, least_s=3.0, most_s=6.0, seed=1, values=quick), "a test", tmp_path)
    assert result["live_at_begin"] >= 3 and result["placed_meanwhile"] >= 10
    assert (result["dropped"], result["refused"]) == (0, 0), result["statuses"]
    assert result["records"] == {"over": result["placed"]}, "every one was written down as ended in order"
    assert [one["killed"] for one in result["restarts"].values()] == [0, 0]
    went = result["new_calls"]
    assert set(went["gateway-1 drains"]) == set(went["gateway-1 is gone"]) == {"gateway-0"}
    assert set(went["gateway-0 drains"]) == set(went["gateway-0 is gone"]) == {"gateway-1'"}
    assert result["setup_ms"]["max"] < 2000, "nobody waited for a gateway that is gone"
    assert (tmp_path / "rollout.csv").read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["--calls", "0"], "1 to 200"),
        (["--gateways", "1"], "nobody who takes its new calls"),
        (["--least", "9", "--most", "8"], "least <= most"),
        (["--set", "drain.seconds"], "NAME=VALUE"),
    ],
)
def test_slips_are_refused(argv: list[str], wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert wanted in capsys.readouterr().err
