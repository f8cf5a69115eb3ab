"""A call of four hours: whether its memory, its step time and its answers are those of a young one.

All calls hear a minute of strings of digits. The old ones are then aged by hours, and all hear the same minute
again, young and old turn by turn in turns, so that what disturbs the machine disturbs both. What was said before is
the same, too, so step times are compared turn by turn, and answers string by string.

Aged is: positions are counted on as far as hours bring them (`DigitsEngine.age`), whole rounds of the rings, which
hold what they held. So the last minute is computed at the positions of the fourth hour, over rings that came round,
with the log scaling of far positions; what was said in between, which the rings would have forgotten, is not heard.
`whole` hears it: that minute, over and over, as long as that takes; then memory is that of hours, too.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from media.timebase import MODEL_HZ, TURN_SAMPLES
from model_server.batch import Batch, Results
from model_server.engine import Engine
from model_server.engine.digits import DigitsEngine
from model_server.training import cases
from model_server.training.cases import Case
from model_server.training.long_call import joined, window
from model_server.training.mouth import table_of
from model_server.training.reading import Reader
from model_server.training.rehearsal import Rehearsal
from model_server.training.scores import Read, accuracy
from model_server.training.voice_table import load_voice

TURNS_A_HOUR = 3600 * MODEL_HZ // TURN_SAMPLES
POSITIONS_A_TURN = 8
MOST_GROWTH = 0.05
"""Of a step, from the young calls to the old ones."""
MOST_FORGOTTEN = 0.05
"""Of the accuracy."""
MOST_GROWTH_MB = 4.0
"""Of the process, once all calls are there: the heap's own to and fro."""
STRINGS = 32


class _Timed:
    """The engine, with a clock around its steps: CPU time of this thread."""

    def __init__(self, engine: DigitsEngine) -> None:
        self._engine, self.name = engine, engine.name
        self.open, self.close = engine.open, engine.close
        self.steps_ms: list[float] = []

    def step(self, batch: Batch) -> Results:
        begun_ns = time.thread_time_ns()
        results = self._engine.step(batch)
        self.steps_ms.append((time.thread_time_ns() - begun_ns) / 1e6)
        return results


def measure(
    checkpoint: Path,
    data: Path,
    hours: float,
    minute_s: float,
    calls: int,
    *,
    whole: bool = False,
    plot: Path | None = None,
) -> dict[str, Any]:
    """So many old calls, and as many young ones; a minute has `minute_s` seconds."""
    engine = DigitsEngine(checkpoint)
    engine.warm(calls)
    strings = cases.of(["paused"], STRINGS, data)
    long = [joined(strings, number, minute_s) for number in range(calls)]
    heard = [case for case, _ in long]
    turns, minutes = heard[0].turns, max(1, round(hours * 3600 / minute_s)) if whole else 1
    kept: list[int] = []
    resident: list[float] = []

    def minute(first_slot: int, number: int) -> None:
        rehearsal = Rehearsal(cast("Engine", engine), heard, first_slot=first_slot, first_turn=number * turns)
        if not number:
            rehearsal.open()
        for turn in range(turns):
            rehearsal.step(turn)
        _look(engine, kept, resident)

    minute(calls, 0)
    resident.clear()  # the other half of the calls is not there yet
    for number in range(minutes):
        minute(0, number)
    if not whole:
        for slot in range(calls):
            engine.age(slot, round(hours * TURNS_A_HOUR) * POSITIONS_A_TURN)
    young_engine, old_engine = _Timed(engine), _Timed(engine)
    young = Rehearsal(cast("Engine", young_engine), heard, first_slot=calls, first_turn=turns)
    old = Rehearsal(cast("Engine", old_engine), heard, first_slot=0, first_turn=minutes * turns)
    for turn in range(turns):
        for each in (young, old) if turn % 2 else (old, young):
            each.step(turn)
        if not turn:
            resident.append(_resident_mb())
    _look(engine, kept, resident)
    young_ms, old_ms = (np.array(each.steps_ms) for each in (young_engine, old_engine))
    first, last = (_read(each, long) for each in (young, old))
    result = _result(young_ms, old_ms, first, last, kept, resident) | {
        "hours": hours, "heard": "whole" if whole else "aged", "calls": calls, "minute_s": minute_s
    }  # fmt: skip
    for line in _table_lines(result):
        print(line)
    if plot is not None:
        _draw(result, young_ms, old_ms, resident, plot)
    return result


