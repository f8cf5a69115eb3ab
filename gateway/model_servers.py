"""Model servers for `microturn up`: one serves, one has everything loaded, warmed and measured, and waits.

A cold start takes seconds (libraries, weights, calibration), of which calls hear every one; a spare opens its
socket some milliseconds after it is wanted. It waits on its standard input, without CPU: a line says that it is
wanted, the end of file that nobody wants it any more. One that serves hears of our end in the same way (`--kept`),
and goes on for as long as workers are attached to it. A spare is made when the one that serves is ready, at a lower
priority where we can take that back, and it may die without anybody noticing but the log: the next one is made.

In a live upgrade (`gateway/upgrade.py`) there is an *heir*, too: a new server that serves beside the other one, at
a path of its own. It inherits the path when it is promoted, and at once when the other one dies.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.priority import come_forward, step_back

log = structlog.get_logger()

SETTLE_S = 5.0
"""After a model server is ready, before its spare is made: calls are rebuilt first, with all of the machine."""
AGAIN_S = 5.0
"""After a spare died: whatever killed it while it loaded will do so again."""


@dataclass(slots=True)
class Heir:
    """A model server that is to take the place of the one that serves."""

    process: Process
    argv: tuple[str, ...]
    path: Path
    """Where it serves until it is promoted."""
    is_ready: bool = False


class ModelServers:
    """Starts them; `supervise.Child` keeps the one that serves alive."""

    def __init__(self, argv: Sequence[str], path: Path, *, with_spare: bool) -> None:
        """`argv` is the command line of one that serves at once, at `path`; with `--spare` it is one that waits."""
        self._argv, self.path, self._with_spare = tuple(argv), path, with_spare
        self._spare: Process | None = None
        self.heir: Heir | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> Process:
        """One that serves: the heir or the spare, or, without one, a new process."""
        if self.heir is not None and self.heir.is_ready and self.heir.process.returncode is None:
            log.info("the new model server inherits", pid=self.heir.process.pid)
            return self.promote()
        if self._keeping is not None:
            self._keeping.cancel()
        spare, self._spare = self._spare, None
        if spare is not None and spare.returncode is None:
            process = spare
            await _want(spare)
            log.info("the spare model server takes over", pid=spare.pid)
        else:
            out = PIPE if self._with_spare else DEVNULL
            process = await asyncio.create_subprocess_exec(
                *self._argv, "--kept", stdin=PIPE, stdout=out, start_new_session=True
            )
        if self._with_spare:
            self._keeping = asyncio.create_task(self._keep_spare(process))
        return process

    async def make_heir(self, argv: Sequence[str]) -> Heir:
        """A new model server by this command line, which loads at a lower priority; `is_ready` is the caller's."""
        assert self.heir is None
        process = await asyncio.create_subprocess_exec(
            *argv, "--spare", stdin=PIPE, stdout=PIPE, start_new_session=True
        )
        step_back(process.pid)
        self.heir = Heir(process, tuple(argv), self.path.with_name(f"{self.path.name}.next"))
        await _write(process, f"serve {self.heir.path}\n")
        return self.heir

    def promote(self) -> Process:
        """The heir's is the path from now on, and the next ones are made as it was; another spare, too."""
        heir, self.heir = self.heir, None
        assert heir is not None
        heir.path.rename(self.path)
        self._argv = heir.argv
        if self._keeping is not None:
            self._keeping.cancel()
        if self._spare is not None and self._spare.returncode is None:
            self._spare.terminate()
        self._spare = None
        if self._with_spare:
            self._keeping = asyncio.create_task(self._keep_spare(None))
        return heir.process

    def disinherit(self) -> None:
        """There is no heir any more."""
        heir, self.heir = self.heir, None
        if heir is not None and heir.process.returncode is None:
            heir.process.terminate()

    def close(self) -> None:
        """Nobody is wanted any more; the spare of a main process that was killed sees it, too."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self._spare is not None and self._spare.returncode is None:
            self._spare.terminate()
        self.disinherit()

    async def _keep_spare(self, starting: Process | None) -> None:
        """One waits, from when the one that is `starting`, if one is, is ready, until it is taken."""
        if starting is not None:
            assert starting.stdout is not None
            if not await starting.stdout.readline():
                return  # it died first: whoever comes after it is followed by a spare
        await asyncio.sleep(SETTLE_S)
        while True:
            self._spare = await asyncio.create_subprocess_exec(
                *self._argv, "--spare", stdin=PIPE, stdout=PIPE, start_new_session=True
            )
            step_back(self._spare.pid)
            status = await self._spare.wait()
            log.error("spare model server died", status=status, again_in_s=AGAIN_S)
            self._spare = None
            await asyncio.sleep(AGAIN_S)


async def _want(spare: Process) -> None:
    come_forward(spare.pid)
    await _write(spare, "serve\n")


async def _write(process: Process, line: str) -> None:
    """All that it is ever told; that we are gone, it hears of the kernel."""
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):  # it died: whoever keeps it alive will see
        process.stdin.write(line.encode())
        await process.stdin.drain()
