# SPDX-License-Identifier: GPL-3.0-or-later
"""One TCP connection of a peer, with TLS on it or without: opened, bounded, closed when idle.

What its octets mean is its owner's business; it only holds the parser that frames them.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Final, Protocol, cast

from gateway.sip.flows import Flow
from gateway.sip.message import StreamParser
from gateway.sip.timers import SECOND_NS
from gateway.sip.tls import HANDSHAKE_S, Tls

MAX_UNSENT_BYTES: Final = 256 << 10  # of one TCP peer; one that reads slower is cut off


class Owner(Protocol):
    """Who hears of a connection: the edge."""

    def connected(self, connection: Connection) -> bool:
        """False when it is one too many, or a stranger's."""
        ...

    def disconnected(self, connection: Connection) -> None: ...
    def receive(self, connection: Connection, data: bytes, source: Flow) -> None:
        """Plain octets in order."""
        ...

    def tls_failed(self) -> None: ...
    def flow_in_use(self, flow: Flow) -> bool:
        """Whether a call depends on it."""
        ...


class Connection(asyncio.Protocol):
    """TLS is on it if there is a context; `idle_s` without a message closes it unless a call needs it.  `dialled`
    says that we opened it, `server_name` whose certificate we want to see then."""

    _last_number = 0

    def __init__(
        self,
        owner: Owner,
        idle_s: float,
        context: ssl.SSLContext | None = None,
        dialled: bool = False,
        server_name: str = "",
    ) -> None:
        self._opened: asyncio.Future[None] | None = None
        self.dialled = dialled
        self._owner = owner
        self._idle_s = idle_s
        self._tls = None if context is None else Tls(context, server_name)
        self._timer: asyncio.TimerHandle | None = None
        self.parser = StreamParser()
        self.last_ns = time.monotonic_ns()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        Connection._last_number += 1  # never used again, so a late response cannot reach another peer
        host, port = transport.get_extra_info("peername", ("", 0))[:2]
        self.flow = Flow("tls" if self._tls else "tcp", host, port, Connection._last_number)
        if not self._owner.connected(self):
            self.transport.abort()
        elif self._tls is None:
            self._watch()
        else:
            self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_S, self._expect_open, self._tls)
            if self.dialled:
                self._write(self._tls.begin())

    async def open(self) -> None:
        """Wait for the handshake of a connection of ours; OSError when it fails."""
        if self._tls is None or self._tls.is_open:
            return
        if self.transport.is_closing():
            raise OSError("closed in its handshake")
        self._opened = asyncio.get_running_loop().create_future()
        await self._opened

    def _told_open(self, wrong: OSError | None) -> None:
        if self._opened is not None and not self._opened.done():
            if wrong is None:
                self._opened.set_result(None)
            else:
                self._opened.set_exception(wrong)

    def data_received(self, data: bytes) -> None:
        if self._tls is None:
            self._owner.receive(self, data, self.flow)
            return
        try:
            plain = self._tls.receive(data)
        except ssl.SSLError:
            self._fail(self._tls)
            return
        self._write(self._tls.outgoing())
        if self._tls.is_open:
            self._told_open(None)
        if plain:
            self._owner.receive(self, plain, self.flow)
        if self._tls.is_ended:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._told_open(OSError("closed in its handshake"))
        self._owner.disconnected(self)

    def send(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # asyncio would log each write
        self._write(data if self._tls is None else self._tls.send(data))

    def _write(self, data: bytes) -> None:
        if self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.transport.abort()
        else:
            self.transport.write(data)

    def close(self) -> None:
        """Once everything is sent."""
        if self._tls is not None and not self.transport.is_closing():
            self.transport.write(self._tls.close())
        self.transport.close()

    def _fail(self, tls: Tls) -> None:
        self._owner.tls_failed()
        self.transport.write(tls.outgoing())  # the alert
        self.transport.close()

    def _expect_open(self, tls: Tls) -> None:
        if tls.is_open:
            self._watch()
        else:
            self._fail(tls)

    def _watch(self) -> None:
        """Close when idle; a call that depends on the connection keeps it."""
        idle_s = (time.monotonic_ns() - self.last_ns) / SECOND_NS
        if idle_s >= self._idle_s and not self._owner.flow_in_use(self.flow):
            self.close()
            return
        left_s = self._idle_s - idle_s if idle_s < self._idle_s else self._idle_s
        self._timer = asyncio.get_running_loop().call_later(left_s, self._watch)
