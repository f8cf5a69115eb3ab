"""Who holds which slot, and who may have one: admission of the model server.

    free --lease--> leased --release, or the worker is gone--> resting --`REST_NS`--> free

A resting slot is not free. The generation of a slot moves on at each lease, and above the last one that the
call had with a server before us (`Lease.floor`), so that no row is ever taken for a later tenant's. Both
rings are emptied at a lease: nobody else uses a slot that is not leased. The clock is the caller's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from media.leases import Lease, Leased, Refused, Release
from media.slots import REST_NS, SlotTable
from media.timebase import NS_PER_MS, TURN_NS
from model_server.scheduler import NOBODY

MAX_GENERATION = 2**32 - 1
STEP_SHARE = 0.8
"""Of the time between two groups' ticks, what a step may take by its 99th percentile: the rest is for the
percentile's other side and for control messages."""
MIN_BUDGET_NS = 5 * NS_PER_MS
"""No worker is promised less: a wake-up of this process may take so long on a busy machine."""

SLACK_NS = 40 * NS_PER_MS
"""Of a budget, at most: for the wake-up, for a step before ours that took too long, and for caches gone cold."""


class Leases:
    """Sans-IO ledger over a table. `worker` is any number that names a connection."""

    is_shedding = False
    """New calls are refused, whatever is predicted."""

    def __init__(self, table: SlotTable, predict_ns: Callable[[int], int], *, rest_ns: int = REST_NS) -> None:
        self._table = table
        self._predict_ns = predict_ns
        self._rest_ns = rest_ns
        self._free = deque(range(table.slots))
        self._resting: deque[tuple[int, int]] = deque()
        self._calls: dict[tuple[int, str], int] = {}
        self._call_of: dict[int, tuple[int, str]] = {}
        self.in_group = [0] * table.groups
        """Slots with a tenant, per phase group."""
        self._capacity = -(-table.slots // table.groups)
        self.step_limit_ns = int(TURN_NS / table.groups * STEP_SHARE)
        """A step that is predicted to take longer would run into the next group's tick."""
        self.worker_S = np.full(table.slots, NOBODY, np.int64)
        """Worker that holds the slot, or `NOBODY`."""
        self.budget_S = np.zeros(table.slots, np.int64)
        """What the tenant was told, ns after its tick."""

    @property
    def leased(self) -> int:
        """Slots with a tenant."""
        return len(self._call_of)

    @property
    def resting(self) -> int:
        """Slots that were freed less than `rest_ns` ago, as of the last call."""
        return len(self._resting)

    def lease(self, worker: int, wish: Lease, now_ns: int) -> Leased | Refused:
        """A slot for a call of `worker`, or why not and when it may try again."""
        self._wake(now_ns)
        group = self._emptiest_group()
        rows = self.in_group[group] + 1
        predicted_ns = self._predict_ns(rows)
        if (worker, wish.call) in self._calls:
            slot = self._calls[worker, wish.call]
            return Refused(wish.call, f"this call has slot {slot}: release it first", 1)
        if not 0 <= wish.floor < MAX_GENERATION:
            reason = f"floor = {wish.floor}: a generation is from 0 to {MAX_GENERATION - 1}; start at 0"
            return Refused(wish.call, reason, 0)
        if not self._free:
            reason = f"no free slot: {self.leased} leased, {self.resting} resting"
            return Refused(wish.call, reason, 1 if self._resting else 5)
        if self.is_shedding and self.leased:
            return Refused(wish.call, "overloaded: steps take longer than they may", 5)
        if predicted_ns > self.step_limit_ns and self.leased:  # one alone shows how long a step takes now
            reason = (
                f"a step of {rows} rows would take {predicted_ns / NS_PER_MS:.1f} ms, "
                f"its limit is {self.step_limit_ns / NS_PER_MS:.1f} ms"
            )
            return Refused(wish.call, reason, 5)
        slot = self._free.popleft()
        generation = max(int(self._table.generation[slot]), wish.floor) % MAX_GENERATION + 1
        self._table.inbound.empty(slot)
        self._table.outbound.empty(slot)
        self._table.group[slot] = group
        self._table.generation[slot] = generation
        self.in_group[group] += 1
        self._calls[worker, wish.call] = slot
        self._call_of[slot] = worker, wish.call
        self.worker_S[slot] = worker
        self.budget_S[slot] = budget_ns = self._budget_ns()
        return Leased(wish.call, slot, generation, group, budget_ns)

    def room_ns(self, group: int) -> int:
        """From a tick of this group to the next tick of a group that has calls: what its step may take."""
        groups = len(self.in_group)
        away = next(d for d in range(1, groups + 1) if d == groups or self.in_group[(group + d) % groups])
        return TURN_NS * away // groups

    def release(self, worker: int, notice: Release, now_ns: int) -> bool:
        """Begin the slot's rest; False when `worker` does not hold that slot in that generation."""
        slot = notice.slot
        held = self._call_of.get(slot) == (worker, notice.call)
        if not held or int(self._table.generation[slot]) != notice.generation:
            return False
        self._rest(slot, now_ns)
        return True

    def drop_worker(self, worker: int, now_ns: int) -> list[int]:
        """The worker is gone: all of its slots begin their rest. Returns them."""
        slots = [int(slot) for slot in np.flatnonzero(self.worker_S == worker)]
        for slot in slots:
            self._rest(slot, now_ns)
        return slots

    def _rest(self, slot: int, now_ns: int) -> None:
        del self._calls[self._call_of.pop(slot)]
        self.in_group[int(self._table.group[slot])] -= 1
        self.worker_S[slot] = NOBODY
        self._resting.append((now_ns + self._rest_ns, slot))

    def _wake(self, now_ns: int) -> None:
        while self._resting and self._resting[0][0] <= now_ns:
            self._free.append(self._resting.popleft()[1])

    def _emptiest_group(self) -> int:
        """Of those with the fewest calls the one that is farthest from the next group with more."""
        groups, least = len(self.in_group), min(self.in_group)
        fuller = [group for group, calls in enumerate(self.in_group) if calls > least]

        def apart(group: int) -> int:
            return min(
                (min((group - other) % groups, (other - group) % groups) for other in fuller), default=0
            )

        return max((group for group in range(groups) if group not in fuller), key=apart)

    def _budget_ns(self) -> int:
        """What holds for the whole call: a step of a full group, and `SLACK_NS` or as much again."""
        full_ns = min(self._predict_ns(self._capacity), self.step_limit_ns)
        return max(MIN_BUDGET_NS, full_ns + min(full_ns, SLACK_NS))
