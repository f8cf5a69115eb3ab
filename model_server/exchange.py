"""The two arrows at the slot table: slot -> batch (`collect`) and step -> slot (`publish`).

Everything that is waiting is taken, whatever it is worth: what nobody takes would be in the way of the next
turn. This module counts nothing and decides nothing; the plan comes from the scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from media.chunk import Chunk, Flags
from media.ring import Rows
from media.slots import SlotTable
from model_server.batch import Batch, Results, Slots
from model_server.scheduler import Plan, SlotStates, Waiting, plan_tick

_LAST = np.uint32(Flags.LAST)
_WHOLE_FLAGS = np.uint32(Flags.FIRST | Flags.LAST)


@dataclass(frozen=True, slots=True)
class Collected:
    """All that a group had waiting at a tick, as a batch, and how it came about."""

    batch: Batch
    plan: Plan
    torn: int
    """Rows that were dropped because their writer died in the middle of them."""
    stale: int
    """Rows that were dropped because they belong to an earlier tenant."""


def collect(
    table: SlotTable, states: SlotStates, ours_S: npt.NDArray[np.bool_], tick_ns: int, *, is_last: bool = True
) -> Collected:
    """Take every waiting row of `ours_S`: the newest of each slot into the batch, older ones beside it.

    Unless it `is_last`, another look follows, and slots of which nothing is here are not missing yet.
    """
    ring = table.inbound
    ready = ring.ready()
    slots = ready[ours_S[ready]]
    counts = np.minimum(ring.head[slots] - ring.tail[slots], np.uint64(table.rows)).astype(np.int64)
    earlier: dict[int, list[Chunk]] = {}
    torn = stale = 0
    while (counts > 1).any():  # somebody was late; else one gather takes all
        more = counts > 1
        older = ring.gather(slots[more])
        for slot, chunk in zip(older.slots, table.chunks(older), strict=True):
            earlier.setdefault(int(slot), []).append(chunk)
        ring.advance(slots[more])
        counts[more] -= 1
        torn, stale = torn + older.torn, stale + older.stale

    newest = ring.gather(slots)
    counts_W = np.array([len(earlier.get(int(slot), ())) + 1 for slot in newest.slots] if earlier else 1)
    last_W = (newest.meta["flags"] & _LAST) != 0
    for slot, older_chunks in earlier.items():
        if any(chunk.flags & Flags.LAST for chunk in older_chunks):
            last_W |= newest.slots == slot
    waiting = Waiting(
        newest.slots,
        newest.meta["turn"].astype(np.int64),
        np.broadcast_to(counts_W, newest.slots.shape),
        last_W,
    )
    plan = plan_tick(states, ours_S, waiting)
    if not is_last and len(plan.absent):
        plan = plan.put_off()
    if not plan.ready_W.all():
        late = _only(newest, ~plan.ready_W)
        for slot, chunk in zip(late.slots, table.chunks(late), strict=True):
            earlier.setdefault(int(slot), []).append(chunk)
        newest = _only(newest, plan.ready_W)
    whole = np.flatnonzero(_is_more_than_pcm(newest))
    chunks = dict(zip(whole.tolist(), table.chunks(_only(newest, whole)), strict=True))
    ring.advance(slots)
    batch = Batch(
        tick_ns=tick_ns,
        slots_B=newest.slots,
        meta_B=newest.meta,
        pcm_BS=newest.pcm,
        chunks=chunks,
        earlier={slot: tuple(older_chunks) for slot, older_chunks in earlier.items()},
        missing_M=plan.missing,
    )
    return Collected(batch, plan, torn + newest.torn, stale + newest.stale)


def publish(
    table: SlotTable, batch: Batch, results: Results, stepped_ns: int, step_ns: int = 0
) -> npt.NDArray[np.bool_]:
    """Publish the replies of a step that took `step_ns`, each with its part of that; bool [B], False where the
    worker has not taken its earlier ones (ring full)."""
    engine_us = step_ns // 1_000 // max(1, len(batch))
    said = {b: (reply.text, reply.events, reply.flags) for b, reply in results.said.items()}
    return table.put_replies(batch.meta_B, batch.slots_B, stepped_ns, results.pcm_BS, said, engine_us)


def _is_more_than_pcm(rows: Rows) -> npt.NDArray[np.bool_]:
    meta = rows.meta
    more: npt.NDArray[np.bool_] = (
        (meta["text_bytes"] | meta["events_bytes"] | meta["video_frames"]) != 0
    ) | ((meta["flags"] & _WHOLE_FLAGS) != 0)
    return more


def _only(rows: Rows, keep: npt.NDArray[np.bool_] | Slots) -> Rows:
    return Rows(rows.slots[keep], rows.meta[keep], rows.pcm[keep], rows.torn, rows.stale)
