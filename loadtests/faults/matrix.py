"""The matrix as it is kept and shown: a row for each case, a table for people, bars of the worst gaps.

Knows finished outcomes and nothing of how they came about.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtests.faults.outcome import Outcome

SHOWN = ("calls", "ended_calls", "gap_ms_worst", "back_s_worst", "silence_ms_worst", "lag_change_ms_worst")
"""Figures with a column of their own, where a case has them; all of them are in the column `figures`."""


def row_of(outcome: Outcome, cases: int, promise: str = "") -> dict[str, Any]:
    """Of one case of a run of so many; `promise` is what has to hold, in words."""
    verdict = "skipped" if outcome.skipped else "no" if outcome.broken else "yes"
    return {
        "case": outcome.case,
        "promise": promise,
        "held": verdict,
        "broken": "; ".join(outcome.broken) or outcome.skipped,
        **{name: outcome.figures.get(name, "") for name in SHOWN},
        "gap_ms_others": round(_untouched(outcome.figures)) if "untouched" in outcome.figures else "",
        "cases": cases,
        "figures": json.dumps(outcome.figures),
    }


def table(outcomes: Sequence[Outcome]) -> str:
    """For people."""
    heads = ("case", "held", *SHOWN)
    rows = [heads, *(tuple(str(row_of(one, 0)[name]) for name in heads) for one in outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def result_of(outcomes: Sequence[Outcome], wheel: bool) -> dict[str, Any]:
    """The JSON object of the last line."""
    ran = [one for one in outcomes if not one.skipped]
    return {
        "cases": {o.case: {"held": not o.broken, "broken": o.broken, **o.figures} for o in ran},
        "held": [o.case for o in ran if not o.broken],
        "broken": [o.case for o in ran if o.broken],
        "skipped": {o.case: o.skipped for o in outcomes if o.skipped},
        "pjsua2": "wheel" if wheel else "built",
    }


def draw(path: Path, outcomes: Sequence[Outcome], title: str) -> bool:
    """The longest that one call missed of what was said, by case; False without matplotlib."""
    shown = [one for one in outcomes if isinstance(one.figures.get("gap_ms_worst"), int | float)]
    if not shown or importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.32 * len(shown)))
    places = range(len(shown), 0, -1)
    for name, colour, of in (
        ("calls that the fault is of", "tab:orange", _struck),
        ("all other calls", "tab:blue", _untouched),
    ):
        values = [of(one.figures) / 1e3 for one in shown]
        axes.barh(
            [at + (0.2 if of is _struck else -0.2) for at in places], values, 0.38, color=colour, label=name
        )
    labels = [f"{one.case}{'' if not one.broken else ' (broken)'}" for one in shown]
    axes.set_yticks(list(places), labels)
    axes.set_xscale("symlog", linthresh=0.02)
    axes.set(xlabel="longest that one call missed of what was said [s]", title=title)
    axes.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _untouched(figures: Mapping[str, Any]) -> float:
    name = "untouched_gap_ms_worst" if "untouched_gap_ms_worst" in figures else "gap_ms_worst"
    return float(figures[name]) if "untouched" in figures else 0.0


def _struck(figures: Mapping[str, Any]) -> float:
    is_all = "untouched" in figures and "untouched_gap_ms_worst" not in figures
    return 0.0 if is_all else float(figures["gap_ms_worst"])
