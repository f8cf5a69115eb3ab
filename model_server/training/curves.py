"""The curves of a training run, out of its log."""

from __future__ import annotations

import csv
from pathlib import Path

PANELS = (
    ("nats a token", ("tokens", "validation_tokens")),
    ("sound", ("sound", "validation_sound")),
    ("share", ("events_right", "false_events")),
)


def draw(log: Path, picture: Path) -> None:
    """Three panels over the steps: tokens, sound, and how many events were right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(12, 3.5), constrained_layout=True)
    for axis, (label, names) in zip(axes, PANELS, strict=True):
        for name in names:
            points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
            if points:
                axis.plot(*zip(*points, strict=True), label=name.replace("_", " "), linewidth=1)
        axis.set_xlabel("step")
        axis.set_title(label)
        axis.legend(frameon=False)
    figure.savefig(picture, dpi=100)
    pyplot.close(figure)
