"""Who holds which slot, and who may have one: admission of the model server.

    free --lease--> leased --release, or the worker is gone--> resting --`REST_NS`--> free

A resting slot is not free. The generation of a slot moves on at each lease, and above the last one that the
call had with a server before us (`Lease.floor`), so that no row is ever taken for a later tenant's. Both
rings are emptied at a lease: nobody else uses a slot that is not leased. The clock is the caller's.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from media.leases import Lease, Leased, Refused, Release
from media.slots import REST_NS, SlotTable
from media.timebase import NS_PER_MS, TURN_NS
from model_server.scheduler import NOBODY

MAX_GENERATION = 2**32 - 1
STEP_SHARE = 0.8
"""Of a turn, what the steps of all its groups may take by their 99th percentiles: the rest is for the percentiles'
other side and for control messages."""
LEAST_LIMIT_NS = 60 * NS_PER_MS
"""What one step may take with however many groups. A step of one call can take longer than an equal part of a turn:
then fewer groups are used, and the next one may begin late."""
MIN_BUDGET_NS = 5 * NS_PER_MS
"""No worker is promised less: a wake-up of this process may take so long on a busy machine."""

MAX_BUDGET_NS = 2 * TURN_NS
"""That a call may have been promised elsewhere: a step of a whole turn, and as much again."""
SLACK_NS = 20 * NS_PER_MS
"""Of a budget, at most: for the wake-up, and for a step before ours that took too long."""


@dataclass(slots=True)
class Refusals:
    """Leases that were refused, by why."""

    slots: int = 0
    predicted: int = 0
    overload: int = 0
    wish: int = 0


class Leases:
    """Sans-IO ledger over a table. `worker` is any number that names a connection."""

    is_shedding = False
    """New calls are refused, whatever is predicted."""

    def __init__(
        self,
        table: SlotTable,
        predict_ns: Callable[[int], int],
        *,
        rest_ns: int = REST_NS,
        predict_up_to_ns: Callable[[int], list[int]] | None = None,
    ) -> None:
        """`predict_up_to_ns` gives the same for 0 (nothing) to so many rows, at once."""
        self._table = table
        self._predict_ns = predict_ns
        self._predict_up_to_ns = predict_up_to_ns or self._predict_each
        self._rest_ns = rest_ns
        self._free = deque(range(table.slots))
        self._resting: deque[tuple[int, int]] = deque()
        self._calls: dict[tuple[int, str], int] = {}
        self._call_of: dict[int, tuple[int, str]] = {}
        self.refused = Refusals()
        self.in_group = [0] * table.groups
        """Slots with a tenant, per phase group."""
        self.capacity = -(-table.slots // table.groups)
        """Slots of a group."""
        self.turn_limit_ns = int(TURN_NS * STEP_SHARE)
        """All steps of a turn, as predicted."""
        self.step_limit_ns = min(self.turn_limit_ns, max(self.turn_limit_ns // table.groups, LEAST_LIMIT_NS))
        """One of them."""
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
        if (worker, wish.call) in self._calls:
            slot = self._calls[worker, wish.call]
            self.refused.wish += 1
            return Refused(wish.call, f"this call has slot {slot}: release it first", 1)
        if not 0 <= wish.floor < MAX_GENERATION:
            self.refused.wish += 1
            reason = f"floor = {wish.floor}: a generation is from 0 to {MAX_GENERATION - 1}; start at 0"
            return Refused(wish.call, reason, 0)
        if not -1 <= wish.group < self._table.groups or not 0 <= wish.budget_ns <= MAX_BUDGET_NS:
            reason = (
                f"group = {wish.group}, budget_ns = {wish.budget_ns}: there are {self._table.groups} groups, "
            )
            self.refused.wish += 1
            return Refused(wish.call, f"{reason}and {MAX_BUDGET_NS} ns at most", 0)
        if not self._free:
            self.refused.slots += 1
            reason = f"no free slot: {self.leased} leased, {self.resting} resting"
            return Refused(wish.call, reason, 1 if self._resting else 5)
        is_new = not wish.floor  # else a server before us admitted it: it goes on
        if is_new and self.is_shedding and self.leased:
            self.refused.overload += 1
            return Refused(wish.call, "overloaded: steps take longer than they may", 5)
        group = wish.group if wish.group >= 0 else self._group_of_next(must=not is_new)
        if group is None:
            self.refused.predicted += 1
            return Refused(wish.call, self._why_full(), 5)
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
        self.budget_S[slot] = budget_ns = wish.budget_ns or self._budget_ns()
        return Leased(wish.call, slot, generation, group, budget_ns)

    def name_of(self, slot: int) -> str:
        """The call that has it; empty when none has."""
        return self._call_of.get(slot, (0, ""))[1]

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

    def _group_of_next(self, *, must: bool) -> int | None:
        """The emptiest group that has room for a call by all predictions; None where none has.

        Of groups with as few calls the one that is farthest from the others. A call alone always has room: it shows
        what a step takes now. One that `must` have a place gets the emptiest.
        """
        groups = sorted(range(len(self.in_group)), key=lambda g: (self.in_group[g], -self._apart(g)))
        for group in groups:
            step_ns, turn_ns = self._predicted_with(group)
            if not self.leased or (step_ns <= self.step_limit_ns and turn_ns <= self.turn_limit_ns):
                return group
        return groups[0] if must else None

    def _apart(self, group: int) -> int:
        """Ticks to the nearest group that has more calls, one way or the other."""
        groups, calls = len(self.in_group), self.in_group
        fuller = [other for other in range(groups) if calls[other] > calls[group]]
        return min((min((group - other) % groups, (other - group) % groups) for other in fuller), default=0)

    def _predicted_with(self, group: int) -> tuple[int, int]:
        """A step of that group with one call more, and all steps of a turn, ns."""
        step_ns = self._predict_ns(self.in_group[group] + 1)
        others = (calls for other, calls in enumerate(self.in_group) if other != group and calls)
        return step_ns, step_ns + sum(self._predict_ns(calls) for calls in others)

    def free_calls(self) -> int:
        """New calls that would be taken now, one after another, if each stayed: what `lease` would say."""
        if self.is_shedding and self.leased:
            return 0
        rows = len(self._free) + len(self._resting)  # what rests is free in a moment
        step_ns = self._predict_up_to_ns(max(self.in_group) + rows)
        turn_ns = sum(step_ns[calls] for calls in self.in_group)
        open_groups = [(calls, group) for group, calls in enumerate(self.in_group)]
        heapq.heapify(open_groups)  # a group that is full stays so: what all take only grows
        free, is_first = 0, not self.leased
        while open_groups and free < rows:
            calls, group = heapq.heappop(open_groups)
            with_one_ns = step_ns[calls + 1]
            grown_ns = turn_ns - step_ns[calls] + with_one_ns
            if is_first or (with_one_ns <= self.step_limit_ns and grown_ns <= self.turn_limit_ns):
                free, turn_ns, is_first = free + 1, grown_ns, False
                heapq.heappush(open_groups, (calls + 1, group))
        return free

    def _predict_each(self, most_rows: int) -> list[int]:
        return [0, *(self._predict_ns(rows) for rows in range(1, most_rows + 1))]

    def _why_full(self) -> str:
        group = min(range(len(self.in_group)), key=self.in_group.__getitem__)
        step_ns, turn_ns = self._predicted_with(group)
        step = f"a step of {self.in_group[group] + 1} rows would take {step_ns / NS_PER_MS:.1f} ms"
        if step_ns > self.step_limit_ns:
            return f"{step}, its limit is {self.step_limit_ns / NS_PER_MS:.1f} ms"
        limit = f"their limit is {self.turn_limit_ns / NS_PER_MS:.1f} ms"
        return f"{step}, and all steps of a turn {turn_ns / NS_PER_MS:.1f} ms; {limit}"

    def _budget_ns(self) -> int:
        """What holds for the whole call: a step of a full group, and `SLACK_NS` or as much again."""
        full_ns = min(self._predict_ns(self.capacity), self.step_limit_ns)
        return max(MIN_BUDGET_NS, full_ns + min(full_ns, SLACK_NS))