def _look(engine: DigitsEngine, kept: list[int], resident: list[float]) -> None:
    gc.collect()
    kept.append(engine.kept_bytes_a_call)
    resident.append(_resident_mb())


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _read(rehearsal: Rehearsal, long: Sequence[tuple[Case, list[tuple[float, Case]]]]) -> list[Read]:
    """What was said to each whole string."""
    voice = load_voice()
    reader = Reader(table_of(dict(zip(voice.words, voice.sounds, strict=True))))
    return [
        window(heard, start_s, part, reader)
        for heard, (_, parts) in zip(rehearsal.heard(), long, strict=True)
        for start_s, part in parts
    ]


def _result(
    young_ms: Any, old_ms: Any, first: list[Read], last: list[Read], kept: list[int], resident: list[float]
) -> dict[str, Any]:
    """What was measured, and what of it holds. `resident`: once a minute, the last two in the last minute."""
    grew = np.quantile(old_ms / young_ms, (0.25, 0.5, 0.75)) - 1
    right = accuracy(first) or 0.0, accuracy(last) or 0.0
    warm, in_last_mb = resident[: len(resident) - 2], resident[-1] - resident[-2]
    grew_mb = max(warm[-1] - warm[0], 0.0) + max(in_last_mb, 0.0)
    return {
        "strings": len(first),
        "accuracy_young": round(right[0], 3),
        "accuracy_old": round(right[1], 3),
        "same_answers": round(
            sum(a.words == b.words for a, b in zip(first, last, strict=True)) / max(1, len(first)), 3
        ),
        "steps": len(young_ms),
        "step_p50_ms": [round(float(np.median(of)), 2) for of in (young_ms, old_ms)],
        "step_grew": round(float(grew[1]), 3),
        "step_grew_quartiles": [round(float(grew[at]), 3) for at in (0, 2)],
        "kept_bytes_a_call": [min(kept), max(kept)],
        "resident_grew_mb": round(grew_mb, 1),
        "holds": {
            "memory": min(kept) == max(kept) and grew_mb <= MOST_GROWTH_MB,
            "step_time": float(grew[1]) <= MOST_GROWTH,
            "answers": right[1] >= right[0] - MOST_FORGOTTEN,
        },
    }


def _table_lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"{'':24}{'young':>14}{'old':>14}{'holds':>8}"
    right = [result["accuracy_young"], result["accuracy_old"]]
    grew_mb = ["", f"+{result['resident_grew_mb']}"]
    for name, values, holds in (
        ("accuracy", right, "answers"),
        ("step, CPU, median, ms", result["step_p50_ms"], "step_time"),
        ("kept a call, bytes", result["kept_bytes_a_call"], "memory"),
        ("the process, MB", grew_mb, "memory"),
    ):
        told = "yes" if result["holds"][holds] else "no"
        yield f"{name:24}{values[0]!s:>14}{values[1]!s:>14}{told:>8}"
    low, high = result["step_grew_quartiles"]
    yield f"a step grew by {result['step_grew']:+.1%} (turn by turn: median; quartiles {low:+.1%}, {high:+.1%})"
    yield f"{result['same_answers']:.0%} of {result['strings']} strings got the same answer in both"


def _draw(result: dict[str, Any], young_ms: Any, old_ms: Any, resident: list[float], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (steps, memory) = pyplot.subplots(1, 2, figsize=(9, 4))
    shares = np.linspace(0, 1, len(young_ms))
    steps.plot(np.sort(young_ms), shares, label="young")
    steps.plot(np.sort(old_ms), shares, label=f"after {result['hours']:g} hours")
    steps.set(xlabel=f"step of {result['calls']} calls, ms of CPU", ylabel="share of steps", ylim=(0, 1))
    steps.legend()
    hours = np.linspace(0, result["hours"], len(resident) - 2)
    memory.plot(hours, resident[:-2], "o-" if len(resident) < 20 else "-")
    memory.set(xlabel="hours", ylabel="resident, MB", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
