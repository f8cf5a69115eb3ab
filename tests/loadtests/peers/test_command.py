"""Figures of programs beside ours: the same ones for all, by real calls."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from loadtests.peers import command
from loadtests.peers.command import PEERS, Plan, figures_of

TOLD = {
    "calls": 4, "answered": 4, "cpu_percent_per_call": {"total": 0.5}, "rss_mb_per_call": 0.2, "gap_ms": 20.0,
    "active_ms": 2_000.0, "delay_ms": {"p50": -100.0, "p99": -80.0, "max": 1.0, "growth": 0.1},
    "setup_ms": {"p50": 3.0},
}  # fmt: skip


def test_delay_is_that_of_the_echo_and_a_core_has_so_many_calls() -> None:
    figures = figures_of(PEERS["sip/sipp"], TOLD)
    assert (figures["echo_ms_p50"], figures["echo_ms_p99"], figures["echo_ms_max"]) == (100.0, 120.0, 201.0)
    assert figures["calls_a_core"] == 200.0 and figures["not_heard_percent"] == 1.0


def test_what_was_not_measured_is_none() -> None:
    nothing = TOLD | {
        "cpu_percent_per_call": None,
        "delay_ms": dict.fromkeys(("p50", "p99", "max", "growth")),
    }
    figures = figures_of(PEERS["sip/sipp"], nothing | {"active_ms": 0.0})
    assert figures["calls_a_core"] is figures["echo_ms_p50"] is figures["not_heard_percent"] is None


def test_an_operators_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match="sofa: expected some of sip/microturn, "):
        Plan(("sofa",), 1, 1, 1.0, lab=False)
    with pytest.raises(ValueError, match="must be positive"):
        Plan(("sip/sipp",), 0, 1, 1.0, lab=False)


@pytest.mark.skipif(bool(PEERS["sip/sipp"].missing()), reason="sipp is not installed")
@pytest.mark.parametrize(
    ("name", "least_ms"), [("sip/sipp", 0), pytest.param("webrtc/aiortc-relay", 20, marks=pytest.mark.long)]
)
def test_real_calls_at_programs_that_are_not_ours(name: str, least_ms: int, tmp_path: Path) -> None:
    """A telephone program and a browser's server: heard, and later than nothing."""
    plan = Plan((name,), sip_calls=2, webrtc_calls=1, seconds=2.0, lab=False)
    result = command.run(plan, "peers", tmp_path)
    figures = result["peers"][name]
    assert figures["answered"] == figures["calls"]
    assert least_ms < figures["echo_ms_p50"] < 2_000
    with (tmp_path / "peers.csv").open() as file:
        rows = {row["peer"]: row for row in csv.DictReader(file)}
    assert rows.keys() == result["peers"].keys() and rows[name]["command"] == "peers"
    assert (tmp_path / "peers.png").stat().st_size > 1_000


def test_a_program_that_is_missing_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtests.peers.browsers.VENV", tmp_path)
    result = command.run(Plan(("webrtc/pipecat",), 1, 1, 1.0, lab=False), "peers", tmp_path)
    assert result["peers"] == {} and result["missing"] == {"webrtc/pipecat": "make setup-peers"}


def test_a_program_that_does_not_come_up_is_an_error(tmp_path: Path) -> None:
    from loadtests.peers.peer import program

    with pytest.raises(RuntimeError, match="before it was ready"), program(["true"], tmp_path, ready="ready"):
        pass
