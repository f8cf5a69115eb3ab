"""What a model server does in a tick and between ticks, without its loop and its socket."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import structlog

from media.leases import Lease, Leased, Refused, Release, Stats
from media.slots import SlotTable
from media.timebase import NS_PER_MS, TURN_NS
from model_server import gpu
from model_server.batch import Batch
from model_server.engine import Engine
from model_server.exchange import collect, publish
from model_server.late_turns import LateTurn, LateTurns
from model_server.leases import Leases
from model_server.metrics import Metrics
from model_server.priority import stepping_back
from model_server.scheduler import NOBODY, SlotStates
from model_server.shedding import Shed, Shedding
from model_server.slack import Slack
from model_server.step_time import StepTime

LOOKS_NS = (4 * NS_PER_MS, 8 * NS_PER_MS)
"""After a tick, when chunks that were not there are looked for again: the machine may have held up their worker.
A reply that is published within `media.leg.WAKE_NS` (8 ms) after its budget is still played."""
TURN_LIMIT_NS = TURN_NS * 9 // 10
"""All steps of a turn; beyond it something is left out (`shedding.py`)."""
_NOBODY = np.empty(0, np.intp)

log = structlog.get_logger()


class ModelServer:
    """Table, ledger and engine of one rank, without loop and socket: time is an argument."""

    def __init__(
        self, table: SlotTable, engine: Engine, clock_ns: Callable[[], int], step_time: StepTime | None = None
    ) -> None:
        self.table, self.engine, self.metrics = table, engine, Metrics()
        self._clock_ns = clock_ns
        self._step_time = step_time or StepTime(engine.most_positions)
        self.shedding, self.late_turns = Shedding(), LateTurns()
        self._states = SlotStates.of(table.slots)
        self.leases = Leases(
            table, self._step_time.predict_ns, predict_up_to_ns=self._step_time.predict_up_to_ns
        )
        self.slack = Slack(table, engine, self._states, self.leases, self._step_time, self.metrics, clock_ns)
        self.is_leaving = False
        self.began_s = 0
        """When it began to serve, Unix time."""
        self._absent = _NOBODY
        self._group = 0
        self._busy_ns = [0] * table.groups
        """The newest step of each group: together, what a turn costs."""

    def tick(self, group: int, tick_ns: int, *, looks: int = 0) -> list[int]:
        """One tick of a group, from rings to rings; returns the workers whose doorbell is to be rung.

        So many `looks` for those that are not there may follow: see `look_again`.
        """
        begun_ns = self._clock_ns()
        self.metrics.counters.ticks_total += 1
        self.metrics.lateness.observe(begun_ns - tick_ns)
        self._absent = _NOBODY
        self._group, self._busy_ns[group] = group, 0
        self.slack.tick()
        if not self.leases.in_group[group]:
            return []
        return self._step(self._states.group_S == group, tick_ns, begun_ns, looks)

    def look_again(self, tick_ns: int, looks: int) -> list[int]:
        """For those that were not there at the tick; with no more `looks` to follow they are missing."""
        ours_S = np.zeros(self.table.slots, np.bool_)
        ours_S[self._absent] = True
        ours_S &= self._states.group_S != NOBODY
        before = self.metrics.counters.turns_total
        workers = self._step(ours_S, tick_ns, self._clock_ns(), looks)
        self.metrics.counters.turns_looked_for_total += self.metrics.counters.turns_total - before
        return workers

    @property
    def awaits_some(self) -> bool:
        """Some were not there when last looked for, and are not called missing yet."""
        return bool(len(self._absent))

    def _step(self, ours_S: npt.NDArray[np.bool_], tick_ns: int, begun_ns: int, looks: int) -> list[int]:
        counters = self.metrics.counters
        taken = collect(self.table, self._states, ours_S, tick_ns, is_last=not looks)
        gathered_ns = self._clock_ns()
        batch, plan = dataclasses.replace(taken.batch, shed=self.shedding.level), taken.plan
        if self.slack:
            batch = self.slack.rebuilds.put_behind(batch)
        self._absent = plan.absent if looks else _NOBODY
        self._states.commit(plan)
        counters.turns_missed_total += len(plan.missing)
        counters.resyncs_total += plan.resynced
        counters.rows_torn_total += taken.torn
        counters.rows_stale_total += taken.stale
        if batch.earlier:
            counters.turns_late_total += sum(map(len, batch.earlier.values()))
        if not len(batch) and not batch.earlier and not len(batch.missing_M):
            return []
        results = self.engine.step(batch)
        stepped_ns = self._clock_ns()
        accepted = publish(self.table, batch, results, stepped_ns, stepped_ns - gathered_ns)
        self._count_video(batch)
        counters.passes_total += results.passes
        self._ask_for_pictures([int(batch.slots_B[b]) for b in batch.chunks])  # its persona may be another
        if not len(batch):
            return []
        published_ns = self._clock_ns()
        self._time_step(len(batch), published_ns - begun_ns, results.positions)
        slack_B = self.leases.budget_S[batch.slots_B] - (published_ns - tick_ns)
        self.metrics.slack.observe(int(slack_B.min()))
        late_B = np.flatnonzero(slack_B < 0)
        if len(late_B):
            self._trace(batch, late_B, (begun_ns, gathered_ns, stepped_ns, published_ns))
        done = int(np.count_nonzero(accepted))
        counters.turns_shed_total += done if batch.shed else 0
        counters.turns_total += done
        counters.publishes_refused_total += len(batch) - done
        return [int(worker) for worker in np.unique(self.leases.worker_S[batch.slots_B[accepted]])]

    def _time_step(self, rows: int, step_ns: int, positions: int) -> None:
        self._step_time.add(rows, step_ns, positions)
        self.metrics.step.observe(step_ns)
        self._busy_ns[self._group] += step_ns
        if self.shedding.observe(sum(self._busy_ns), TURN_LIMIT_NS):
            self.leases.is_shedding = self.shedding.level is Shed.NEW_CALLS
            self._ask_for_pictures([int(slot) for slot in np.flatnonzero(self.leases.worker_S != NOBODY)])
            log.warning("shedding", shed=self.shedding.level.name, rows=rows, step_ms=step_ns / NS_PER_MS)

    def _trace(
        self, batch: Batch, late_B: npt.NDArray[np.intp], stamps_ns: tuple[int, int, int, int]
    ) -> None:
        """Keep where the time of each late turn went, and log the first of the step."""
        self.metrics.counters.turns_overdue_total += len(late_B)
        for b in late_B:
            slot, meta = int(batch.slots_B[b]), batch.meta_B[b]
            captured_ns, budget_ns = int(meta["stamp_ns"]), int(self.leases.budget_S[slot])
            late = LateTurn(slot, int(meta["turn"]), batch.tick_ns, captured_ns, *stamps_ns, budget_ns)
            self.late_turns.add(late)
            if b == late_B[0]:
                call = self.leases.name_of(slot)
                log.info("late turns", call=call, rows=len(late_B), of=len(batch), slot=slot, **late.spans_ms)

    def _ask_for_pictures(self, slots: Iterable[int]) -> None:
        """What is not looked at need not be decoded."""
        for slot in slots:
            self.table.pictures[slot] = 0 if self.shedding.level >= Shed.VIDEO else self.engine.pictures(slot)

    def check(self) -> None:
        """For idle moments: what the engine keeps of calls is whole; what is not is counted and logged."""
        for wrong in self.engine.check():
            self.metrics.counters.checks_failed_total += 1
            log.error("a sequence is not whole", reason=wrong)

    def lease(self, worker: int, wish: Lease, past: bytes = b"") -> Leased | Refused:
        """Admit a call, open its sequence; one that comes with a packed log of its turns is rebuilt first."""
        answer: Leased | Refused | None = self.slack.refuses(wish)
        self.leases.refused.wish += answer is not None
        answer = answer or self.leases.lease(worker, wish, self._clock_ns())
        if isinstance(answer, Leased):
            try:
                self.engine.open(answer.slot, wish.persona)
            except ValueError as wrong:
                released = Release(wish.call, answer.slot, answer.generation)
                self.leases.release(worker, released, self._clock_ns())
                answer = Refused(wish.call, str(wrong), 0)
                self.leases.refused.wish += 1
        if isinstance(answer, Leased):
            with stepping_back(wish.moves):
                self.slack.open(worker, wish, answer, past)
            self._ask_for_pictures([answer.slot])
            self.metrics.counters.leases_total += 1
        return answer  # the worker logs why it is refused: it knows the call

    def rebuild(self, tick_ns: int, group: int) -> bool:
        """One pass in the slack before this next tick, of `group`; see `Slack.append`."""
        return self.slack.append(tick_ns, group, self.shedding.level)

    def leave(self, to: str) -> None:
        """Workers are told to move their calls to another server; or, without one, not any more."""
        self.is_leaving = bool(to)
        log.info("leaving" if to else "staying", socket=to, calls=self.leases.leased)

    def release(self, worker: int, notice: Release) -> None:
        """The call is over; a release of what the worker does not hold is logged and changes nothing."""
        if self.leases.release(worker, notice, self._clock_ns()):
            self._close(notice.slot)
        else:
            log.warning(
                "release of a slot that is not held", call=notice.call, worker=worker, slot=notice.slot
            )

    def gone(self, worker: int) -> None:
        """The worker's connection is closed: all of its calls are over."""
        for slot in self.leases.drop_worker(worker, self._clock_ns()):
            self._close(slot)

    def stats(self) -> Stats:
        """Counters, gauges and histograms so far."""
        line, counters, refused = self._step_time.line, self.metrics.counters, self.leases.refused
        counters.leases_refused_slots_total = refused.slots
        counters.leases_refused_predicted_total = refused.predicted
        counters.leases_refused_overload_total = refused.overload
        counters.leases_refused_wish_total = refused.wish
        gauges = {
            "start_timestamp_seconds": self.began_s,
            "passes_limit": self.engine.most_passes,
            "misses_per_million": self.metrics.misses_per_million,
            "shedding": int(self.shedding.level),
            "step_fixed_ns": round(line.fixed_ns),
            "step_per_row_ns": round(line.per_row_ns),
            "step_per_position_ns": round(line.per_position_ns),
            "slots": self.table.slots,
            "slots_leased": self.leases.leased,
            "slots_resting": self.leases.resting,
            "free_calls": self.leases.free_calls(),
            "calls_rebuilding": len(self.slack.rebuilds),
            "leaving": int(self.is_leaving),
            "step_predicted_full_ns": self._step_time.predict_ns(self.leases.capacity),
            "step_limit_ns": self.leases.step_limit_ns,
            **self.engine.gauges,
            **gpu.figures(),
        }
        return Stats(self.metrics.fields(gauges))

    def _count_video(self, batch: Batch) -> None:
        """After the step: what the engine was given, and what did not keep still under it."""
        counters = self.metrics.counters
        counters.video_frames_missed_total = self.table.overwritten
        for chunk in batch.whole_chunks():
            counters.video_frames_total += len(chunk.video)
            counters.video_frames_overwritten_total += sum(not frame.intact() for frame in chunk.video)

    def _close(self, slot: int) -> None:
        self._states.close(slot)
        self.slack.close(slot)
        self.engine.close(slot)
