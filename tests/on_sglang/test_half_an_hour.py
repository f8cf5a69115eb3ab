"""Half an hour of micro-turns, as fast as they go: as quick at the end as at the beginning, and nothing is kept.

Time is CPU time of this process and SGLang's scheduler, which others on the machine do not lengthen. What is kept
is counted: memory and descriptors of both, and in this one Python's objects and what SGLang's front waits for.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from media.chunk import VideoFrame
from tests.model_server.engine.conftest import batch_of, chunk_of, voice
from tests.on_sglang.conftest import SESSION_TOKENS, scheduler
from tests.support.sglang_here import needs_sglang

pytestmark = needs_sglang

TURNS = 9_000
WINDOWS = 6
SPEAKER, WATCHER = 0, 1
PICTURE_EVERY = 5
SLOWER = 1.15
GROWTH_KB = 6_000
"""Of the last two thirds. Kept media alone would be 400 MB, tokens and lists of items some 20 MB."""
GROWTH_OBJECTS = 2_000
"""Of the last two thirds, 12,000 requests: one object kept of each sixth would be more."""


@dataclass(frozen=True, slots=True)
class Window:
    """Of five minutes."""

    cpu_s: float
    memory_kb: int
    descriptors: int
    objects: int
    """Of Python's collector, in this process."""
    awaited: int
    """Requests and sessions that SGLang's front has not heard of yet."""


def test_half_an_hour_is_flat_and_keeps_nothing(under_sglang: Any, in_torch: Any) -> None:
    processes = [psutil.Process(os.getpid()), scheduler()]
    pcm = voice(9, 250)
    rng = np.random.default_rng(2)
    pictures = rng.integers(0, 255, (4, 80, 120, 3), np.uint8)
    counts = under_sglang.rows.counts
    before, rolled = counts.turns_unanswered_total, counts.sessions_rolled_total
    for engine in (under_sglang, in_torch):
        engine.open(SPEAKER, "every 5")
        engine.open(WATCHER, "count")
    windows, words, reference_s = [], 0, 0.0
    begun_s = sum(sum(process.cpu_times()[:2]) for process in processes)
    for turn in range(TURNS):
        sound = {slot: pcm[turn % len(pcm)] for slot in (SPEAKER, WATCHER)}
        chunks = {}
        if turn % PICTURE_EVERY == 0:
            frame = VideoFrame(0, pictures[turn // 50 % 4])
            chunks[WATCHER] = chunk_of(turn, sound[WATCHER], video=(frame,))
        batch = batch_of({SPEAKER: turn, WATCHER: turn}, sound, played=0, chunks=chunks)
        ours = under_sglang.step(batch)
        reference_began_s = sum(processes[0].cpu_times()[:2])
        theirs = in_torch.step(batch)
        reference_s += sum(processes[0].cpu_times()[:2]) - reference_began_s
        assert ours.said == theirs.said, turn
        words += len(ours.said)
        assert under_sglang.gauges["sglang_tokens_held"] <= 2 * SESSION_TOKENS
        if (turn + 1) % (TURNS // WINDOWS) == 0:
            used_s = sum(sum(process.cpu_times()[:2]) for process in processes) - begun_s - reference_s
            done_s = sum(window.cpu_s for window in windows)
            windows.append(Window(used_s - done_s, *kept(processes, under_sglang)))
            print(turn + 1, windows[-1])
    for engine in (under_sglang, in_torch):
        engine.close(SPEAKER)
        engine.close(WATCHER)
    assert words > TURNS // 40
    assert counts.turns_unanswered_total == before and counts.sessions_rolled_total - rolled > 300
    assert windows[-1].cpu_s < SLOWER * windows[0].cpu_s, windows
    assert windows[-1].memory_kb - windows[1].memory_kb < GROWTH_KB, windows
    assert windows[-1].objects - windows[1].objects < GROWTH_OBJECTS, windows
    assert windows[-1].descriptors == windows[1].descriptors, windows
    assert not any(window.awaited for window in windows), windows


def kept(processes: Sequence[psutil.Process], engine: Any) -> tuple[int, int, int, int]:
    """Now, as in a `Window`."""
    gc.collect()
    front = engine.host._engine.tokenizer_manager
    memory_kb = sum(process.memory_full_info().uss for process in processes) // 1024
    descriptors = sum(process.num_fds() for process in processes)
    return memory_kb, descriptors, len(gc.get_objects()), len(front.rid_to_state) + len(front.session_futures)
