"""A live upgrade: a new model server takes the calls of the one that serves, while it serves. Nobody hears of it.

    a new process, with today's code, settings and checkpoint, loads, warms and measures, at low priority
      --> it serves, at a path of its own; workers can use it as they use the old one
      --> the old one is told to leave: it tells its workers, who move their calls (`gateway/handover.py`)
      --> it has no call left, and no worker: the new one takes its path, and it is ended

Its one rule: until the last step the old one is what it was. Whatever goes wrong before, it is told to stay, calls
that have moved move back the same way, and the new one is ended. If the old one dies, the new one inherits. If we
are killed, each server goes on for as long as workers are attached to it: calls that have been told to move do so.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.attachment import Attachment, CannotAttach, RowCounters
from gateway.departure import SPREAD_S
from gateway.model_control import ask_model, tell_to_leave
from gateway.model_servers import Heir, ModelServers
from gateway.priority import come_forward
from gateway.supervise import Child
from media.leases import BadMessage

log = structlog.get_logger()

LOAD_S = 120.0
"""For libraries, weights and measuring, on cores that calls have first."""
MOVE_S = 180.0
"""For all calls. What is on the way at a time is bounded by the new server's slack: 12 s of log a call."""
LET_GO_S = SPREAD_S + 2.0
"""For workers that have no call there any more; one that is slower finds the new one at its path."""
BACK_S = 60.0
"""For those that move back."""
INHERIT_S = 1.0
"""What fails because the old one has just died has not failed: it is seen, and the new one promoted, by then."""
ANSWER_S = 60.0
"""For one that comes after the old one, if that dies while the new one loads."""
END_S = 5.0
POLL_S = 0.2


