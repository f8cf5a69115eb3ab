"""The UDP port of a worker: all its calls on one socket, told apart by the address they come from.

A socket of our own and not an asyncio transport: several datagrams are read at each wake-up, and a send says at
once what became of it, instead of growing a buffer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any, Final

import structlog

from gateway.webrtc.ice_connection import LiteConnection
from gateway.webrtc.ice_counters import IceCounters
from gateway.webrtc.ice_stun import plain_address

BUFFER_BYTES: Final = 4 << 20  # 100 calls of 50 packets/s while the loop is away; the kernel may give less
MAX_DATAGRAM_BYTES: Final = 2048  # DTLS and SRTP stay below the 1,500 of Ethernet
BATCH: Final = 64  # datagrams at a wake-up, before others of the loop have their turn

Check = Callable[[bytes, Any, int], None]
"""What is done with STUN: datagram, path, arrival_ns."""

_log = structlog.get_logger(__name__)


class UdpPath:
    """An address of a peer behind our port."""

    __slots__ = ("connection", "heard_ns", "sockaddr", "_port")

    def __init__(self, port: UdpPort, sockaddr: tuple[Any, ...]) -> None:
        self.connection: LiteConnection | None = None
        self.heard_ns = 0
        self.sockaddr = sockaddr
        self._port = port

    @property
    def address(self) -> tuple[str, int]:
        return plain_address(self.sockaddr)

    def send(self, data: bytes) -> bool:
        """False, counted, when the socket does not take it now: a late datagram is worth nothing."""
        try:
            self._port.socket.sendto(data, self.sockaddr)
        except OSError:
            self._port.counters.send_errors += 1
            return False
        return True

    def join(self, connection: LiteConnection) -> None:
        """Datagrams from here are this connection's from now on."""
        self.connection = connection
        self._port.paths[self.sockaddr] = self

    def leave(self) -> None:
        self.connection = None
        if self._port.paths.get(self.sockaddr) is self:
            del self._port.paths[self.sockaddr]


class UdpPort:
    """One bound socket. Its table of paths is bounded by the connections, each of which bounds its own."""

    def __init__(
        self, bound: socket.socket, check: Check, now_ns: Callable[[], int], counters: IceCounters
    ) -> None:
        self.socket = bound
        self.counters = counters
        self.paths: dict[tuple[Any, ...], UdpPath] = {}
        self._check, self._now_ns = check, now_ns

    @property
    def number(self) -> int:
        return int(self.socket.getsockname()[1])

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self.socket, self.read)

    def close(self) -> None:
        """Of a port that was started, on its loop."""
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()

    def read(self) -> None:
        """Take what has come, up to a batch; the loop calls again if there is more."""
        receive, paths, counters = self.socket.recvfrom, self.paths, self.counters
        for _ in range(BATCH):
            try:
                data, sockaddr = receive(MAX_DATAGRAM_BYTES + 1)
            except BlockingIOError:
                return
            except OSError:
                counters.receive_errors += 1
                return
            counters.datagrams += 1
            path = paths.get(sockaddr)
            try:
                known = path is not None and path.connection or None
                if known is not None and 0 < len(data) <= MAX_DATAGRAM_BYTES and data[0] > 3:
                    known.receive(data, self._now_ns())
                else:
                    self._look_at(data, path, sockaddr)
            except Exception:
                counters.errors += 1
                if counters.errors % 1_000 == 1:
                    _log.exception("a datagram was too much for us", errors=counters.errors)

    def _look_at(self, data: bytes, path: UdpPath | None, sockaddr: tuple[Any, ...]) -> None:
        """STUN, and what is no datagram of a call."""
        if len(data) > MAX_DATAGRAM_BYTES:
            self.counters.oversized += 1
        elif data and data[0] < 4:
            self._check(data, path or UdpPath(self, sockaddr), self._now_ns())
        else:
            self.counters.unmatched += 1


def bind(kind: socket.SocketKind, host: str, port: int) -> socket.socket:
    """A non-blocking socket on an IPv4 or IPv6 address; "::" takes both. OSError says what could not be had."""
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    bound = socket.socket(family, kind)
    try:
        bound.setblocking(False)
        if family is socket.AF_INET6 and ipaddress.ip_address(host).is_unspecified:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if kind is socket.SOCK_DGRAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as wrong:
        bound.close()
        name = "UDP" if kind is socket.SOCK_DGRAM else "TCP"
        raise OSError(
            wrong.errno, f"cannot bind {name} {host} port {port}: {wrong.strerror}; choose another"
        ) from wrong
    return bound
