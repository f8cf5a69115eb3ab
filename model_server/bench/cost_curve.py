"""Step time against calls and history, the line that is fitted to it, and where admission by prediction stops.

    history    so many calls that kept so many turns, on a quiet line; each step from the same memory
    speech     calls with full memories who hear recordings of people who say digits, each size in turns
    admission  the server's own ledger (`leases.py`) over what it measures at start-up (`calibrate`), over that and
               the steps of speech that it sees on the way up to its limit, and over the 99th percentiles of
               speech: how many calls it takes, and how many it ought to (the *true limit*)

Times are CPU time of the process's one thread, and sizes are measured in turns: what disturbs the machine disturbs
all of them. The true limit is that of speech; without recordings, of the quiet line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from media.chunk import PCM
from media.leases import Lease, Leased
from media.ring import META
from media.slots import SlotTable
from media.timebase import MODEL_HZ, NS_PER_MS, TURN_NS, TURN_SAMPLES
from model_server.batch import Batch
from model_server.bench.many_calls import recordings
from model_server.calibration import calibrate
from model_server.engine.digits import DigitsEngine
from model_server.leases import Leases
from model_server.step_time import StepTime

HISTORY_TURNS = (4, 30, 80)
"""After the last one every ring of `digits` is full."""
GROUPS, SLOTS = 4, 256
WARM_UP = 3
Steps = dict[int, list[tuple[int, int]]]
"""Of each size: how long a step took, ns, and the positions that its calls kept."""
STALL = 2
"""Times the median: what takes longer was in another's way, and counts as so much; as at start-up."""


def measure(
    checkpoint: Path, data: Path, calls: Sequence[int], steps: int, speech: int, plot: Path | None = None
) -> dict[str, Any]:
    """`steps` of each size and history, `speech` of each size among people; with a new engine."""
    engine = DigitsEngine(checkpoint)
    calls = sorted(calls)
    engine.warm(max(calls))
    predicted = calibrate(engine, GROUPS, SLOTS, time.thread_time_ns)
    fitted = StepTime(engine.most_positions)
    points = [point for turns in HISTORY_TURNS for point in _history(engine, turns, calls, steps, fitted)]
    full = [point for point in points if point["turns"] == HISTORY_TURNS[-1]]
    steps_of = _speech(engine, recordings(data), calls, speech) if data.is_dir() and speech else {}
    spoken = [{"calls": count, **_percentiles([ns for ns, _ in taken])} for count, taken in steps_of.items()]
    at_start, limit_ns = _ledger(predicted.predict_ns)
    admitted = _admitted_live(predicted, steps_of)
    true, _ = _ledger(_between(spoken or full))
    line = fitted.line
    result: dict[str, Any] = {
        "fixed_ms": round(line.fixed_ns / NS_PER_MS, 3),
        "per_call_ms": round(line.per_row_ns / NS_PER_MS, 4),
        "per_1000_positions_ms": round(1000 * line.per_position_ns / NS_PER_MS, 5),
        "step_limit_ms": limit_ns / NS_PER_MS,
        "groups": GROUPS,
        "admitted_at_start": at_start,
        "admitted": admitted,
        "true_limit": true,
        "admitted_of_true": round(admitted / true, 3) if true else None,
        "points": points,
        "speech": spoken,
    }
    print(f"{'calls':>6}{'turns kept':>12}{'median, ms':>12}{'p99, ms':>10}")
    for point in (*points, *spoken):
        kept = point.get("turns", "speech")
        print(f"{point['calls']:>6}{kept:>12}{point['p50_ms']:>12}{point['p99_ms']:>10}")
    print(f"admitted {admitted} calls in {GROUPS} groups ({at_start} at once), true limit {true}")
    if plot is not None:
        _draw(points, spoken, fitted, predicted, limit_ns, plot)
    return result


def _history(
    engine: DigitsEngine, turns: int, calls: Sequence[int], steps: int, fitted: StepTime
) -> list[dict[str, Any]]:
    """Each step of so many calls is taken by those that have the memory of one which kept exactly `turns`."""
    rng = np.random.default_rng(0)
    kept_so = max(calls)
    for slot in range(kept_so + 1):
        engine.open(slot, "interpret")
    engine.step(_batch(0, range(kept_so + 1), rng))  # they lie together
    for turn in range(1, turns):
        engine.step(_batch(turn, [kept_so], rng))
    taken: dict[int, list[int]] = {count: [] for count in calls}
    positions: dict[int, int] = {}
    for step in range(WARM_UP + steps):
        for count in calls:
            engine.repeat(kept_so)
            batch = _batch(1 + step, range(count), rng)
            begun_ns = time.thread_time_ns()
            results = engine.step(batch)
            if step >= WARM_UP:
                taken[count].append(time.thread_time_ns() - begun_ns)
                fitted.add(count, taken[count][-1], results.positions)
            positions[count] = results.positions // count
    for slot in range(kept_so + 1):
        engine.close(slot)
    return [
        {"turns": turns, "calls": count, "positions_a_call": positions[count], **_percentiles(taken[count])}
        for count in calls
    ]


