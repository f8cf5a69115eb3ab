"""A worker's line to the gateway's main process, which may go away and come back.

`Ready` says all there is to know whenever a connection is made, so what could not be told meanwhile is not
missed. A worker without calls whose main process stays away leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from gateway import control

RETRY_S = 0.1
ORPHAN_S = 10.0
"""A worker without calls leaves when its main process has been away so long."""


class MainLink:
    """One worker's end of the control socket."""

    def __init__(
        self,
        path: Path,
        *,
        ready: Callable[[], control.WorkerMessage],
        hear: Callable[[control.MainMessage], None],
        is_busy: Callable[[], bool],
    ) -> None:
        self.path = path
        self.is_up = False
        """Whether the main process is there."""
        self._ready, self._hear, self._is_busy = ready, hear, is_busy
        self._send: Callable[[bytes], object] = lambda packet: None

    def tell(self, message: control.WorkerMessage) -> None:
        """Say it if somebody listens."""
        with contextlib.suppress(OSError):
            self._send(control.encode(message))

    async def keep(self) -> None:
        """Stay in touch; returns when nobody needs this worker any more."""
        away_since = time.monotonic()
        while self._is_busy() or time.monotonic() - away_since < ORPHAN_S:
            try:
                connection = control.connect(self.path)
            except OSError:
                await asyncio.sleep(RETRY_S)
                continue
            with connection:
                self._send, self.is_up = connection.send, True
                self.tell(self._ready())
                async for packet in control.packets(connection):
                    self._hear(control.decode_main(packet))
                self._send, self.is_up = lambda packet: None, False
            away_since = time.monotonic()
