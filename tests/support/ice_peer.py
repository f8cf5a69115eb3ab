"""Peers of the ICE ports: checks made of aioice's own STUN, real agents of aioice, and what connects them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import aioice
import pytest
from aioice import stun

from gateway.webrtc.ice import IceServer, IceSettings, LiteConnection
from gateway.webrtc.ice_tcp import FrameReader, frame

PATIENCE_S = 5.0
"""Before a test gives up on an answer that has to come."""
SECOND_NS = 1_000_000_000
RTP = bytes.fromhex("806f0001000000000000000100")
RTCP = bytes.fromhex("80c80001000000000000000100")
DTLS = bytes.fromhex("16fefd0000")
_SEEDS = Path(__file__).parents[3] / "shared/data/fuzz/stun"
needs_stun_seeds = pytest.mark.skipif(
    not _SEEDS.is_dir(), reason="../shared/data with fuzzing seeds is not here"
)


def stun_seeds() -> list[bytes]:
    """Messages that found faults in other programs."""
    return [path.read_bytes() for path in sorted(_SEEDS.iterdir())]


class Clock:
    """Time as a test wants it."""

    def __init__(self) -> None:
        self.ns = 1_000 * SECOND_NS

    def __call__(self) -> int:
        return self.ns

    def pass_s(self, seconds: float) -> None:
        self.ns += int(seconds * SECOND_NS)


@asynccontextmanager
async def running(
    settings: IceSettings | None = None, clock: Clock | None = None
) -> AsyncIterator[IceServer]:
    """A server on loopback, closed afterwards."""
    server = IceServer(settings or IceSettings(), clock) if clock else IceServer(settings or IceSettings())
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def reachable(server: IceServer, remote_username: str | None = "peer") -> LiteConnection:
    """A connection that has gathered and knows its peer's ufrag."""
    connection = server.new_connection()
    await connection.gather_candidates()
    connection.remote_username = remote_username
    return connection


def check(
    connection: LiteConnection,
    *,
    nominate: bool = True,
    remote: str = "peer",
    username: str = "",
    password: str = "",
    transaction_id: bytes | None = None,
    attributes: dict[str, Any] | None = None,
) -> bytes:
    """A connectivity check as a full, controlling agent sends it."""
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, transaction_id)
    message.attributes["USERNAME"] = username or f"{connection.local_username}:{remote}"
    message.attributes["PRIORITY"] = 1853824767
    message.attributes["ICE-CONTROLLING"] = 4711
    if nominate:
        message.attributes["USE-CANDIDATE"] = None
    message.attributes.update(attributes or {})
    message.add_message_integrity((password or connection.local_password).encode())
    return bytes(message)


class RawPeer:
    """A UDP socket that sends what it is told."""

    def __init__(self, server: IceServer, host: str = "127.0.0.1") -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.setblocking(False)
        self.to = (host, server.udp_port)
        self.address: tuple[str, int] = self.socket.getsockname()[:2]

    def send(self, data: bytes) -> None:
        self.socket.sendto(data, self.to)

    async def receive(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.get_running_loop().sock_recv(self.socket, 4096)

    async def ask(self, data: bytes) -> stun.Message:
        """Send a request, wait for its answer."""
        self.send(data)
        return stun.parse_message(await self.receive())

    def heard_nothing(self) -> bool:
        try:
            self.socket.recv(4096)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self.socket.close()


def full_agent(connection: LiteConnection) -> aioice.Connection:
    """aioice as the controlling agent towards `connection`, with loopback as its only address."""
    agent = aioice.Connection(ice_controlling=True)
    agent.remote_is_lite = True
    agent.remote_username, agent.remote_password = connection.local_username, connection.local_password
    connection.remote_username, connection.remote_password = agent.local_username, agent.local_password
    return agent


async def connect(agent: aioice.Connection, connection: LiteConnection) -> None:
    """Both ends connected, with the candidates of `connection`."""
    await connection.gather_candidates()
    await agent.gather_candidates()
    for candidate in connection.local_candidates:
        await agent.add_remote_candidate(candidate)
    await agent.add_remote_candidate(None)
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(agent.connect(), connection.connect())


class Bridge(asyncio.DatagramProtocol):
    """Brings an agent that knows UDP only over TCP: datagrams in, frames of RFC 4571 out, and back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._agent: tuple[str, int] | None = None
        self._frames = FrameReader()
        self._back = asyncio.ensure_future(self._return(reader))
        self.transport: asyncio.DatagramTransport
        self.frames = 0

    @classmethod
    @asynccontextmanager
    async def to(cls, host: str, port: int) -> AsyncIterator[Bridge]:
        reader, writer = await asyncio.open_connection(host, port)
        loop = asyncio.get_running_loop()
        transport, bridge = await loop.create_datagram_endpoint(
            lambda: cls(reader, writer), local_addr=(host, 0)
        )
        try:
            yield bridge
        finally:
            bridge._back.cancel()
            transport.close()
            writer.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    @property
    def port(self) -> int:
        return int(self.transport.get_extra_info("sockname")[1])

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._agent = addr[0], addr[1]
        self._writer.write(frame(data))

    async def _return(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65536):
            for datagram in self._frames.feed(data):
                self.frames += 1
                if self._agent is not None:
                    self.transport.sendto(datagram, self._agent)


class Asking(Protocol):
    """A peer by UDP or by TCP."""

    async def ask(self, data: bytes) -> stun.Message: ...


async def nominated(server: IceServer, peer: Asking) -> LiteConnection:
    """A connection whose path is `peer`."""
    connection = await reachable(server)
    assert (await peer.ask(check(connection))).message_class == stun.Class.RESPONSE
    return connection


async def settled(server: IceServer) -> None:
    """Everything sent so far has been read: one socket keeps the order."""
    witness = RawPeer(server, server.settings.host)
    connection = await reachable(server)
    await witness.ask(check(connection))
    await connection.close()
    witness.close()
