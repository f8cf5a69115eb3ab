"""Random bytes over the slot of one live call, written from outside into the shared memory of all.

The table is found among the descriptors of the model server, as only its user and root can, and mapped once more.
What is written over is one slot's part of the rings: first the rows with their sequence numbers, again and again,
then the numbers of how many rows were ever written and taken, which only a lease sets right.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gateway.caller.calls import CallLog
from gateway.caller.report import report_call
from loadtests.faults.calls import GAP_TOLERANCE_MS, S, check_all_free, check_new_call, live_calls
from loadtests.faults.heard import Promise, Span, judge_heard
from loadtests.faults.outcome import Outcome, Plan
from loadtests.faults.stalled import grown
from loadtests.gateway_under_test import PROC, GatewayUnderTest, GatewayWish, Process
from media.ring import Ring
from media.slots import SlotTable

BETWEEN_S = 3.0
"""After each strike."""
EVERY_S = 0.004
"""Rows are written over: each is there for some milliseconds of a turn."""
COUNTED = (
    "model_rows_torn",
    "model_rows_stale",
    "rows_torn",
    "rows_stale",
    "rings_full",
    "slots_damaged",
    "turns_missed",
)


@contextlib.contextmanager
def table_of(server: Process) -> Iterator[SlotTable]:
    """The table that a model server has made. LookupError where there is none."""
    folder = PROC / str(server.pid) / "fd"
    found = [entry for entry in folder.iterdir() if _target(entry).startswith("/memfd:microturn-slots")]
    if not found:
        raise LookupError(f"the model server {server.pid} has no slot table open")
    table = SlotTable.attach(os.open(found[0], os.O_RDWR | os.O_CLOEXEC))
    try:
        yield table
    finally:
        table.close()


def _target(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except OSError:
        return ""


def live_slots(table: SlotTable, wait_s: float = 0.5) -> list[int]:
    """Those that rows come into."""
    before = table.inbound.head.copy()
    time.sleep(wait_s)
    return [int(slot) for slot in np.flatnonzero(table.inbound.head != before)]


def strike_rows(ring: Ring, slot: int, rng: random.Random) -> None:
    """All rows of a slot: sequence numbers, meta data, sound, texts."""
    for array in (ring.meta, ring.pcm, ring.text, ring.events, ring.seq):
        part = array[slot].view(np.uint8)
        part[...] = np.frombuffer(rng.randbytes(part.size), np.uint8).reshape(part.shape)


def strike_counts(ring: Ring, slot: int, rng: random.Random) -> None:
    """How many rows were ever published and taken."""
    ring.head[slot], ring.tail[slot] = rng.getrandbits(63), rng.getrandbits(63)


async def slot_corrupted(plan: Plan) -> Outcome:
    """Two calls' slots: whatever is in them is refused and counted, and no other call hears of it."""
    outcome = Outcome("slot-corrupted")
    count, rng = max(4, plan.calls), random.Random("slots")
    with GatewayUnderTest.start(GatewayWish(calls=count)) as gateway:
        async with live_calls(gateway) as calls:
            await calls.place(count, 2 * (plan.stalls_s[0] + BETWEEN_S) + 1.0)
            server, parts = gateway.only("model-server"), gateway.processes()
            before = await asyncio.to_thread(gateway.metrics)
            with table_of(server) as table:
                slots = await asyncio.to_thread(live_slots, table)
                outcome.expect(len(slots) == count, f"{count} calls, but rows come into {len(slots)} slots")
                rows = await _strike_rows(table, slots[0], rng, plan.stalls_s[0])
                counts = await _strike_counts(table, slots[-1], rng)
            outcome.figures |= grown(before, await asyncio.to_thread(gateway.metrics), COUNTED)
            outcome.expect(gateway.processes() == parts, "a process died or was replaced")
            logs = await calls.finish()
        await check_all_free(gateway, outcome)
        await check_new_call(gateway, outcome)
        await check_all_free(gateway, outcome)
    judge_slots(outcome, logs, rows, counts)
    return outcome


async def _strike_rows(table: SlotTable, slot: int, rng: random.Random, seconds: float) -> Span:
    begin_ns = time.monotonic_ns()
    while time.monotonic_ns() < begin_ns + seconds * S:
        for ring in (table.inbound, table.outbound):
            strike_rows(ring, slot, rng)
        await asyncio.sleep(EVERY_S)
    end_ns = time.monotonic_ns()
    await asyncio.sleep(BETWEEN_S)
    return begin_ns, end_ns


async def _strike_counts(table: SlotTable, slot: int, rng: random.Random) -> Span:
    begin_ns = time.monotonic_ns()
    for ring in (table.inbound, table.outbound):
        strike_counts(ring, slot, rng)
    end_ns = time.monotonic_ns()
    await asyncio.sleep(BETWEEN_S)
    return begin_ns, end_ns


def judge_slots(outcome: Outcome, logs: Sequence[CallLog], rows: Span, counts: Span) -> None:
    """Of each strike one call hears, and hears of the one strike alone; both are heard again; the rest is whole."""
    struck: dict[str, list[CallLog]] = {"rows": [], "counts": [], "both": [], "neither": []}
    for log in logs:
        report = report_call(log)
        if report.windows is None:
            continue
        gaps = report.windows.gap_starts_ns
        of_rows = bool(
            np.count_nonzero((gaps > rows[0] - S) & (gaps < counts[0] - S)) * 20 > GAP_TOLERANCE_MS
        )
        of_counts = bool(np.count_nonzero(gaps >= counts[0] - S) * 20 > GAP_TOLERANCE_MS)
        kind = {(True, True): "both", (True, False): "rows", (False, True): "counts"}
        struck[kind.get((of_rows, of_counts), "neither")].append(log)
    for name, fault in (("rows", rows), ("counts", counts)):
        own = Outcome("")
        judge_heard(own, struck[name], [fault], Promise(comfort=False))
        outcome.figures |= {f"{name}_{key}": value for key, value in own.figures.items()}
        outcome.broken += [f"{name} written over: {told}" for told in own.broken]
        outcome.expect(
            len(struck[name]) == 1,
            f"{name} of one slot were written over, {len(struck[name])} calls heard it",
        )
    rest = Outcome("")
    judge_heard(rest, struck["neither"], [rows, counts])
    outcome.broken += rest.broken
    outcome.expect(not struck["both"], f"{len(struck['both'])} calls heard of both")
    outcome.figures |= {
        "calls": len(logs),
        "untouched": len(struck["neither"]),
        "untouched_gap_ms_worst": rest.figures["gap_ms_worst"],
        "ended_calls": sum(log.ended_by != "us" for log in logs),
        "gap_ms_worst": max(outcome.figures["rows_gap_ms_worst"], outcome.figures["counts_gap_ms_worst"]),
    }
    counted = sum(outcome.figures.get(name, 0) for name in COUNTED[:4])
    outcome.expect(counted > 0, "no row was counted as torn or stale")
    outcome.expect(outcome.figures.get("slots_damaged") == 1, "the damaged slot was not counted")