def _admitted_live(predicted: StepTime, steps_of: Steps) -> int:
    """Calls come one by one and speak: as the server does, `predicted` learns from each step that may happen."""
    admitted, _ = _ledger(predicted.predict_ns)
    for count, taken in sorted(steps_of.items()):
        if count * GROUPS > admitted:
            break
        for step_ns, positions in taken:
            predicted.add(count, step_ns, positions)
        admitted, _ = _ledger(predicted.predict_ns)
    return admitted


def _speech(engine: DigitsEngine, voices: PCM, calls: Sequence[int], steps: int) -> Steps:
    """Calls of each size beside those of the others, all live; what is measured are full memories."""
    ends = np.cumsum([0, *calls])
    slots_of = {count: range(first, first + count) for count, first in zip(calls, ends, strict=False)}
    for slot in range(int(ends[-1])):
        engine.open(slot, "")
    taken: Steps = {count: [] for count in calls}
    for turn in range(HISTORY_TURNS[-1] + steps):
        for count, slots in slots_of.items():
            meta = np.zeros(count, META)
            meta["turn"], meta["played"] = turn, TURN_SAMPLES if turn else 0
            ats = ((np.array(slots) * 7 * MODEL_HZ) + turn * TURN_SAMPLES) % (len(voices) - TURN_SAMPLES)
            pcm_BS = np.stack([voices[at : at + TURN_SAMPLES] for at in ats])
            batch = Batch(turn * TURN_NS, np.array(slots), meta, pcm_BS)
            begun_ns = time.thread_time_ns()
            results = engine.step(batch)
            if turn >= HISTORY_TURNS[-1]:
                taken[count].append((time.thread_time_ns() - begun_ns, results.positions))
    for slot in range(int(ends[-1])):
        engine.close(slot)
    return taken


def _ledger(predict_ns: Callable[[int], int]) -> tuple[int, int]:
    """How many calls are admitted where steps take so long, and the limit of one step, ns."""
    table = SlotTable.create(SLOTS, rows=2, video=2, groups=GROUPS)
    leases, admitted = Leases(table, predict_ns), 0
    while isinstance(leases.lease(0, Lease(str(admitted)), 0), Leased):
        admitted += 1
    table.close()
    return admitted, leases.step_limit_ns


def _between(points: Sequence[dict[str, Any]]) -> Callable[[int], int]:
    """99th percentile of a step by straight lines between points; beyond the last as between the last two."""
    calls = np.array([point["calls"] for point in points], np.float64)
    ms = np.maximum.accumulate([point["p99_ms"] for point in points])
    slope = (ms[-1] - ms[-2]) / (calls[-1] - calls[-2]) if len(points) > 1 else ms[-1] / calls[-1]

    def predict_ns(rows: int) -> int:
        beyond = max(0.0, rows - float(calls[-1])) * float(slope)
        return round((float(np.interp(rows, calls, ms)) + beyond) * NS_PER_MS)

    return predict_ns


def _percentiles(taken_ns: Sequence[int]) -> dict[str, float]:
    ms = np.array(taken_ns) / NS_PER_MS
    ms = np.minimum(ms, STALL * np.median(ms))
    return {
        "p50_ms": round(float(np.median(ms)), 2),
        "p99_ms": round(float(np.quantile(ms, 0.99, method="lower")), 2),
    }


def _batch(turn: int, slots: Sequence[int], rng: np.random.Generator) -> Batch:
    meta = np.zeros(len(slots), META)
    meta["turn"], meta["played"] = turn, TURN_SAMPLES
    pcm = rng.normal(0, 20, (len(slots), TURN_SAMPLES)).astype(np.int16)
    return Batch(turn * TURN_NS, np.array(slots), meta, pcm)


def _draw(
    points: Sequence[dict[str, Any]],
    spoken: Sequence[dict[str, Any]],
    fitted: StepTime,
    predicted: StepTime,
    limit_ns: int,
    path: Path,
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    line = fitted.line
    for turns in HISTORY_TURNS:
        some = [point for point in points if point["turns"] == turns]
        calls = [point["calls"] for point in some]
        (drawn,) = axes.plot(calls, [p["p50_ms"] for p in some], "o", label=f"{turns} turns, median")
        along = [line.ns(p["calls"], p["calls"] * p["positions_a_call"]) / NS_PER_MS for p in some]
        axes.plot(calls, along, "-", color=drawn.get_color())
    if spoken:
        axes.plot([p["calls"] for p in spoken], [p["p99_ms"] for p in spoken], "x-", label="speech, p99")
    many = list(range(1, max(point["calls"] for point in points) + 1))
    ms = [predicted.predict_ns(n) / NS_PER_MS for n in many]
    axes.plot(many, ms, "k:", label="predicted, p99")
    axes.axhline(limit_ns / NS_PER_MS, color="grey", label="limit of a group's step")
    axes.set(xlabel="calls in a step", ylabel="step, ms of CPU", ylim=(0, None))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
