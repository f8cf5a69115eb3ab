"""The curves of a training run, out of its log."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

PANELS = (
    ("nats a token", ("tokens", "validation_tokens")),
    ("nats a 50 ms heard", ("frames", "validation_frames")),
    ("sound", ("sound", "validation_sound")),
    ("share, unseen speakers", ("heard_right", "said_right", "false_events")),
    ("events right, by skill", ()),
)
SKILL = "right "


def draw(log: Path, picture: Path) -> None:
    """Over the steps: what is made smaller, and how many events were right, in all and by skill."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    skills = tuple(name for name in rows[0] if name.startswith(SKILL)) if rows else ()
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(20, 3.5), constrained_layout=True)
    for axis, (label, names) in zip(axes, PANELS, strict=True):
        lines = points(rows, names or skills)
        for name, line in lines.items():
            axis.plot(*zip(*line, strict=True), label=name.removeprefix(SKILL).replace("_", " "), linewidth=1)
        axis.set_xlabel("step")
        axis.set_title(label)
        if lines:
            axis.legend(frameon=False, fontsize=7)
    figure.savefig(picture, dpi=100)
    pyplot.close(figure)


def points(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of those of the columns that have any."""
    found = {name: [(int(row["step"]), float(row[name])) for row in rows if row.get(name)] for name in names}
    return {name: line for name, line in found.items() if line}
