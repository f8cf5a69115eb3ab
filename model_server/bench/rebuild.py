"""How fast calls are rebuilt from their logs after the death of a model server (`model_server/rebuild.py`).

Logs of `LOG_TURNS` turns of callers who speak. Each pass appends a turn of every call, up to `MOST`.
CPU time of the process's one thread, without the ticks that passes make room for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from media.chunk import Chunk, Flags
from media.ring import META
from media.timebase import NS_PER_S, TURN_NS, TURN_SAMPLES
from media.turn_log import LOG_TURNS
from model_server.batch import Batch
from model_server.engine.digits import DigitsEngine
from model_server.rebuild import SETTLE_NS, Rebuilds

MOST = 16
"""Calls of a pass."""
LOUDNESS = 1_000


def measure(checkpoint: Path, calls: Sequence[int]) -> dict[str, Any]:
    """Seconds of calls per second of CPU, and how long all of them take, for each number of calls."""
    engine = DigitsEngine(checkpoint)
    engine.warm(min(MOST, max(calls)))
    points = [_point(engine, count) for count in (calls[0], *calls)][1:]  # the first one warms
    return {"turns": LOG_TURNS, "points": points}


def _point(engine: DigitsEngine, count: int) -> dict[str, Any]:
    rng = np.random.default_rng(count)
    rebuilds = Rebuilds()
    for slot in range(count):
        engine.open(slot, "")
        pcm = rng.normal(0, LOUDNESS, (LOG_TURNS, TURN_SAMPLES)).astype(np.int16)
        log = [
            Chunk(1, turn, 0, pcm[turn], played_samples=TURN_SAMPLES, flags=Flags.ANSWERED)
            for turn in range(LOG_TURNS)
        ]
        rebuilds.open(slot, 0, log, 0)
    rebuilds.begin(SETTLE_NS, count, lambda rows: 0.0)  # all turns, however long it takes
    nobody = np.empty(0, np.intp)
    begun_ns = time.thread_time_ns()
    while rebuilds:
        earlier = rebuilds.take(rebuilds.next_slots(MOST))
        engine.step(
            Batch(0, nobody, np.empty(0, META), np.empty((0, TURN_SAMPLES), np.int16), earlier=earlier)
        )
    taken_s = (time.thread_time_ns() - begun_ns) / NS_PER_S
    for slot in range(count):
        engine.close(slot)
    point = {
        "calls": count,
        "all_s": round(taken_s, 2),
        "call_seconds_a_second": round(count * LOG_TURNS * TURN_NS / NS_PER_S / taken_s, 1),
    }
    print("  ".join(f"{name} {value}" for name, value in point.items()), flush=True)
    return point
