"""Rank 0 as a process: starts the others, says who they are, and steps until it is ended.

lead.py CHECKPOINT RANKS TURNS      a JSON line: process ids; then the texts of each turn; then it waits
lead.py CHECKPOINT RANKS -1         a JSON line, and steps for ever
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import structlog

from media.ring import META
from media.timebase import TURN_NS, TURN_SAMPLES
from model_server.batch import Batch, Results
from model_server.engine import personas
from model_server.ranks.engine import EngineOptions
from model_server.ranks.leader import RankedEngine

CALLS = 3


def chunks(turn: int) -> np.ndarray[tuple[int, int], np.dtype[np.int16]]:
    """Of all calls."""
    rng = np.random.default_rng(turn)
    loud = rng.uniform(0, 4000, (CALLS, 1)) * (rng.random((CALLS, 1)) < 0.6)
    return (rng.standard_normal((CALLS, TURN_SAMPLES)) * loud).clip(-32768, 32767).astype(np.int16)


def batch(turn: int) -> Batch:
    """Nothing of ours was played."""
    meta = np.zeros(CALLS, META)
    meta["turn"] = turn
    return Batch(turn * TURN_NS, np.arange(CALLS, dtype=np.intp), meta, chunks(turn))


def texts(results: Results) -> str:
    """Of all calls."""
    return " | ".join(results.said[b].text if b in results.said else "" for b in range(CALLS))


def main(checkpoint: Path, ranks: int, turns: int) -> None:
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(sys.stderr))
    engine = RankedEngine(EngineOptions(checkpoint, personas.DEFAULT, products="float32"), ranks)
    for slot in range(CALLS):
        engine.open(slot, "")
    print(json.dumps(engine.processes), flush=True)
    for turn in itertools.count() if turns < 0 else range(turns):
        results = engine.step(batch(turn))
        if turns >= 0:
            print(json.dumps(texts(results)), flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
