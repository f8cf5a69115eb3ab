"""The model server's loop: sleep until the tick, take, step, publish, ring. One thread, one epoll set.

Control messages are dealt with between ticks, one at a time, never within `GUARD_NS` of a tick. Garbage is
collected, and what the engine keeps is checked, in the slack, never in a step. Whatever an engine raises ends the
process: the supervisor starts a new one, and the workers come back with their calls.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import structlog

from media.chunk import Chunk
from media.leases import Lease, Leased, Refused, Release, Stats
from media.slots import SlotTable
from media.timebase import NS_PER_MS, NS_PER_S, TURN_NS, TURN_SAMPLES
from model_server.batch import Batch
from model_server.config import ModelServerConfig
from model_server.control import Control
from model_server.engine import LOST_STATUS, Engine, EngineLost
from model_server.engine.registry import make_engine
from model_server.exchange import collect, publish
from model_server.late_turns import LateTurn, LateTurns
from model_server.leases import Leases
from model_server.metrics import Metrics
from model_server.priority import ask_for_priority, make_way, stepping_back
from model_server.scheduler import NOBODY, SlotStates
from model_server.shedding import Shed, Shedding
from model_server.slack import GUARD_NS, Slack
from model_server.step_time import StepTime
from model_server.turn_clock import TurnClock

LOOKS_NS = (4 * NS_PER_MS, 8 * NS_PER_MS)
"""After a tick, when chunks that were not there are looked for again: the machine may have held up their worker.
A reply that is published within `media.leg.WAKE_NS` (8 ms) after its budget is still played."""
REBUILD_LOOKS_NS = 10 * NS_PER_MS
"""Between looks whether calls that are to be rebuilt have settled, and whether those that move have new turns."""
LEASE_NS = 5 * NS_PER_MS
"""What a lease with a log may take: while some come, no message is looked at so shortly before a tick."""
COLLECT_EVERY_NS = 10 * NS_PER_S
COLLECT_NEEDS_NS = 20 * NS_PER_MS
"""Slack that a collection and a check must have: after `gc.freeze` they take well below 1 ms and a few ms."""
TURN_LIMIT_NS = TURN_NS * 9 // 10
"""All steps of a turn; beyond it something is left out (`shedding.py`)."""
CALIBRATION_LOUDNESS = 1_000
"""Of the noise that calibration hears: digital silence costs less than a line."""
CALIBRATION_STEPS = 32
CALIBRATION_NS = NS_PER_S // 2
"""For each size; a step that takes long is believed sooner."""
CALIBRATION_LEAST_STEPS = 8
CALIBRATION_LINE = "5"
CALIBRATION_TYPISTS = 4
"""One call of so many types it in a turn: what is read, and what is written and said after it, costs about as
much as what is written and said among people who speak."""
CALIBRATION_BEGINNING = 4
"""Turns of each size that do not count: elsewhere calls do not begin all at once."""
CALIBRATION_MAX_ROWS = 256

ALONE_NS = 2 * NS_PER_S
"""Once nobody would start us again: workers whose server has died try to attach 20 times a second."""

_NOBODY = np.empty(0, np.intp)

log = structlog.get_logger()


class CannotServe(Exception):
    """A setting or the machine does not let us start; it says what to do."""


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
        self.leases = Leases(table, self._step_time.predict_ns)
        self.slack = Slack(table, engine, self._states, self.leases, self._step_time, self.metrics, clock_ns)
        self.is_leaving = False
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
                log.info("late turns", rows=len(late_B), of=len(batch), slot=slot, **late.spans_ms)

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
        answer = self.slack.refuses(wish) or self.leases.lease(worker, wish, self._clock_ns())
        if isinstance(answer, Leased):
            try:
                self.engine.open(answer.slot, wish.persona)
            except ValueError as wrong:
                released = Release(wish.call, answer.slot, answer.generation)
                self.leases.release(worker, released, self._clock_ns())
                answer = Refused(wish.call, str(wrong), 0)
        if isinstance(answer, Leased):
            with stepping_back(wish.moves):
                self.slack.open(worker, wish, answer, past)
            self._ask_for_pictures([answer.slot])
            self.metrics.counters.leases_total += 1
        else:
            self.metrics.counters.leases_refused_total += 1  # the worker says why: it knows the call
        return answer

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
            log.warning("release of a slot that is not held", worker=worker, slot=notice.slot)

    def gone(self, worker: int) -> None:
        """The worker's connection is closed: all of its calls are over."""
        for slot in self.leases.drop_worker(worker, self._clock_ns()):
            self._close(slot)

    def stats(self) -> Stats:
        """Counters, gauges and histograms so far."""
        line = self._step_time.line
        gauges = {
            "passes_limit": self.engine.most_passes,
            "misses_per_million": self.metrics.misses_per_million,
            "shedding": int(self.shedding.level),
            "step_fixed_ns": round(line.fixed_ns),
            "step_per_row_ns": round(line.per_row_ns),
            "step_per_position_ns": round(line.per_position_ns),
            "slots": self.table.slots,
            "slots_leased": self.leases.leased,
            "slots_resting": self.leases.resting,
            "calls_rebuilding": len(self.slack.rebuilds),
            "leaving": int(self.is_leaving),
            "step_predicted_full_ns": self._step_time.predict_ns(self.leases.capacity),
            "step_limit_ns": self.leases.step_limit_ns,
            **self.engine.gauges,
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


def calibrate(
    engine: Engine, groups: int, slots: int, clock_ns: Callable[[], int] = time.monotonic_ns
) -> StepTime:
    """Step times of this engine on this machine, for 1 row up to a full group, through a table of its own."""
    step_time = StepTime(engine.most_positions)
    rows = min(-(-slots // groups), CALIBRATION_MAX_ROWS)
    engine.warm(rows)
    table = SlotTable.create(rows, rows=2, video=2, groups=1)
    desk = ModelServer(table, engine, clock_ns, step_time)
    noise = np.random.default_rng(0).normal(0, CALIBRATION_LOUDNESS, TURN_SAMPLES)
    pcm = noise.astype(np.int16)
    for size in sorted({min(1 << power, rows) for power in range(rows.bit_length() + 1)}):
        while desk.leases.leased < size and isinstance(desk.lease(0, Lease(str(desk.leases.leased))), Leased):
            pass
        if desk.leases.leased < size:
            break  # so many would never be admitted
        desk.leases.budget_S[:] = TURN_NS  # no turn is late that is only measured
        begun_ns = clock_ns()
        for turn in range(CALIBRATION_STEPS):
            now_ns = clock_ns()
            step_time.looks_away = turn < CALIBRATION_BEGINNING
            if turn >= CALIBRATION_LEAST_STEPS and now_ns - begun_ns > CALIBRATION_NS:
                break
            for slot in range(size):
                line = CALIBRATION_LINE if slot % CALIBRATION_TYPISTS == turn % CALIBRATION_TYPISTS else ""
                table.put_chunk(slot, Chunk(int(table.generation[slot]), turn, now_ns, pcm, text=line))
            desk.tick(0, now_ns)
            table.outbound.advance(table.outbound.ready())
        step_time.forget_stalls()
    desk.gone(0)
    table.close()
    return step_time


def serve(
    config: ModelServerConfig,
    stopping: Callable[[], bool],
    wanted: Callable[[], Path | None] | None = None,
    is_alone: Callable[[], bool] = lambda: False,
) -> None:
    """Serve until `stopping`, or, when whoever kept us is gone (`is_alone`), until nobody is attached any more.

    What an engine raises comes out of here; `CannotServe` when it cannot start.

    A spare has `wanted`, which returns when it is to serve, and at which socket; None when it never is. Until then
    everything is made ready but the control socket. It measures its steps by CPU time: others are served meanwhile,
    before it.
    """
    path = config.socket

    try:
        engine = make_engine(
            config.engine,
            config.persona,
            config.checkpoint,
            config.passes,
            config.ranks,
            products=config.products,
            slots=config.slots,
        )
        table = SlotTable.create(config.slots, config.rows, config.video, config.groups, config.video_pixels)
    except (ValueError, OSError) as wrong:
        raise CannotServe(str(wrong)) from wrong
    if config.realtime_priority and wanted is None:
        ask_for_priority()  # before steps are measured: they are to take what they will take in calls
    # the time of other ranks, and of SGLang's scheduler, is none of ours
    alone = wanted is None or config.ranks > 1 or config.engine == "sglang"
    clock_ns = time.monotonic_ns if alone else time.thread_time_ns
    step_time = calibrate(engine, config.groups, config.slots, clock_ns)
    server = ModelServer(table, engine, time.monotonic_ns, step_time)
    with contextlib.ExitStack() as held:
        held.callback(table.close)
        held.enter_context(_garbage_collected_by_hand())
        if wanted is not None:
            at = wanted()
            if at is None:
                return
            path = at
            if config.realtime_priority:
                ask_for_priority()
        try:
            control = Control(path, table, engine.name, server, server.metrics.counters, later=config.socket)
        except (ValueError, OSError) as wrong:
            raise CannotServe(str(wrong)) from wrong
        held.callback(control.close)
        log.info("serving", socket=str(path), engine=engine.name, slots=config.slots)
        print(f"ready {path}", flush=True)
        _keep_time(server, control, config.groups, _over(stopping, is_alone, lambda: control.workers))
        if config.realtime_priority:
            make_way()  # another one may serve already: to take this one apart takes a tenth of a second


def _over(
    stopping: Callable[[], bool], is_alone: Callable[[], bool], workers: Callable[[], int]
) -> Callable[[], bool]:
    """Whether it is time to end: told so, or alone, and nobody was attached for `ALONE_NS`."""
    attached_ns = time.monotonic_ns()

    def over() -> bool:
        nonlocal attached_ns
        if stopping() or not is_alone():
            return stopping()
        if workers():
            attached_ns = time.monotonic_ns()
        return time.monotonic_ns() - attached_ns > ALONE_NS

    return over


def _keep_time(server: ModelServer, control: Control, groups: int, stopping: Callable[[], bool]) -> None:
    clock = TurnClock(groups)
    now_ns = collected_ns = time.monotonic_ns()
    while True:
        tick_ns, group = clock.next_tick(now_ns)
        server.metrics.counters.ticks_skipped_total = clock.skipped
        if now_ns - collected_ns > COLLECT_EVERY_NS and tick_ns - now_ns > COLLECT_NEEDS_NS:
            gc.collect()
            server.check()
            collected_ns = now_ns
        control.serve(0)  # busy to the brim, we still hear one message a tick
        while (left_ns := tick_ns - time.monotonic_ns()) > GUARD_NS and not stopping():
            if server.slack and left_ns < LEASE_NS:
                break
            if server.slack and (control.serve(0) or server.rebuild(tick_ns, group)):
                for worker, told in server.slack.news():
                    control.tell(worker, told)
                continue  # leases before passes: calls of a group are rebuilt together
            wait_ns = left_ns - GUARD_NS
            control.serve((min(wait_ns, REBUILD_LOOKS_NS) if server.slack else wait_ns) / NS_PER_S)
        if stopping():
            return
        if left_ns > 0:
            time.sleep(left_ns / NS_PER_S)
        for worker in server.tick(group, tick_ns, looks=len(LOOKS_NS)):
            control.ring(worker)
        for looks, after_ns in zip(range(len(LOOKS_NS))[::-1], LOOKS_NS, strict=True):
            if not server.awaits_some:
                break
            time.sleep(max(0, tick_ns + after_ns - time.monotonic_ns()) / NS_PER_S)
            for worker in server.look_again(tick_ns, looks):
                control.ring(worker)
        now_ns = time.monotonic_ns()


@contextlib.contextmanager
def _garbage_collected_by_hand() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def run(
    config: ModelServerConfig,
    *,
    wanted: Callable[[], Path | None] | None = None,
    is_alone: Callable[[], bool] = lambda: False,
) -> int:
    """Serve until SIGINT or SIGTERM; the exit status of the process.

    0 after a signal, 1 when the engine raised, 2 when it could not start, 70 when a process that the engine needs
    is lost (the log says why). Signals are taken only in a process's main thread; elsewhere it serves for ever.
    Prints one line, `ready PATH`. `is_alone` is as in `serve`; `wanted` makes it a spare, see there: 0 when it
    never is, and signals end it at once as long as it is not. Its line says why it is not ready, too.
    """
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, config.log_level.upper())),
            logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        )
    stop = threading.Event()

    def heed_signals() -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())

    def heeding_signals(wanted: Callable[[], Path | None]) -> Path | None:
        at = wanted()
        if at is not None:
            heed_signals()
        return at

    try:
        if wanted is None:
            heed_signals()
            serve(config, stop.is_set, is_alone=is_alone)
        else:
            serve(config, stop.is_set, lambda: heeding_signals(wanted), is_alone)
    except CannotServe as wrong:
        log.error("cannot serve", reason=str(wrong))
        _say_why(wanted is not None, str(wrong))
        return 2
    except EngineLost as wrong:
        if not stop.is_set():  # else Ctrl-C has reached its processes, too
            log.error("the engine is lost: this process ends", reason=str(wrong))
            _say_why(wanted is not None, str(wrong))
            return LOST_STATUS
    except Exception as wrong:
        log.exception("the engine raised: this process ends")
        _say_why(wanted is not None, f"{type(wrong).__name__}: {wrong}")
        return 1
    log.info("stopped")
    return 0


def _say_why(is_spare: bool, reason: str) -> None:
    """Who keeps a spare reads its standard output; for others the log is enough."""
    if is_spare:
        print(reason.replace("\n", " "), flush=True)
