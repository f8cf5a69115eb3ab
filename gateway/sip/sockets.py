# SPDX-License-Identifier: GPL-3.0-or-later
"""The sockets of the SIP edge: UDP, TCP and TLS outside, one UDP socket on 127.0.0.1 towards the workers.

Octets come in to whoever hears them and go out along their flows; what they mean is not known here.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Final, Protocol

from gateway.sip.connection import Connection
from gateway.sip.edge_settings import EdgeSettings
from gateway.sip.flows import Flow, Send

RECEIVE_BUFFER_BYTES: Final = 4 << 20  # bursts of INVITEs while the loop is busy; the kernel may give less
PORT_ATTEMPTS: Final = 16  # to find a free port for UDP and TCP at once


class Hearer(Protocol):
    """Who hears of datagrams and connections (`connection.Owner`): the edge."""

    def connected(self, connection: Connection) -> bool: ...
    def disconnected(self, connection: Connection) -> None: ...
    def receive(self, connection: Connection | None, data: bytes, source: Flow) -> None:
        """A datagram where there is no connection."""
        ...

    def tls_failed(self) -> None: ...
    def flow_in_use(self, flow: Flow) -> bool: ...


class Sockets:
    """Of one edge, whose connections these are."""

    def __init__(self, settings: EdgeSettings, owner: Hearer) -> None:
        self._settings, self._owner = settings, owner
        self._inside: asyncio.DatagramTransport | None = None
        self._outside: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._tls_server: asyncio.Server | None = None
        self._address = (settings.host, settings.port)
        self.connections: dict[int, Connection] = {}
        """Those that are open, by their number."""

    async def open(self) -> None:
        """Bind all sockets. Raises OSError when an address is taken; then none is left open."""
        try:
            await self._bind_outside()
            await self._bind_tls()
            self._inside = await self._bind_udp("127.0.0.1", self._settings.inside_port, inside=True)
        except BaseException:
            await self.close()
            raise

    @property
    def address(self) -> tuple[str, int]:
        """Host and port outside, as bound."""
        return self._address

    @property
    def tls_port(self) -> int:
        """TLS port outside, as bound; 0 without TLS."""
        return int(self._tls_server.sockets[0].getsockname()[1]) if self._tls_server else 0

    @property
    def inside(self) -> tuple[str, int]:
        """Host and UDP port that workers have in their route sets, as bound."""
        assert self._inside is not None
        host, port = self._inside.get_extra_info("sockname")[:2]
        return host, int(port)

    @property
    def is_full(self) -> bool:
        """As many connections as there may be."""
        return len(self.connections) >= self._settings.max_tcp_connections

    def send(self, sends: list[Send]) -> int:
        """Each along its flow; gives how many had no way out, and are dropped."""
        dropped = 0
        for flow, data in sends:
            if flow.is_connection:
                connection = self.connections.get(flow.connection)
                if connection is None:
                    dropped += 1
                else:
                    connection.send(data)
                continue
            transport = self._inside if flow.kind == "worker" else self._outside
            if transport is None or transport.is_closing():
                dropped += 1
                continue
            try:
                transport.sendto(data, (flow.host, flow.port))
            except (OSError, ValueError):  # an address of the other family, or a name: a peer's doing
                dropped += 1
        return dropped

    async def connect(self, host: str, port: int, name: str) -> Flow:
        """A TCP connection of ours, with TLS to who can show the certificate of `name`; OSError when there is none,
        or one too many."""
        context = self._settings.tls_client if name else None
        if name and context is None:
            raise OSError("no TLS is set up for connections of ours")
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(
                self._owner, self._settings.tcp_idle_s, context, dialled=True, server_name=name
            ),
            host,
            port,
        )
        if connection.flow.connection not in self.connections:
            raise OSError("too many connections")
        await connection.open()
        return connection.flow

    async def _bind_outside(self) -> None:
        wanted = self._settings.port
        for attempt in range(PORT_ATTEMPTS):
            self._outside = await self._bind_udp(self._settings.host, wanted, inside=False)
            self._address = self._outside.get_extra_info("sockname")[:2]
            if not self._settings.tcp:
                return
            try:
                self._server = await asyncio.get_running_loop().create_server(
                    lambda: Connection(self._owner, self._settings.tcp_idle_s), *self._address
                )
                return
            except OSError as error:
                last = attempt == PORT_ATTEMPTS - 1
                if wanted or last or error.errno != errno.EADDRINUSE:
                    raise
                self._outside.close()

    async def _bind_tls(self) -> None:
        context = self._settings.tls_context
        if context is not None:
            self._tls_server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self._owner, self._settings.tcp_idle_s, context),
                self._address[0],
                self._settings.tls_port,
            )

    async def _bind_udp(self, host: str, port: int, inside: bool) -> asyncio.DatagramTransport:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Datagrams(self._owner, inside), local_addr=(host, port)
        )
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES
        )
        return transport

    async def close(self) -> None:
        """All of them, and every connection; may be called twice."""
        servers = [server for server in (self._server, self._tls_server) if server is not None]
        for server in servers:
            server.close()
        for connection in list(self.connections.values()):
            connection.transport.abort()
        self.connections.clear()
        for transport in (self._inside, self._outside):
            if transport is not None:
                transport.close()
        for server in servers:
            await server.wait_closed()
        self._server = self._tls_server = None
        await asyncio.sleep(0)  # let the transports close their sockets


class _Datagrams(asyncio.DatagramProtocol):
    """Datagrams of one socket; which socket it is decides what their sender may be."""

    def __init__(self, edge: Hearer, inside: bool) -> None:
        self._edge = edge
        self._inside = inside

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        kind: Flow = Flow("worker" if self._inside else "udp", addr[0], addr[1])
        self._edge.receive(None, data, kind)
