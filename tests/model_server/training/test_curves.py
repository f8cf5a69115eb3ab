"""Curves out of a log with gaps."""

from __future__ import annotations

from pathlib import Path

from model_server.training.curves import draw, points


def test_cells_that_are_empty_are_no_points() -> None:
    rows = [
        {"step": "20", "tokens": "1.5", "heard_right": ""},
        {"step": "40", "tokens": "1", "heard_right": ".25"},
    ]
    assert points(rows, ("tokens", "heard_right")) == {
        "tokens": [(20, 1.5), (40, 1.0)],
        "heard_right": [(40, 0.25)],
    }
    assert points(rows[:1], ("tokens", "heard_right")) == {"tokens": [(20, 1.5)]}


def test_a_picture_is_drawn_of_any_log(tmp_path: Path) -> None:
    log, picture, sizes = tmp_path / "log.csv", tmp_path / "curves.png", []
    for rows in ("", "20,1.5,,\n40,1.0,0.25,0.2\n60,0.5,,\n"):
        log.write_text("step,tokens,heard_right,right read back\n" + rows)
        draw(log, picture)
        assert picture.read_bytes().startswith(b"\x89PNG")
        sizes.append(picture.stat().st_size)
    assert sizes[0] < sizes[1]