class UpgradeFailed(Exception):
    """What went wrong, and what became of it."""


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What a live upgrade took."""

    load_s: float
    move_s: float
    calls: int
    """That moved."""
    inherited: bool
    """The old one died before all had."""


@dataclass(frozen=True, slots=True)
class _Served:
    """What must be the same on both sides, for a call to move without being noticed."""

    engine: str
    groups: int
    video_size: tuple[int, int]


class Upgrade:
    """One attempt. `tell` gets a line for the operator at each step."""

    def __init__(
        self, servers: ModelServers, serving: Child, argv: Sequence[str], tell: Callable[[str], None]
    ) -> None:
        """`argv` is the command line of the new one, see `ModelServers`."""
        self._servers, self._serving, self._argv, self._tell = servers, serving, tuple(argv), tell

    async def run(self) -> Upgraded:
        """Until the new one serves alone; `UpgradeFailed` when the old one goes on."""
        begun_s = time.monotonic()
        self._tell("a new model server is loading")
        heir = await self._servers.make_heir(self._argv)
        try:
            await self._load(heir)
            loaded_s = time.monotonic()
            calls = 0
            try:
                if not self._inherited(heir):
                    await self._compare(heir)
                    calls, _ = await _held(self._servers.path)
                    self._tell(f"it is ready; {max(0, calls)} calls move to it")
                    await self._move(heir)
            except (UpgradeFailed, OSError):
                if not await self._inherits(heir):
                    raise
            inherited = self._inherited(heir)
            if not inherited:
                await self._end_old()
            while not self._inherited(heir):  # the old one has died just now
                await asyncio.sleep(POLL_S)
            moved_s = time.monotonic() - loaded_s
            return Upgraded(round(loaded_s - begun_s, 2), round(moved_s, 2), calls, inherited)
        finally:
            if not self._inherited(heir):
                self._servers.disinherit()

    def _inherited(self, heir: Heir) -> bool:
        return self._servers.heir is not heir

    async def _inherits(self, heir: Heir) -> bool:
        """As `_inherited`, or it will in a moment."""
        until_s = time.monotonic() + INHERIT_S
        while not self._inherited(heir) and heir.process.returncode is None and time.monotonic() < until_s:
            await asyncio.sleep(POLL_S)
        return self._inherited(heir)

    async def _load(self, heir: Heir) -> None:
        assert heir.process.stdout is not None
        try:
            line = (await asyncio.wait_for(heir.process.stdout.readline(), LOAD_S)).decode().strip()
        except TimeoutError:
            raise UpgradeFailed(f"the new model server was not ready after {LOAD_S:.0f} s") from None
        if not line.startswith("ready "):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(heir.process.wait(), END_S)
            why = f": {line}" if line else ""
            raise UpgradeFailed(f"the new model server does not start ({_status(heir.process)}){why}")
        heir.is_ready = True
        come_forward(heir.process.pid)

    async def _compare(self, heir: Heir) -> None:
        """Whether calls can move at all."""
        until_s = time.monotonic() + ANSWER_S
        while not await ask_model(self._servers.path) and time.monotonic() < until_s:
            await asyncio.sleep(POLL_S)
        before, after = await _look_at(self._servers.path), await _look_at(heir.path)
        if before != after:
            raise UpgradeFailed(
                f"calls cannot move from {before} to {after}: engine, groups of the turn clock and size of "
                "pictures stay as they are in a live upgrade; restart microturn up to change them"
            )

    async def _move(self, heir: Heir) -> None:
        """Until the old one has no call and no worker left, or is dead."""
        path = self._servers.path
        await tell_to_leave(path, heir.path)
        try:
            if left := await self._until_left(path, heir, MOVE_S):
                raise UpgradeFailed(f"{left} calls did not move within {MOVE_S:.0f} s")
            if not self._inherited(heir) and not await _is_alive(heir):
                raise UpgradeFailed(f"the new model server died ({_status(heir.process)}) while calls moved")
        except BaseException:
            if not self._inherited(heir):
                with contextlib.suppress(OSError, TimeoutError, BadMessage):
                    await self._move_back(heir)
            raise

    async def _move_back(self, heir: Heir) -> None:
        path = self._servers.path
        await tell_to_leave(path, None)
        if heir.process.returncode is None:
            await tell_to_leave(heir.path, path)
            await self._until_left(heir.path, heir, BACK_S)

    async def _until_left(self, path: Path, heir: Heir, most_s: float) -> int:
        """Until the server there has no call, and no worker but slow ones, or one of the two is dead.

        Else, after `most_s`, the calls that it still has; -1 when it does not say.
        """
        until_s = time.monotonic() + most_s
        let_go_s = time.monotonic() + LET_GO_S
        while not self._inherited(heir) and heir.process.returncode is None:
            calls, workers = await _held(path)
            now_s = time.monotonic()
            if calls:
                let_go_s = now_s + LET_GO_S
            elif not workers or now_s > let_go_s:
                return 0
            if now_s > until_s:
                return calls
            await asyncio.sleep(POLL_S)
        return 0

    async def _end_old(self) -> None:
        old = self._serving.process
        if old is None:  # just died: whoever keeps it alive promotes the heir
            return
        self._serving.replace(self._servers.promote())
        with contextlib.suppress(ProcessLookupError):
            old.terminate()
        try:
            await asyncio.wait_for(old.wait(), END_S)
        except TimeoutError:
            log.warning("the old model server does not end", pid=old.pid, waited_s=END_S)
            with contextlib.suppress(ProcessLookupError):
                old.kill()


async def _held(path: Path) -> tuple[int, int]:
    """Calls and workers that the server there has; -1 when it does not say so."""
    stats = await ask_model(path)
    if stats is None:
        return -1, -1
    counters = stats["counters"]
    workers = counters["workers_attached_total"] - counters["workers_gone_total"]
    return int(stats["gauges"]["slots_leased"]), int(workers)


async def _is_alive(heir: Heir) -> bool:
    """A process that was killed is not always waited for yet."""
    return heir.process.returncode is None and await ask_model(heir.path, END_S) is not None


async def _look_at(path: Path) -> _Served:
    server = Attachment("up", path, RowCounters(), replied=lambda *_: None, told=lambda *_: None)
    try:
        await server.open()
    except CannotAttach as wrong:
        raise UpgradeFailed(
            f"the model server at {path} cannot be attached to ({wrong}): only releases with the same protocol and "
            "the same slot table can be upgraded live; restart microturn up"
        ) from None
    try:
        assert server.table is not None
        return _Served(server.engine, server.table.groups, server.table.video_size)
    finally:
        server.close()


def _status(process: Process) -> str:
    status = process.returncode
    if status is None:
        return "it does not end"
    return f"exit {status}" if status >= 0 else f"signal {-status}"
