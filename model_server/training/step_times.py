"""How long a step of the engine takes on one core, with the memory of every call full.

One call is heard out for `FULL_TURNS` in silence, which fills every ring; the others begin with a copy of its
memory. Percentiles are of `STEPS` silent steps, in ms: `wall` as a clock sees it, `cpu` as far as this process had
the core, which another one at work does not change (much). `kept_bytes_a_call` is what a call's sequence takes,
from its first turn on: it does not grow.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from media.ring import META
from media.timebase import TURN_NS, TURN_SAMPLES
from model_server.batch import Batch
from model_server.engine.digits import DigitsEngine

STEPS, WARM_UP = 60, 4
FULL_TURNS = 150
"""1,200 positions and more: a ring of a global layer has 1,024."""


def measure(checkpoint: Path, calls: Sequence[int]) -> dict[str, Any]:
    """For each number of calls, with products in float32 and in bfloat16."""
    rows = []
    for products in (torch.float32, torch.bfloat16):
        for count in calls:
            row = _measured(DigitsEngine(checkpoint, products=products), count)
            rows.append({"products": str(products).removeprefix("torch."), "calls": count, **row})
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    return {"checkpoint": str(checkpoint), "threads": torch.get_num_threads(), "step_ms": rows}


def _measured(engine: DigitsEngine, count: int) -> dict[str, float | int]:
    rng = np.random.default_rng(0)
    engine.open(0, "interpret")
    for turn in range(FULL_TURNS):
        engine.step(_batch(turn, 1, rng))
    for slot in range(1, count):
        engine.open(slot, "interpret")
    wall, cpu = [], []
    for turn in range(FULL_TURNS, FULL_TURNS + WARM_UP + STEPS):
        batch = _batch(turn, count, rng)
        if turn == FULL_TURNS + 1:
            engine.repeat(0)
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        engine.step(batch)
        wall.append((time.perf_counter() - wall_s) * 1000)
        cpu.append((time.thread_time() - cpu_s) * 1000)
    kept_bytes = engine.kept_bytes_a_call
    for slot in range(count):
        engine.close(slot)
    taken, used = np.array(wall[WARM_UP:]), np.array(cpu[WARM_UP:])
    return {
        "wall_p50_ms": round(float(np.median(taken)), 2),
        "wall_p99_ms": round(float(np.quantile(taken, 0.99)), 2),
        "cpu_min_ms": round(float(used.min()), 2),
        "cpu_p50_ms": round(float(np.median(used)), 2),
        "cpu_p50_ms_a_call": round(float(np.median(used)) / count, 3),
        "kept_bytes_a_call": kept_bytes,
    }


def _batch(turn: int, count: int, rng: np.random.Generator) -> Batch:
    meta = np.zeros(count, META)
    meta["turn"], meta["played"] = turn, TURN_SAMPLES
    pcm = rng.normal(0, 20, (count, TURN_SAMPLES)).astype(np.int16)
    return Batch(turn * TURN_NS, np.arange(count), meta, pcm)
