"""What is done between ticks: turns of calls that another server had or has are appended, as far as they fit.

Who waits for what is `rebuild.py`'s business; here are the passes. A pass is begun if it is over before the
next tick of calls that are answered. Its turns come with the lease, and those of calls that move also by their
rings, marked `Flags.PAST`: they are taken from there between ticks, so that a tick finds nothing but what is to be
answered.
While nobody waits for the calls of a pass, the other processes of the machine go first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import structlog

from media.chunk import Flags
from media.leases import CaughtUp, Lease, Leased, Refused
from media.ring import META
from media.slots import SlotTable
from media.timebase import NS_PER_MS, TURN_SAMPLES
from media.turn_log import unpack
from model_server.batch import Batch
from model_server.engine import Engine
from model_server.leases import Leases
from model_server.metrics import Metrics
from model_server.priority import stepping_back
from model_server.rebuild import OVERDUE_PASSES, Rebuilds
from model_server.scheduler import SlotStates
from model_server.shedding import Shed
from model_server.step_time import StepTime

GUARD_NS = 1 * NS_PER_MS
"""epoll sleeps whole milliseconds, rounded up: the last one before a tick is slept exactly."""
MOST_MOVING = 3
"""Calls at a time: to read and write the log of one takes both sides a few ms, which others would wait for."""
_NOBODY = np.empty(0, np.intp)
_PAST = np.uint32(Flags.PAST)

log = structlog.get_logger()


class Slack:
    """Of one model server: it has the same table, engine and books."""

    def __init__(
        self,
        table: SlotTable,
        engine: Engine,
        states: SlotStates,
        leases: Leases,
        step_time: StepTime,
        metrics: Metrics,
        clock_ns: Callable[[], int],
    ) -> None:
        self.rebuilds = Rebuilds()
        self.step_time = step_time
        self._table, self._engine, self._states, self._leases = table, engine, states, leases
        self._metrics, self._clock_ns = metrics, clock_ns
        self._calls: dict[int, tuple[int, Leased]] = {}
        """By slot, calls that move: their worker, and what it was told."""
        self._overdue_passes = 0
        """Since the last tick."""

    def __bool__(self) -> bool:
        """Whether there is something to do between ticks."""
        return bool(self.rebuilds)

    def refuses(self, wish: Lease) -> Refused | None:
        """Why this call may not move here now: a pass of one more than are under way would take too long."""
        moving = len(self.rebuilds.moving)
        if not wish.moves or not moving:
            return None
        is_short = self.step_time.predict_ns(len(self.rebuilds) + 1) <= self._leases.step_limit_ns
        if is_short and moving < MOST_MOVING:
            return None
        return Refused(wish.call, f"{moving} calls move here already: wait for one of them", 1)

    def open(self, worker: int, wish: Lease, leased: Leased, past: bytes) -> None:
        """A call was given a slot: it goes on with the turns of its packed log, if it has one."""
        try:
            turns = unpack(past, leased.generation)
        except ValueError as wrong:  # a bug of ours: better a call that has forgotten than none
            log.error("a call's log is of no use", call=wish.call, slot=leased.slot, reason=str(wrong))
            turns = ()
        moves = wish.moves and bool(turns)
        if moves:
            self._calls[leased.slot] = worker, leased
        else:
            self._states.open(leased.slot, leased.group)
        if turns:
            self.rebuilds.open(leased.slot, leased.group, turns, self._clock_ns(), moves=moves)

    def close(self, slot: int) -> None:
        """The call is over, whatever it was."""
        self._calls.pop(slot, None)
        self.rebuilds.close(slot)

    def tick(self) -> None:
        """Before the turns of a tick are taken."""
        self._overdue_passes = 0
        self.take_turns()

    def take_turns(self) -> None:
        """Of calls that move: turns that are over from their rings; who has one to be answered is admitted."""
        if not self._calls:
            return
        ring = self._table.inbound
        slots = np.array(self.rebuilds.moving, np.intp)
        while len(slots := slots[ring.head[slots] != ring.tail[slots]]):
            rows = ring.gather(slots)
            is_past_B = (rows.meta["flags"] & _PAST) != 0
            for slot, chunk, is_past in zip(rows.slots, self._table.chunks(rows), is_past_B, strict=True):
                if is_past:
                    self.rebuilds.add(int(slot), chunk)
                else:
                    self._admit(int(slot))
            self._metrics.counters.rows_torn_total += rows.torn
            self._metrics.counters.rows_stale_total += rows.stale
            slots = np.setdiff1d(slots, rows.slots[~is_past_B])
            ring.advance(slots)

    def append(self, tick_ns: int, group: int, shed: Shed = Shed.NOTHING) -> bool:
        """One pass, if it is over before this next tick, of `group`; False if there is nothing to do, or no time.

        A tick at which nobody who is live waits for an answer may be a little late, and so may any by a pass or two
        when calls should have come back by now.
        """
        now_ns = self._clock_ns()
        self.take_turns()
        counters = self._metrics.counters
        for slot, turns in self.rebuilds.give_up(now_ns).items():
            counters.turns_not_rebuilt_total += turns
            call = self._leases.name_of(slot)
            log.warning("rebuilding took too long", call=call, slot=slot, turns_forgotten=turns)
        counters.turns_not_rebuilt_total += self.rebuilds.begin(now_ns, most := self._most(), self.pass_ns)
        slots = self.rebuilds.next_slots(most)
        if not slots:
            return False
        is_awaited = self._leases.in_group[group] > self.rebuilds.in_group(group)
        if is_awaited and now_ns + self.step_time.predict_ns(len(slots)) + GUARD_NS > tick_ns:
            if self._overdue_passes >= OVERDUE_PASSES or not self.rebuilds.is_overdue(now_ns):
                return False
            self._overdue_passes += 1
        nobody_waits = all(self.rebuilds.moves(slot) for slot in slots)
        batch = Batch(
            now_ns, _NOBODY, np.empty(0, META), np.empty((0, TURN_SAMPLES), np.int16),
            earlier=self.rebuilds.take(slots), shed=shed,
        )  # fmt: skip
        with stepping_back(nobody_waits):
            counters.passes_total += self._engine.step(batch).passes
        counters.turns_rebuilt_total += len(slots)
        return True

    def news(self) -> Iterator[tuple[int, CaughtUp]]:
        """For workers, since last asked: which of their calls have caught up."""
        for slot, turn in self.rebuilds.take_caught_up().items():
            worker, leased = self._calls[slot]
            yield worker, CaughtUp(leased.call, slot, leased.generation, turn)

    def pass_ns(self, rows: int) -> float:
        """What a pass of so many calls usually takes."""
        return self.step_time.line.ns(rows, rows * self._engine.most_positions)

    def _admit(self, slot: int) -> None:
        del self._calls[slot]
        self.rebuilds.admit(slot, self._clock_ns())
        self._states.open(slot, int(self._table.group[slot]))
        self._metrics.counters.calls_moved_total += 1

    def _most(self) -> int:
        """Of how many calls a pass is over before the next group's tick, at least one.

        As many as a group may have where nobody is live: most of what a pass of a few costs is per pass.
        """
        fitting = (
            rows
            for rows in range(len(self.rebuilds), 1, -1)
            if self.step_time.predict_ns(rows) <= self._leases.step_limit_ns
        )
        least = self._leases.capacity if len(self.rebuilds) == self._leases.leased else 1
        return max(least, next(fitting, 1))
