"""Who restarts whom: `microturn up` keeps the model server and the gateway, the gateway keeps its workers.

A child that dies is started again at once; one that dies young waits longer each time, up to 5 s, so that a
broken set-up does not spin. Children get SIGTERM at the end, and SIGKILL when they do not listen.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Sequence

import structlog

log = structlog.get_logger()

YOUNG_S = 5.0
MOST_PATIENCE_S = 5.0


def patience_s(young_deaths: int) -> float:
    """How long to wait before the next start, after so many young deaths in a row: 0, 0.1, 0.2 ... 5 s."""
    return 0.0 if young_deaths <= 1 else min(MOST_PATIENCE_S, 0.1 * 2 ** min(young_deaths - 2, 10))


class Child:
    """One process that is kept alive until `stop`."""

    def __init__(
        self, name: str, argv: Sequence[str], *, died: Callable[[], None] = lambda: None, quiet: bool = False
    ) -> None:
        self.name, self.argv = name, list(argv)
        self.restarts = 0
        self._died = died
        self._quiet = quiet
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    @property
    def pid(self) -> int:
        """Of the process that runs now; 0 when none does."""
        return self._process.pid if self._process is not None else 0

    async def keep(self) -> None:
        """Run it, and run it again, until `stop`."""
        young_deaths = 0
        while not self._stopping:
            born = time.monotonic()
            output = asyncio.subprocess.DEVNULL if self._quiet else None
            self._process = await asyncio.create_subprocess_exec(
                *self.argv, stdin=asyncio.subprocess.DEVNULL, stdout=output, start_new_session=True
            )
            status = await self._process.wait()
            self._process = None
            if self._stopping:
                return
            young_deaths = young_deaths + 1 if time.monotonic() - born < YOUNG_S else 0
            wait_s = patience_s(young_deaths)
            log.error("process died", name=self.name, status=_told(status), again_in_s=wait_s)
            self._died()
            self.restarts += 1
            await asyncio.sleep(wait_s)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after `grace_s` seconds."""
        self._stopping = True
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), grace_s)
        except TimeoutError:
            log.warning("process does not end", name=self.name, waited_s=grace_s)
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def _told(status: int) -> str:
    return f"exit {status}" if status >= 0 else signal.Signals(-status).name
