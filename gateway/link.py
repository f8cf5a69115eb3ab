"""A worker's line to the gateway's main process, which may go away and come back.

`Ready` says all there is to know whenever a connection is made, so what could not be told meanwhile is not
missed. A worker without calls whose main process stays away leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
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
        attend: Callable[[control.Attend, socket.socket], None] | None = None,
    ) -> None:
        """`attend` gets each client's connection that the main process hands over."""
        self.path = path
        self.is_up = False
        """Whether the main process is there."""
        self._ready, self._hear, self._is_busy, self._attend = ready, hear, is_busy, attend
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
                async for packet, descriptors in packets(connection):
                    self._take(control.decode_main(packet), descriptors)
                self._send, self.is_up = lambda packet: None, False
            away_since = time.monotonic()

    def _take(self, message: control.MainMessage, descriptors: list[int]) -> None:
        """A message, and what came with it: nothing of that may stay open unknown."""
        if isinstance(message, control.Attend) and self._attend is not None and len(descriptors) == 1:
            self._attend(message, socket.socket(fileno=descriptors[0]))
            return
        for descriptor in descriptors:
            os.close(descriptor)
        if not isinstance(message, control.Attend):
            self._hear(message)


async def packets(connection: socket.socket) -> AsyncIterator[tuple[bytes, list[int]]]:
    """Every packet, with the descriptors that came with it, until the other side is gone."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while True:
            try:
                packet, descriptors, _, _ = socket.recv_fds(
                    connection, control.MAX_BYTES, 1, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await _readable(loop, connection)
                continue
            if not packet:
                return
            yield packet, descriptors


async def _readable(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    waiter: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, lambda: None if waiter.done() else waiter.set_result(None))
    try:
        await waiter
    finally:
        loop.remove_reader(connection)
