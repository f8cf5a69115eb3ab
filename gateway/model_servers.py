"""Model servers for `microturn up`: one serves, one has everything loaded, warmed and measured, and waits.

A cold start takes seconds (libraries, weights, calibration), of which calls hear every one; a spare opens its
socket some milliseconds after it is wanted. It waits on its standard input, without CPU: a line says that it is
wanted, the end of file that nobody wants it any more. It is made when the one that serves is ready, at a lower
priority where we can take that back, and it may die without anybody noticing but the log: the next one is made.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence

import structlog

from gateway.priority import come_forward, step_back

log = structlog.get_logger()

SETTLE_S = 5.0
"""After a model server is ready, before its spare is made: calls are rebuilt first, with all of the machine."""
AGAIN_S = 5.0
"""After a spare died: whatever killed it while it loaded will do so again."""


class ModelServers:
    """Starts them; `supervise.Child` keeps the one that serves alive."""

    def __init__(self, argv: Sequence[str], *, with_spare: bool) -> None:
        """`argv` is the command line of one that serves at once; `--spare` is added for one that waits."""
        self._argv, self._with_spare = tuple(argv), with_spare
        self._spare: Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> Process:
        """One that serves: the spare, or, without one, a new process."""
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
                *self._argv, stdin=DEVNULL, stdout=out, start_new_session=True
            )
        if self._with_spare:
            self._keeping = asyncio.create_task(self._keep_spare(process))
        return process

    def close(self) -> None:
        """Nobody is wanted any more; the spare of a main process that was killed sees it, too."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self._spare is not None and self._spare.returncode is None:
            self._spare.terminate()

    async def _keep_spare(self, serving: Process) -> None:
        """One waits, from when `serving` is ready until it is taken."""
        assert serving.stdout is not None
        if not await serving.stdout.readline():
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
    assert spare.stdin is not None
    with contextlib.suppress(ConnectionError):  # it died: whoever keeps it alive will see
        spare.stdin.write(b"serve\n")
        await spare.stdin.drain()
    spare.stdin.close()
