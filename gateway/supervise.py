"""Who restarts whom: `microturn up` keeps the model server and the gateway, the gateway keeps its workers.

A child that dies is started again at once; one that dies young waits longer each time, up to 5 s, so that a
broken set-up does not spin. Children get SIGTERM at the end, and SIGKILL when they do not listen.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Sequence

import structlog

log = structlog.get_logger()

YOUNG_S = 5.0
MOST_PATIENCE_S = 5.0


def patience_s(young_deaths: int) -> float:
    """How long to wait before the next start, after so many young deaths in a row: 0, 0.1, 0.2 ... 5 s."""
    return 0.0 if young_deaths <= 1 else min(MOST_PATIENCE_S, 0.1 * 2 ** min(young_deaths - 2, 10))


Start = Callable[[], Awaitable[Process]]


def command(argv: Sequence[str], *, quiet: bool = False, kept: bool = False) -> Start:
    """How a process with this command line is started; a quiet one's standard output is dropped.

    One that is `kept` has that flag and hears of our end (`gateway/keeper.py`).
    """

    async def start() -> Process:
        return await asyncio.create_subprocess_exec(
            *argv,
            *(["--kept"] if kept else []),
            stdin=PIPE if kept else DEVNULL,
            stdout=DEVNULL if quiet else None,
            start_new_session=True,
        )

    return start


class Child:
    """One process that is kept alive until `stop`."""

    def __init__(self, name: str, start: Start, *, died: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.restarts = 0
        self._start, self._died = start, died
        self._process: Process | None = None
        self._stopping = False

    @property
    def process(self) -> Process | None:
        """The one that runs now; None between two."""
        return self._process

    def replace(self, process: Process) -> None:
        """From now on another process is kept alive, which runs already; the one before it may end."""
        self._process = process

    @property
    def pid(self) -> int:
        """Of the process that runs now; 0 when none does."""
        return self._process.pid if self._process is not None else 0

    async def keep(self) -> None:
        """Run it, and run it again, until `stop`."""
        young_deaths = 0
        while not self._stopping:
            born = time.monotonic()
            process = self._process = await self._start()
            status = await process.wait()
            while self._process is not process:  # replaced: that was not its death
                process = self._process
                status = await process.wait()
            self._process = None
            if self._stopping:
                return
            young_deaths = young_deaths + 1 if time.monotonic() - born < YOUNG_S else 0
            wait_s = patience_s(young_deaths)
            log.error("process died", name=self.name, status=_told(status), again_in_s=wait_s)
            self._died()
            self.restarts += 1
            await asyncio.sleep(wait_s)

    async def stop(self, grace_s: float, how: signal.Signals = signal.SIGTERM) -> None:
        """SIGTERM, or `how` it is to end, and SIGKILL after `grace_s` seconds."""
        self._stopping = True
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            await asyncio.wait_for(process.wait(), grace_s)
        except TimeoutError:
            log.warning("process does not end", name=self.name, waited_s=grace_s)
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def _told(status: int) -> str:
    return f"exit {status}" if status >= 0 else signal.Signals(-status).name
