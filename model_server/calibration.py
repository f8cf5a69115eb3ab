"""How long steps take here: measured at start-up, before a call is taken."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from media.chunk import Chunk
from media.leases import Lease, Leased
from media.slots import SlotTable
from media.timebase import NS_PER_S, TURN_NS, TURN_SAMPLES
from model_server.engine import Engine
from model_server.server import ModelServer
from model_server.step_time import StepTime

LOUDNESS = 1_000
"""Of the noise that calibration hears: digital silence costs less than a line."""
STEPS = 32
SIZE_NS = NS_PER_S // 2
"""For each size; a step that takes long is believed sooner."""
LEAST_STEPS = 8
LINE = "5"
TYPISTS = 4
"""One call of so many types it in a turn: what is read, and what is written and said after it, costs about as
much as what is written and said among people who speak."""
BEGINNING = 4
"""Turns of each size that do not count: elsewhere calls do not begin all at once."""
MAX_ROWS = 256


def calibrate(
    engine: Engine, groups: int, slots: int, clock_ns: Callable[[], int] = time.monotonic_ns
) -> StepTime:
    """Step times of this engine on this machine, for 1 row up to a full group, through a table of its own."""
    step_time = StepTime(engine.most_positions)
    rows = min(-(-slots // groups), MAX_ROWS)
    engine.warm(rows)
    table = SlotTable.create(rows, rows=2, video=2, groups=1)
    desk = ModelServer(table, engine, clock_ns, step_time)
    noise = np.random.default_rng(0).normal(0, LOUDNESS, TURN_SAMPLES)
    pcm = noise.astype(np.int16)
    for size in sorted({min(1 << power, rows) for power in range(rows.bit_length() + 1)}):
        while desk.leases.leased < size and isinstance(desk.lease(0, Lease(str(desk.leases.leased))), Leased):
            pass
        if desk.leases.leased < size:
            break  # so many would never be admitted
        desk.leases.budget_S[:] = TURN_NS  # no turn is late that is only measured
        begun_ns = clock_ns()
        for turn in range(STEPS):
            now_ns = clock_ns()
            step_time.looks_away = turn < BEGINNING
            if turn >= LEAST_STEPS and now_ns - begun_ns > SIZE_NS:
                break
            for slot in range(size):
                line = LINE if slot % TYPISTS == turn % TYPISTS else ""
                table.put_chunk(slot, Chunk(int(table.generation[slot]), turn, now_ns, pcm, text=line))
            desk.tick(0, now_ns)
            table.outbound.advance(table.outbound.ready())
        step_time.forget_stalls()
    desk.gone(0)
    table.close()
    return step_time
