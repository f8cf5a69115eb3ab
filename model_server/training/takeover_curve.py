"""How long it waits against how often it breaks in, where nobody said how many digits will come.

A point for each rhythm of the callers: whoever pauses for a second between digits has to be waited for longer than
who never does. The lower left corner would be a partner who knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from model_server.training.scores import Figures

LATENCY, TAKE_OVER = "latency_p50_s_at_", "take_over_at_"


def points(uncounted: Figures) -> dict[str, tuple[float, float]]:
    """Pause in s, as written -> (seconds from the end of the string to the answer, share of calls broken into)."""
    found = {}
    for name, seconds in uncounted.items():
        pause = name.removeprefix(LATENCY)
        share = uncounted.get(TAKE_OVER + pause)
        if name != pause and seconds is not None and share is not None:
            found[pause] = (float(seconds), float(share))
    return found


def draw(figures: Mapping[str, Figures], path: Path) -> bool:
    """A picture of the curve; False where there is nothing to draw."""
    line = points(figures.get("uncounted", {}))
    if not line:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5, 3.5), constrained_layout=True)
    axis.plot(*zip(*line.values(), strict=True), marker="o", linewidth=1)
    for pause, point in line.items():
        axis.annotate(f"pauses of {pause} s", point, textcoords="offset points", xytext=(6, 6), fontsize=8)
    axis.set_xlabel("answer after the end of the string, s (median)")
    axis.set_ylabel("calls with an answer inside the string")
    axis.set_xlim(left=0.0)
    axis.set_ylim(-0.03, 1.0)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return True
