"""A TCP proxy on loopback whose answers are late, or whose line is cut: a server that is far away, or gone.

    client --> 127.0.0.1:port --> unix socket of the server
    client <--    delay_s     <--

It knows bytes and nothing of what they mean. Cut, it is as a network that has parted: connections stay open, new
ones can be made, and not a byte comes through. When it is whole again they are closed: what was under way is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

_PIECE = 1 << 16


class SlowLine:
    """Belongs to one event loop. `delay_s` may change at any time and counts for what comes after."""

    def __init__(self, server: Path) -> None:
        self.delay_s = 0.0
        self.port = 0
        self.connections = 0
        """Ever made."""
        self._server = server
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Nothing passes from now on."""
        self._whole.clear()

    def mend(self) -> None:
        """The line is whole; what was under way when it was cut is lost with its connections."""
        for task in self._tasks:
            task.cancel()
        self._whole.set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[SlowLine]:
        """On a port of its own while the block runs."""
        listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listener.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_unix_connection(str(self._server))
            try:
                ways = (self._pass(reader, back, late=False), self._pass(there, writer, late=True))
                await asyncio.wait(
                    [asyncio.ensure_future(way) for way in ways], return_when="FIRST_COMPLETED"
                )
            finally:
                for end in (writer, back):
                    end.close()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, late: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_PIECE):
                if late and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._whole.wait()
                sink.write(data)
                await sink.drain()
