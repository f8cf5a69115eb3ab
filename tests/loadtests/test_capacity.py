"""How many calls a machine holds: when a step holds, and a small one for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loadtests.capacity import Plan, judged, run


def told(answered: int = 10, missed: int = 0, p99: float | None = 40.0, refused: int = 0) -> dict[str, Any]:
    return {
        "answered": answered, "refused": refused, "refused_with_retry_after": refused, "gap_ms": 0.0,
        "delay_ms": {"p99": p99}, "setup_ms": {"p99": 9.0}, "turns": {"total": 1_000, "missed": missed},
        "cpu_percent_per_call": {"total": 5.0},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (told(), ""),
        (told(answered=9, refused=1), "1 calls were not answered"),
        (told(missed=2), "0.20% of the turns were missed"),
        (told(missed=1), ""),
        (told(p99=101.0), "99 % came back within 101 ms"),
    ],
)
def test_a_step_holds_when_all_are_answered_in_time_and_heard(found: dict[str, Any], why: str) -> None:
    step = judged(10, {"sip": found})
    assert step["why"] == why and step["holds"] is (why == "")


def test_of_two_kinds_the_worse_counts_and_processes_count_once() -> None:
    step = judged(20, {"sip": told(), "webrtc": told(p99=90.0)})
    assert (step["answered"], step["delay_p99_ms"], step["cpu_percent"], step["holds"]) == (
        20,
        90.0,
        50.0,
        True,
    )


def test_calls_are_shared_among_the_kinds() -> None:
    load = Plan("mixed", 3, 9, 1.0, "echo").load(10)
    assert (load.sip, load.webrtc) == (6, 4)
    assert Plan("sip", 3, 9, 1.0, "echo").load(10).webrtc == 0
    with pytest.raises(ValueError, match="3 <= begin <= most"):
        Plan("sip", 2, 9, 1.0, "echo")


@pytest.mark.long
def test_calls_beyond_what_there_is_room_for_are_refused_and_the_others_heard(tmp_path: Path) -> None:
    result = run(Plan("mixed", 4, 4, 3.0, "echo"), "capacity", tmp_path)
    assert result["held"] == 4 and result["beyond"]["answered"] == 4
    assert result["beyond"]["refused"] == result["beyond"]["refused_with_retry_after"] == 2
    assert result["beyond"]["missed_percent"] == 0.0 and result["herd"]["answered"] == 4
    assert (tmp_path / "capacity.csv").exists() and (tmp_path / "capacity-mixed.png").exists()
