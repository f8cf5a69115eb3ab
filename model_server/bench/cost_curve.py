"""Step time against calls and history, the line that is fitted to it, and where admission by that line stops.

The *true limit* is where the measured 99th percentile of a step, between two points of the curve, meets the limit
of a step (`leases.STEP_SHARE` of a group's part of a turn). Times are CPU time of the process's one thread: another
process on the machine changes them little. A call hears a quiet line; sound and tokens come on top (`step_times`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from media.ring import META
from media.timebase import NS_PER_MS, TURN_NS, TURN_SAMPLES
from model_server.batch import Batch
from model_server.engine.digits import DigitsEngine
from model_server.leases import STEP_SHARE
from model_server.step_time import StepTime

HISTORY_TURNS = (4, 30, 80)
"""After the last one every ring of `digits` is full."""
GROUPS = 4
WARM_UP = 3


def measure(checkpoint: Path, calls: Sequence[int], steps: int, plot: Path | None = None) -> dict[str, Any]:
    """All points, with a new engine."""
    engine = DigitsEngine(checkpoint)
    engine.warm(max(calls))
    step_time = StepTime(engine.most_positions)
    points = [
        point for turns in HISTORY_TURNS for point in _curve(engine, turns, sorted(calls), steps, step_time)
    ]
    limit_ns = int(STEP_SHARE * TURN_NS / GROUPS)
    full = [point for point in points if point["turns"] == HISTORY_TURNS[-1]]
    line = step_time.line
    admitted = next((n for n in range(1, 10_000) if step_time.predict_ns(n) > limit_ns), 10_000) - 1
    true = _crossing([p["calls"] for p in full], [p["p99_ms"] for p in full], limit_ns / NS_PER_MS)
    if plot is not None:
        _draw(points, step_time, limit_ns, engine.most_positions, plot)
    return {
        "fixed_ms": round(line.fixed_ns / NS_PER_MS, 3),
        "per_call_ms": round(line.per_row_ns / NS_PER_MS, 4),
        "per_1000_positions_ms": round(1000 * line.per_position_ns / NS_PER_MS, 5),
        "step_limit_ms": limit_ns / NS_PER_MS,
        "groups": GROUPS,
        "admitted_a_group": admitted,
        "true_limit_a_group": None if true is None else round(true, 1),
        "admitted_of_true": None if true is None else round(admitted / true, 3),
        "points": points,
    }


def _curve(
    engine: DigitsEngine, turns: int, calls: Sequence[int], steps: int, step_time: StepTime
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    engine.open(0, "interpret")
    for turn in range(turns):
        engine.step(_batch(turn, 1, rng))
    points, turn, opened = [], turns, 1
    for count in calls:
        for slot in range(opened, count):
            engine.open(slot, "interpret")
        opened = max(opened, count)
        taken = []
        for step in range(WARM_UP + steps):
            batch = _batch(turn, count, rng)
            if step == 1:
                engine.repeat(0)
            begun_ns = time.thread_time_ns()
            results = engine.step(batch)
            if step >= WARM_UP:
                taken.append(time.thread_time_ns() - begun_ns)
                step_time.add(count, taken[-1], results.positions)
            turn += 1
        kept = results.positions // count
        points.append({"turns": turns, "calls": count, "positions_a_call": kept, **_percentiles(taken)})
        print("  ".join(f"{name} {value}" for name, value in points[-1].items()), flush=True)
    for slot in range(opened):
        engine.close(slot)
    return points


def _percentiles(taken_ns: Sequence[int]) -> dict[str, float]:
    ms = np.array(taken_ns) / NS_PER_MS
    return {
        "p50_ms": round(float(np.median(ms)), 2),
        "p99_ms": round(float(np.quantile(ms, 0.99, method="lower")), 2),
    }


def _crossing(calls: Sequence[int], ms: Sequence[float], limit_ms: float) -> float | None:
    """Where the curve meets the limit, by straight lines between points; None when it does not."""
    for (x0, y0), (x1, y1) in zip(
        zip(calls, ms, strict=True), zip(calls[1:], ms[1:], strict=True), strict=False
    ):
        if y0 <= limit_ms < y1:
            return x0 + (limit_ms - y0) / (y1 - y0) * (x1 - x0)
    return None


def _batch(turn: int, count: int, rng: np.random.Generator) -> Batch:
    meta = np.zeros(count, META)
    meta["turn"], meta["played"] = turn, TURN_SAMPLES
    pcm = rng.normal(0, 20, (count, TURN_SAMPLES)).astype(np.int16)
    return Batch(turn * TURN_NS, np.arange(count), meta, pcm)


def _draw(
    points: Sequence[dict[str, Any]], step_time: StepTime, limit_ns: int, most: int, path: Path
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    line = step_time.line
    for turns in HISTORY_TURNS:
        some = [point for point in points if point["turns"] == turns]
        calls = [point["calls"] for point in some]
        (drawn,) = axes.plot(calls, [p["p50_ms"] for p in some], "o", label=f"{turns} turns, median")
        fitted = [line.ns(p["calls"], p["calls"] * p["positions_a_call"]) / NS_PER_MS for p in some]
        axes.plot(calls, fitted, "-", color=drawn.get_color())
    many = list(range(1, max(point["calls"] for point in points) + 1))
    axes.plot(
        many, [step_time.predict_ns(n) / NS_PER_MS for n in many], "k:", label="predicted 99th percentile"
    )
    axes.axhline(limit_ns / NS_PER_MS, color="grey", label="limit of a group's step")
    axes.set(xlabel="calls in a step", ylabel="step, ms of CPU", ylim=(0, None))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
