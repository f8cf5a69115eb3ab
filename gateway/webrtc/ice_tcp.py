"""Passive ICE-TCP (RFC 6544) of a worker: where UDP is blocked, calls come over TCP, framed as in RFC 4571.

Its bounds: a frame is no longer than a datagram may be, and so many come at one reading, or their stream is closed;
what a peer does not read is dropped, the newest first, once 16 KiB wait; a stream without a valid check is closed
after 10 s or 64 frames, or as soon as all places are taken and another one comes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

import structlog

from gateway.webrtc.ice_connection import LiteConnection
from gateway.webrtc.ice_counters import IceCounters
from gateway.webrtc.ice_stun import plain_address
from gateway.webrtc.ice_udp import MAX_DATAGRAM_BYTES, Check

MAX_FRAME_BYTES: Final = MAX_DATAGRAM_BYTES
MAX_UNSENT_BYTES: Final = 16 << 10  # 3 s of speech at 40 kbit/s: more would only be heard too late
NOT_SENT_LOW_WATER_BYTES: Final = 4 << 10  # what the kernel may hold beyond what is on the wire
SEND_BUFFER_BYTES: Final = 64 << 10
MAX_STREAMS: Final = 256
MAX_FRAMES: Final = 512  # at one reading: 5 s of a call with camera, after which it was dead anyway
MAX_SILENT_FRAMES: Final = 64  # before the first valid check
SILENT_NS: Final = 10_000_000_000

_log = structlog.get_logger(__name__)


class FrameReader:
    """Datagrams out of a stream: two octets of length, then the datagram (RFC 4571 2). Holds at most one."""

    def __init__(self) -> None:
        self.is_broken = False
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are complete; empty ones are left out. After one too long or too many, none any more."""
        data = self._rest + data
        at, read, frames = 0, 0, []
        while not self.is_broken and len(data) - at >= 2:
            end = at + 2 + (data[at] << 8 | data[at + 1])
            read += 1  # empty ones, too
            self.is_broken = end - at - 2 > MAX_FRAME_BYTES or read > MAX_FRAMES
            if self.is_broken or end > len(data):
                break
            if end > at + 2:
                frames.append(data[at + 2 : end])
            at = end
        self._rest = b"" if self.is_broken else data[at:]
        return frames


def frame(data: bytes) -> bytes:
    """One datagram as it goes into a stream."""
    return len(data).to_bytes(2, "big") + data


class TcpStream(asyncio.Protocol):
    """One accepted stream, which is a path once a valid check came over it."""

    def __init__(self, port: TcpPort) -> None:
        self.connection: LiteConnection | None = None
        self.heard_ns = 0
        self.opened_ns = 0
        self.address = ("", 0)
        self.silent_frames = 0
        self._port = port
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if not peer or not self._port.admit(self):  # it may be gone already
            self._transport.abort()
            return
        self.address = plain_address(peer)
        _keep_short(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        try:
            for datagram in self._reader.feed(data):
                self._port.take(datagram, self)
        except Exception:
            self._port.counters.errors += 1
            _log.exception("a frame was too much for us", errors=self._port.counters.errors)
            self.leave()
        if self._reader.is_broken:
            self._port.counters.tcp_bad_frames += 1
            self.leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.streams.discard(self)
        if self.connection is not None:
            self.connection.lose(self)
            self.connection = None
        self._transport = None

    def send(self, data: bytes) -> bool:
        """False, counted, while the peer does not read, and when it is gone."""
        transport = self._transport
        if transport is None or transport.is_closing():
            self._port.counters.send_errors += 1
            return False
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._port.counters.tcp_unsent += 1
            return False
        transport.write(frame(data))
        return True

    def join(self, connection: LiteConnection) -> None:
        self.connection = connection

    def leave(self) -> None:
        """Close it; the peer may open another."""
        if self._transport is not None:
            self._transport.abort()


class TcpPort:
    """One listener and its streams, at most `max_streams`."""

    def __init__(
        self,
        listening: socket.socket,
        check: Check,
        now_ns: Callable[[], int],
        counters: IceCounters,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        self.number = int(listening.getsockname()[1])
        self.counters = counters
        self.streams: set[TcpStream] = set()
        self._listening, self._check, self._now_ns = listening, check, now_ns
        self._max_streams = max_streams
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: TcpStream(self), sock=self._listening)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for stream in list(self.streams):
            stream.leave()

    def admit(self, stream: TcpStream) -> bool:
        """Take it; the oldest without a valid check makes room. False when every other one has a call."""
        if len(self.streams) >= self._max_streams and not self._make_room():
            self.counters.tcp_refused += 1
            return False
        stream.opened_ns = self._now_ns()
        self.streams.add(stream)
        self.counters.tcp_connections += 1
        return True

    def take(self, datagram: bytes, stream: TcpStream) -> None:
        """One frame: STUN, or for the stream's call."""
        if stream.connection is None:
            stream.silent_frames += 1
            if stream.silent_frames > MAX_SILENT_FRAMES:
                if stream in self.streams:
                    self._close_silent(stream)
                return
        if datagram[0] < 4:
            self._check(datagram, stream, self._now_ns())
        elif stream.connection is not None:
            stream.connection.receive(datagram, self._now_ns())
        else:
            self.counters.unmatched += 1

    def check_time(self, now_ns: int) -> None:
        """To be called about once a second: streams that have no call in time."""
        for stream in [s for s in self.streams if s.connection is None]:
            if now_ns - stream.opened_ns >= SILENT_NS:
                self._close_silent(stream)

    def _make_room(self) -> bool:
        silent = [stream for stream in self.streams if stream.connection is None]
        if silent:
            self._close_silent(min(silent, key=lambda stream: stream.opened_ns))
        return bool(silent)

    def _close_silent(self, stream: TcpStream) -> None:
        self.counters.tcp_silent += 1
        self.streams.discard(stream)
        stream.leave()


def _keep_short(sock: socket.socket | None) -> None:
    """Little in the kernel, where nothing can be dropped any more."""
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_LOW_WATER_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
