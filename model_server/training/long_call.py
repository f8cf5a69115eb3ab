"""Calls of half an hour: whether the last minute is as good as the first.

The caller gives one string of digits after another (unseen speakers, the count known). Each string with its answer
is one window; accuracy and step time are of the windows of the first and of the last minute.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from media.timebase import MODEL_HZ, TURN_SAMPLES
from model_server.engine import Engine
from model_server.training import cases
from model_server.training.cases import Case
from model_server.training.mouth import table_of
from model_server.training.reading import Reader
from model_server.training.rehearsal import AT_ONCE, Heard, rehearse
from model_server.training.scores import Read, accuracy, quantile
from model_server.training.voice_table import load_voice

MINUTE_S = 60.0


class _Timed:
    """The engine, with a clock around its steps."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.name = engine, engine.name
        self.open, self.close = engine.open, engine.close
        self.steps_s: list[float] = []

    def step(self, batch: Any) -> Any:
        begun_s = time.perf_counter()
        results = self._engine.step(batch)
        self.steps_s.append(time.perf_counter() - begun_s)
        return results


def last(checkpoint: Path, minutes: float, data: Path, calls: int = AT_ONCE) -> dict[str, Any]:
    """So many calls of so many minutes, in one batch."""
    from model_server.engine.digits import DigitsEngine

    if minutes < 2:
        raise ValueError(f"--minutes {minutes}: expected 2 or more, a first and a last one")
    strings = cases.of(["paused"], 32, data)
    engine = _Timed(DigitsEngine(checkpoint))
    long = [joined(strings, number, minutes * MINUTE_S) for number in range(calls)]
    voice = load_voice()
    reader = Reader(table_of(dict(zip(voice.words, voice.sounds, strict=True))))
    first: list[Read] = []
    final: list[Read] = []
    for (_, parts), heard in zip(
        long, rehearse(cast("Engine", engine), [case for case, _ in long]), strict=True
    ):
        for start_s, part in parts:
            inside = (first, start_s < MINUTE_S), (final, start_s >= (minutes - 1) * MINUTE_S)
            for kept, wanted in inside:
                if wanted:
                    kept.append(window(heard, start_s, part, reader))
    turns = round(MINUTE_S * MODEL_HZ) // TURN_SAMPLES
    of_first, of_last = engine.steps_s[1:turns], engine.steps_s[-turns:]
    return {
        "minutes": minutes, "calls": calls, "strings": [len(first), len(final)],
        "accuracy_first_minute": accuracy(first), "accuracy_last_minute": accuracy(final),
        "step_p50_ms": [round(1000 * (quantile(of, 0.5) or 0.0), 2) for of in (of_first, of_last)],
    }  # fmt: skip


def joined(strings: list[Case], number: int, seconds: float) -> tuple[Case, list[tuple[float, Case]]]:
    """One call out of strings in an order of its own, and where each begins."""
    order = np.random.default_rng([11, number])
    parts: list[tuple[float, Case]] = []
    samples = 0
    while samples < seconds * MODEL_HZ:
        part = strings[int(order.integers(len(strings)))]
        parts.append((samples / MODEL_HZ, part))
        samples += len(part.caller)
    pcm = np.concatenate([part.caller for _, part in parts])[: round(seconds * MODEL_HZ)]
    pcm = pcm[: len(pcm) // TURN_SAMPLES * TURN_SAMPLES]
    whole = [(at_s, part) for at_s, part in parts if round(at_s * MODEL_HZ) + len(part.caller) <= len(pcm)]
    return Case("paused", f"call {number}", strings[0].persona, pcm, (), ()), whole


def window(heard: Heard, start_s: float, part: Case, reader: Reader) -> Read:
    """What was said while the caller said this string and waited."""
    start = round(start_s * MODEL_HZ)
    pcm = heard.pcm[start : start + len(part.caller)]
    return Read(Heard(part, pcm), reader.read(pcm))
