"""An event loop whose UDP endpoints keep RTP as it came: bytes and the kernel's time of arrival.

While a call is being set up its socket wakes the loop as usual. After that the pacer reads all sockets at its
ticks: at 40 calls a callback for every packet would cost the generator more than all the rest. One rule: RTP is
kept and nothing else is done with it; STUN, DTLS and RTCP go on to the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from array import array
from collections.abc import Callable
from typing import Any

from gateway.caller.arrival import arrival_ns, ask_for_arrivals, wall_to_monotonic_ns


def is_rtp(data: bytes) -> bool:
    """RTP rather than STUN, DTLS (RFC 7983 section 7) or RTCP (RFC 5761 section 4)."""
    return len(data) > 11 and 127 < data[0] < 192 and not 63 < (data[1] & 0x7F) < 96


class DatagramPort(asyncio.DatagramTransport):
    """One UDP socket of one call."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: Any) -> None:
        super().__init__()
        self.datagrams: list[bytes] = []  # RTP, still protected
        self.arrivals_ns = array("q")  # beside datagrams, monotonic
        self.on_close: Callable[[DatagramPort], None] | None = None
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._closed = False
        loop.add_reader(sock, self.read)
        protocol.connection_made(self)

    def fileno(self) -> int:
        return self._sock.fileno()

    def leave_reading(self) -> None:
        """Wake the loop no more; somebody else calls `read`."""
        self._loop.remove_reader(self._sock)

    def read(self) -> None:
        """Take every datagram that waits."""
        to_monotonic_ns = wall_to_monotonic_ns()
        receive = self._sock.recvmsg
        while True:
            try:
                data, ancillary, _, address = receive(2048, 64)
            except OSError:  # nothing more waits, the peer's port is closed, or ours
                return
            if is_rtp(data):
                self.arrivals_ns.append(arrival_ns(ancillary, to_monotonic_ns))
                self.datagrams.append(data)
            elif data:
                self._protocol.datagram_received(data, address)

    def send_now(self, data: bytes, address: tuple[str, int]) -> bool:
        """False when the socket did not take it: it was full, or is closed."""
        try:
            self._sock.sendto(data, address)
        except OSError:
            return False
        return True

    # -- asyncio.DatagramTransport

    def sendto(self, data: Any, addr: Any = None) -> None:
        self.send_now(data, addr)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if self._closed:
            return default
        return {"socket": self._sock, "sockname": self._sock.getsockname()}.get(name, default)

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self.on_close is not None:
            self.on_close(self)
        self._loop.remove_reader(self._sock)
        self._sock.close()
        self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()


class CallerLoop(asyncio.SelectorEventLoop):
    """The usual loop, with `DatagramPort` for UDP."""

    async def create_datagram_endpoint(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], local_addr: Any = None, **other: Any
    ) -> tuple[Any, Any]:
        """As in asyncio. Raises OSError when the address cannot be bound."""
        if local_addr is None or other:
            return await super().create_datagram_endpoint(protocol_factory, local_addr, **other)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                ask_for_arrivals(sock)
            sock.bind(local_addr)
        except OSError:
            sock.close()
            raise
        protocol = protocol_factory()
        return DatagramPort(self, sock, protocol), protocol
