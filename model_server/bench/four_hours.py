"""A call of four hours: whether its memory, its step time and its answers are those of its first minute.

The first minute is heard turn by turn; then the call is aged (`DigitsEngine.age`): its positions are counted on as
far as hours bring them, whole rounds of its rings, which hold what they held. So the last minute is computed at the
positions of the fourth hour, over rings that came round, with the log scaling of far positions; what was said in
between, which the rings would have forgotten, is not heard. `long_call.py` hears every turn, as long as that takes.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from media.timebase import MODEL_HZ, TURN_SAMPLES
from model_server.batch import Batch, Results
from model_server.engine import Engine
from model_server.engine.digits import DigitsEngine
from model_server.training import cases
from model_server.training.long_call import joined, window
from model_server.training.mouth import table_of
from model_server.training.reading import Reader
from model_server.training.rehearsal import rehearse
from model_server.training.scores import Read, accuracy
from model_server.training.voice_table import load_voice

TURNS_A_HOUR = 3600 * MODEL_HZ // TURN_SAMPLES
POSITIONS_A_TURN = 8


class _Aged:
    """The engine, whose calls grow old at one turn, and a clock around its steps."""

    def __init__(self, engine: DigitsEngine, at_turn: int, positions: int, warm_up: int) -> None:
        self._engine, self.name = engine, engine.name
        self.open, self.close = engine.open, engine.close
        self._at_turn, self._positions, self._warm_up = at_turn, positions, warm_up
        self.young_ms: list[float] = []
        self.old_ms: list[float] = []
        self.kept_bytes: list[int] = []
        self.resident_mb: list[float] = []

    def step(self, batch: Batch) -> Results:
        turn = int(batch.turns_B[0])
        if turn == self._at_turn:
            self._look()
            for slot in batch.slots_B:
                self._engine.age(int(slot), self._positions)
        begun_ns = time.thread_time_ns()
        results = self._engine.step(batch)
        taken_ms = (time.thread_time_ns() - begun_ns) / 1e6
        if turn >= self._at_turn:
            self.old_ms.append(taken_ms)
        elif turn >= self._warm_up:
            self.young_ms.append(taken_ms)
        self._look()
        return results

    def _look(self) -> None:
        self.kept_bytes.append(self._engine.kept_bytes_a_call)
        self.resident_mb.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(checkpoint: Path, data: Path, hours: float, minute_s: float, calls: int) -> dict[str, Any]:
    """So many calls at once; `minute_s` seconds of each are heard young, as many old."""
    engine = DigitsEngine(checkpoint)
    engine.warm(calls)
    young_turns = round(minute_s * MODEL_HZ) // TURN_SAMPLES
    positions = round(hours * TURNS_A_HOUR) * POSITIONS_A_TURN
    aged = _Aged(engine, young_turns, positions, warm_up=min(80, young_turns // 2))
    strings = cases.of(["paused"], 32, data)
    reader = Reader(_table())
    first: list[Read] = []
    last: list[Read] = []
    long = [joined(strings, number, 2 * minute_s) for number in range(calls)]
    for (_, parts), heard in zip(
        long, rehearse(cast("Engine", aged), [case for case, _ in long]), strict=True
    ):
        for start_s, part in parts:
            end_s = start_s + len(part.caller) / MODEL_HZ
            if end_s <= minute_s:
                first.append(window(heard, start_s, part, reader))
            elif start_s >= minute_s:
                last.append(window(heard, start_s, part, reader))
    young, old = (float(np.median(of)) for of in (aged.young_ms, aged.old_ms))
    steady = aged.resident_mb[len(aged.resident_mb) // 4 :]
    result = {
        "hours": hours, "calls": calls, "strings": [len(first), len(last)],
        "accuracy_first_minute": accuracy(first), "accuracy_last_minute": accuracy(last),
        "step_p50_ms": [round(young, 2), round(old, 2)], "step_grew": round(old / young - 1, 3),
        "kept_bytes_a_call": [min(aged.kept_bytes[1:]), max(aged.kept_bytes)],
        "resident_grew_mb": round(steady[-1] - steady[0], 1),
    }  # fmt: skip
    for line in _table_lines(result):
        print(line)
    return result


def _table() -> Any:
    voice = load_voice()
    return table_of(dict(zip(voice.words, voice.sounds, strict=True)))


def _table_lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"{'':24}{'first minute':>14}{'last minute':>14}"
    for name, values in (
        ("strings", result["strings"]),
        ("accuracy", [result["accuracy_first_minute"], result["accuracy_last_minute"]]),
        ("step, CPU, median, ms", result["step_p50_ms"]),
        ("kept a call, bytes", result["kept_bytes_a_call"]),
    ):
        yield f"{name:24}{values[0]!s:>14}{values[1]!s:>14}"
