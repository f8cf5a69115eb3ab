"""What every worker process is, whatever carries its calls: its signals, its tasks, its turns, its line to the main
process, and when its garbage is collected.

Garbage: the collector never runs by itself. It would come in the middle of a turn, and in any thread that makes
objects, in a callback of pjsua2 too, where nothing of that library may be destroyed. Here it runs in the loop's
thread, when replies of a group are handed out and no group of any engine is cut soon: once a second over the young,
whose survivors are not looked at again until some calls have ended, and then everything is. It waits some seconds
for such a moment, then it is done behind the next replies whatever comes, and without any replies all the same.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import structlog

from gateway import control
from gateway.cut_time import CutTime
from gateway.descriptors import make_room
from gateway.engine_turns import EngineTurns
from gateway.link import MainLink
from gateway.priority import ask_for_realtime
from gateway.tasks import Tasks
from media import heap
from media.timebase import NS_PER_MS

log = structlog.get_logger()

LOOK_AFTER_S = 1.0
"""Calls are looked after, and figures reported, so often."""
ENDED_CALLS_TO_COLLECT = 8
"""Calls leave cycles behind. To find them takes the longer the more objects live, to free them the more are dead:
with so few it takes some milliseconds."""
SWEEP_NS = 10 * NS_PER_MS
"""A sweep begins only where nobody is cut for so long."""
MOST_WAITED_S = 3
"""Where engines' groups lie so close that there never is such a moment, or some engine never replies."""
SWITCH_S = 0.0005
"""Until a thread that waits gets the interpreter: neither a native callback nor the loop may wait for long."""


class Garbage:
    """When this process collects what the reference counts have left."""

    def __init__(self) -> None:
        self._ended = 0
        self._young = False
        self._waited_s = 0

    def begin(self) -> None:
        """What is there now stays; from now on nothing is collected but by `sweep`."""
        gc.collect()
        gc.freeze()
        gc.disable()

    def call_ended(self) -> None:
        """Only counts, so it may be called anywhere in the loop's thread."""
        self._ended += 1

    def second_passed(self) -> None:
        """The young are due."""
        self._waited_s += self._young
        self._young = True

    @property
    def is_overdue(self) -> bool:
        """Nobody's replies have brought a sweep, though it would have been done in any moment."""
        return self._waited_s > MOST_WAITED_S

    def sweep(self, quiet_ns: int = SWEEP_NS) -> None:
        """What is due, in the thread that owns the calls, outside of their callbacks and of turns: if nobody is cut
        for `quiet_ns`, or it has waited for too long."""
        if quiet_ns < SWEEP_NS and self._waited_s < MOST_WAITED_S:
            return
        if self._ended >= ENDED_CALLS_TO_COLLECT:
            gc.collect()
            self._ended = 0
        elif self._young:
            gc.collect(1)
        self._young, self._waited_s = False, 0


class WorkerProcess:
    """One worker's, which says what is `ready`, looks after its calls once a second and then makes the report.

    `hear` gets what the main process says, but for `Drain`, which ends `serve`.
    """

    def __init__(
        self,
        name: str,
        control_path: str,
        model_path: str,
        cut_time: CutTime,
        *,
        ready: Callable[[], control.WorkerMessage],
        is_busy: Callable[[], bool],
        look_after: Callable[[], Awaitable[None]],
        report: Callable[[], control.Report],
        hear: Callable[[control.MainMessage], None] = lambda message: None,
        attend: Callable[[control.Attend, socket.socket], None] | None = None,
        takes_notes: bool = False,
        engines: Mapping[str, str] | None = None,
    ) -> None:
        """`model_path` is the socket of the usual engine's model server, `engines` has those of further ones.
        `attend` gets the connections that the main process hands over."""
        self.garbage = Garbage()
        sockets = {"": model_path, **(engines or {})}
        self.turns = EngineTurns(
            name,
            {engine: Path(path) for engine, path in sockets.items()},
            cut_time,
            attachable=self._attachable,
            between=lambda: self.garbage.sweep(cut_time.quiet_ns(time.monotonic_ns())),
            takes_notes=takes_notes,
        )
        self.link = MainLink(Path(control_path), ready=ready, hear=self._hear, is_busy=is_busy, attend=attend)
        self._look_after, self._report, self._hear_more = look_after, report, hear
        self._tasks = Tasks(self._broken)
        self._stop = asyncio.Event()

    def heed_signals(self) -> None:
        """SIGTERM and SIGINT end `serve`, now or once it is called."""
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, self._stop.set)

    async def serve(self, *works: Coroutine[Any, Any, None]) -> None:
        """Run `works` beside its own until told to stop, or one broke; what it runs goes on until `close`."""
        self.garbage.begin()
        for work in (self.turns.keep(), self._keep_in_touch(), self._each_second(), *works):
            self.spawn(work)
        await self._stop.wait()

    def close(self) -> None:
        """Give up what is under way."""
        self._tasks.cancel()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it until `close`; if it raises, that is a bug of ours and ends the process."""
        self._tasks.spawn(work)

    def _broken(self, wrong: BaseException) -> None:
        self._stop.set()
        log.error("worker broken", exc_info=wrong)

    async def _each_second(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AFTER_S)
            await self._look_after()
            self.link.tell(self._report())
            self.garbage.second_passed()
            if self.turns.is_empty or self.garbage.is_overdue:
                self.garbage.sweep()

    # -- the main process

    async def _keep_in_touch(self) -> None:
        await self.link.keep()
        self._stop.set()

    def _attachable(self, engine: str, attached: bool) -> None:
        self.link.tell(control.Attachable(attached, engine))

    def _hear(self, message: control.MainMessage) -> None:
        if isinstance(message, control.Drain):
            self._stop.set()
        else:
            self._hear_more(message)


def prepare_process(*, realtime: bool) -> None:
    """Before its first thread is started: all of them are scheduled alike, and there is nobody to wait for yet."""
    sys.setswitchinterval(SWITCH_S)
    make_room()
    log.debug("memory", kept=heap.keep())
    if realtime:
        log.debug("scheduling", got=ask_for_realtime())
