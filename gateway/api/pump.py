"""A client's connection whose TLS ends here, byte by byte to the worker that has its call, and back.

The worker has one end of a socketpair where it would have the connection itself. Neither way is anything looked
at; what is on its way waits in the two transports, at most `MOST_WAITING` bytes and one reading each way: beyond
that the side that it comes from is not read.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

MOST_WAITING: Final = 64 * 1024
"""Bytes: a second of sound."""


class _End(asyncio.Protocol):
    """One of the two: what comes in here goes out there."""

    other: _End

    def __init__(self, came: Callable[[int], None], lost: Callable[[Exception | None], None]) -> None:
        self._came, self._lost = came, lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(MOST_WAITING)

    def data_received(self, data: bytes) -> None:
        if not self.other.transport.is_closing():
            self._came(len(data))
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.other.transport.close()
        self._lost(exc)


async def pump(client: asyncio.Transport, inside: socket.socket, came: Callable[[int], None]) -> None:
    """Until the client's connection is closed; `inside`, ours from now on, is closed with it, and it with `inside`.

    The protocol that the client had is told of its end. `came` gets how many bytes came, from either.
    """
    over = asyncio.get_running_loop().create_future()
    before = cast(asyncio.Protocol, client.get_protocol())

    def lost(exc: Exception | None) -> None:
        before.connection_lost(exc)
        if not over.done():
            over.set_result(None)

    outer, inner = _End(came, lost), _End(came, lambda exc: None)
    outer.other, inner.other = inner, outer
    outer.connection_made(client)
    inside.setblocking(False)
    try:
        transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: inner, sock=inside)
    except BaseException:
        inside.close()
        raise
    if client.is_closing():
        transport.close()
        return
    client.set_protocol(outer)
    client.resume_reading()
    try:
        await over
    finally:
        client.abort()
