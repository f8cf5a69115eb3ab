"""The curve of latency against take-over."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_server.training.takeover_curve import draw, points

UNCOUNTED = {
    "accuracy": 0.8,
    "latency_p50_s": 0.9,
    "latency_p50_s_at_0.1": 0.8,
    "take_over_at_0.1": 0.0,
    "latency_p50_s_at_0.7": 1.25,
    "take_over_at_0.7": 0.25,
    "latency_p50_s_at_1.0": None,
    "take_over_at_1.0": 1.0,
}


def test_a_rhythm_that_was_never_answered_has_no_point() -> None:
    assert points(UNCOUNTED) == {"0.1": (0.8, 0.0), "0.7": (1.25, 0.25)}


def test_it_is_drawn_where_there_is_something_to_draw(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert draw({"uncounted": UNCOUNTED}, tmp_path / "a.png") and (tmp_path / "a.png").stat().st_size > 1000
    assert not draw({"connected": {"accuracy": 0.8}}, tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()
