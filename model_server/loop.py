"""The model server's loop: sleep until the tick, take, step, publish, ring. One thread, one epoll set.

Control messages are dealt with between ticks, one at a time, never within `GUARD_NS` of a tick. Garbage is
collected, and what the engine keeps is checked, in the slack, never in a step. Whatever an engine raises ends the
process: the supervisor starts a new one, and the workers come back with their calls.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from media.slots import SlotTable
from media.timebase import NS_PER_MS, NS_PER_S
from model_server.calibration import calibrate
from model_server.config import ModelServerConfig
from model_server.control import Control
from model_server.engine import LOST_STATUS, EngineLost
from model_server.engine.moshi.weights import device
from model_server.engine.registry import make_engine
from model_server.log import set_up_logging
from model_server.priority import ask_for_priority, make_way
from model_server.server import LOOKS_NS, ModelServer
from model_server.slack import GUARD_NS
from model_server.turn_clock import TurnClock

LEASE_NS = 5 * NS_PER_MS
"""What a lease with a log may take: while some come, no message is looked at so shortly before a tick."""
COLLECT_EVERY_NS = 10 * NS_PER_S
COLLECT_NEEDS_NS = 20 * NS_PER_MS
"""Slack that a collection and a check must have: after `gc.freeze` they take well below 1 ms and a few ms."""
REBUILD_LOOKS_NS = 10 * NS_PER_MS
"""Between looks whether calls that are to be rebuilt have settled, and whether those that move have new turns."""
ALONE_NS = 2 * NS_PER_S
"""Once nobody would start us again: workers whose server has died try to attach 20 times a second."""


log = structlog.get_logger()


class CannotServe(Exception):
    """A setting or the machine does not let us start; it says what to do."""


def serve(
    config: ModelServerConfig,
    stopping: Callable[[], bool],
    wanted: Callable[[], Path | None] | None = None,
    is_alone: Callable[[], bool] = lambda: False,
) -> None:
    """Serve until `stopping`, or, when whoever kept us is gone (`is_alone`), until nobody is attached any more.

    What an engine raises comes out of here; `CannotServe` when it cannot start.

    A spare has `wanted`, which returns when it is to serve, and at which socket; None when it never is. Until then
    everything is made ready but the control socket.

    Steps are measured by CPU time at first: while everything starts, or others are served before a spare, the
    machine is busy, and calls that are refused for that would never show how long their steps take.
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
            weights=config.weights,
            trunk=config.trunk,
            device=config.device,
            sums=config.sums,
        )
        table = SlotTable.create(config.slots, config.rows, config.video, config.groups, config.video_pixels)
    except (ValueError, OSError) as wrong:
        raise CannotServe(str(wrong)) from wrong
    if config.realtime_priority and wanted is None:
        ask_for_priority()  # before steps are measured: they are to take what they will take in calls
    # in CPU time of this thread, but for what other ranks, SGLang's scheduler and a GPU do
    is_elsewhere = (
        config.ranks > 1
        or config.device != "cpu"
        or config.engine == "sglang"
        or (config.engine == "moshi" and device().is_gpu)
    )
    clock_ns = time.monotonic_ns if is_elsewhere else time.thread_time_ns
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
        server.began_s = int(time.time())
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
        set_up_logging(config.log_level, config.log_format)
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
