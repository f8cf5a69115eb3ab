"""Rehearsed conversations through one engine, and the same again through two ranks that hear the same own voice.

replay.py CHECKPOINT DIRECTORY CASES SKILL...     a JSON line: how far they are apart

What one process said is given to both ranks as their own voice, as in teacher forcing: else rounding in a sample
moves a level of what is heard back, once in a while, and two right answers are compared that are not the same.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_server.batch import Batch, Results
from model_server.engine import personas
from model_server.engine.digits import DigitsEngine
from model_server.engine.own_voice import OwnVoice
from model_server.ranks.engine import EngineOptions, RankEngine
from model_server.ranks.memory import RankMemory
from model_server.training import cases
from model_server.training.rehearsal import rehearse

PATIENCE_S = 240
SAMPLE = 1e-3 * 32768
Record = list[tuple[str, Any]]


class Recorder:
    """An engine that keeps what it was asked, what it answered, and what it believes to have said."""

    name = "digits"

    def __init__(self, engine: DigitsEngine) -> None:
        self.engine, self.record = engine, []

    def open(self, slot: int, persona: str) -> None:
        self.engine.open(slot, persona)
        self.record.append(("open", (slot, persona)))

    def close(self, slot: int) -> None:
        self.engine.close(slot)
        self.record.append(("close", slot))

    def step(self, batch: Batch) -> Results:
        results = self.engine.step(batch)
        voices = {slot: copy.deepcopy(call.own) for slot, call in self.engine._calls.items()}
        self.record.append(("step", (batch, results, voices)))
        return results


def replayed(engine: DigitsEngine, record: Record) -> dict[str, float]:
    """How far its answers are from those of the record."""
    seen: dict[str, float] = {"turns": 0, "texts": 0, "texts_apart": 0, "loudest": 0, "samples": 0}
    seen |= {"samples_apart": 0, "most_apart": 0, "most_apart_rms": 0}
    for what, details in record:
        if what == "open":
            engine.open(*details)
        elif what == "close":
            engine.close(details)
        else:
            compared(engine, *details, seen)
    return seen


def compared(
    engine: DigitsEngine, batch: Batch, wanted: Results, voices: dict[int, OwnVoice], seen: dict[str, float]
) -> None:
    found = engine.step(batch)
    for slot, voice in voices.items():
        engine._calls[slot].own = copy.deepcopy(voice)
    apart = np.abs(found.pcm_BS.astype(np.int32) - wanted.pcm_BS)
    seen["turns"] += len(batch)
    seen["texts"] += len(wanted.said)
    seen["texts_apart"] += sum(found.said.get(b) != wanted.said.get(b) for b in range(len(batch)))
    seen["samples"] += apart.size
    seen["samples_apart"] += int((apart > SAMPLE).sum())
    seen["most_apart"] = max(seen["most_apart"], int(apart.max()))
    seen["most_apart_rms"] = max(seen["most_apart_rms"], float(np.sqrt(np.mean(apart**2, 1)).max()))
    seen["loudest"] = max(seen["loudest"], int(np.abs(wanted.pcm_BS.astype(np.int32)).max()))


def rank_main(checkpoint: Path, descriptor: int, meeting: int, rank: int, directory: Path) -> None:
    torch.set_num_threads(1)
    memory = RankMemory(descriptor, meeting, rank, 2)
    options = EngineOptions(checkpoint, personas.DEFAULT, products="float32")
    collectives = options.collectives_of(memory)
    engine = RankEngine(options, rank, memory.ranks, collectives)
    collectives.connect()
    record = pickle.loads((directory / "record").read_bytes())
    (directory / f"seen-{rank}").write_text(json.dumps(replayed(engine, record)))


def main(checkpoint: Path, directory: Path, count: int, skills: list[str]) -> int:
    recorder = Recorder(DigitsEngine(checkpoint, products=torch.float32))
    heard = list(rehearse(recorder, cases.of(skills, count)))
    (directory / "record").write_bytes(pickle.dumps(recorder.record))
    memory = RankMemory.create(2)
    shared = (memory.descriptor, memory.meeting)
    fork = multiprocessing.get_context("fork")  # one thread: torch is imported once
    ranks = [fork.Process(target=rank_main, args=(checkpoint, *shared, rank, directory)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    until = time.monotonic() + PATIENCE_S
    while any(process.is_alive() for process in ranks) and time.monotonic() < until:
        if any(process.exitcode not in (0, None) for process in ranks):
            break
        time.sleep(0.05)
    for process in ranks:
        if process.is_alive():
            process.kill()
        process.join()
    if any(process.exitcode for process in ranks):
        return 1
    seen = [json.loads((directory / f"seen-{rank}").read_text()) for rank in (0, 1)]
    print(json.dumps({"ranks": seen, "captions": sum(len(each.captions) for each in heard)}))
    return 0


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
