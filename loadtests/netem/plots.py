"""Plots of the lab: one of each profile, delay over time with what was lost of it, and one of all together."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Seconds, and ms of delay beyond what is nobody's fault."""


def draw_delay(
    path: Path, curves: Mapping[str, Sequence[Curve]], spells: Mapping[str, tuple[float, float]], title: str
) -> bool:
    """Delay of each 400 ms of speech; the bad spells shaded. False without matplotlib."""
    pyplot = _pyplot()
    if pyplot is None:
        return False
    figure, axes = pyplot.subplots(figsize=(10, 4))
    for colour, (name, parts) in zip(("C0", "C3", "C2"), curves.items(), strict=False):
        for index, (times_s, delays_ms) in enumerate(parts):
            label = name if index == 0 else None
            axes.plot(times_s, delays_ms, ".", markersize=3, color=colour, label=label)
    for name, (from_s, until_s) in spells.items():
        axes.axvspan(from_s, until_s, color="0.85", zorder=0)
        axes.annotate(name, (from_s, 0.97), xycoords=("data", "axes fraction"), va="top", fontsize=8)
    axes.set(xlabel="time of speaking [s]", ylabel="delay beyond the network's shortest [ms]", title=title)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right")
    _save(figure, path)
    return True


def draw_all(path: Path, rows: Mapping[str, Mapping[str, Any]], title: str) -> bool:
    """MOS and delay of every profile beside each other. False without matplotlib."""
    pyplot = _pyplot()
    if pyplot is None or not rows:
        return False
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(10, 7), sharex=True)
    names = list(rows)
    series = {
        "mos": [row.get("mos") for row in rows.values()],
        "mos_caller": [row.get("mos_caller") for row in rows.values()],
        "aiortc": [row.get("aiortc", {}).get("mos") for row in rows.values()],
    }
    series = {key: values for key, values in series.items() if any(values)}
    for number, (key, values) in enumerate(series.items()):
        places = np.arange(len(names)) + 0.4 * (number - (len(series) - 1) / 2)
        above.bar(places, [value or 0.0 for value in values], 0.4, label=key)
    ceiling = [rows[name].get("mos_clean") or np.nan for name in names]
    above.plot(range(len(names)), ceiling, "k_", markersize=20, label="mos_clean")
    above.set(ylabel="PESQ-MOS", ylim=(1, 5.2), title=title)
    above.legend(fontsize=8, loc="upper right", ncols=3)
    for key, mark in (("p50", "o"), ("p95", "^"), ("max", "_")):
        delays = [rows[name]["delay_ms"].get(key) for name in names]
        below.plot(
            range(len(names)), [np.nan if value is None else value for value in delays], mark, label=key
        )
    below.set(ylabel="delay beyond the network's shortest [ms]", ylim=(0, None))
    below.set_xticks(range(len(names)), names, rotation=40, ha="right")
    below.legend(fontsize=8)
    _save(figure, path)
    return True


def _pyplot() -> Any:
    if importlib.util.find_spec("matplotlib") is None:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    _pyplot().close(figure)
