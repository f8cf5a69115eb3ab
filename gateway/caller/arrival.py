"""When a datagram came: the kernel's time of arrival, which keeps our own late wake-ups out of measured delays.

The kernel stamps datagrams only while some socket of the machine asks for it, and begins a moment after the
first one did; what comes in that moment bears the time of its reading.
"""

from __future__ import annotations

import socket
import struct
import time

# Linux, from asm-generic/socket.h; the socket module of 3.11 does not name it.
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
_OLDEST_NS = 1_000_000_000  # a kernel time older than this was taken across a step of the wall clock


def ask_for_arrivals(sock: socket.socket) -> None:
    """Have the kernel's time beside each datagram of `recvmsg`. Raises OSError where it cannot be had."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def wall_to_monotonic_ns() -> int:
    """Added to the wall clock gives the monotonic clock, until the former is set."""
    return time.monotonic_ns() - time.time_ns()


def arrival_ns(ancillary: list[tuple[int, int, bytes]], to_monotonic_ns: int) -> int:
    """The kernel's time on the monotonic clock, or now. `ancillary` is what `recvmsg` gave with the datagram,
    `to_monotonic_ns` what `wall_to_monotonic_ns` has given."""
    now_ns = time.monotonic_ns()
    if not ancillary:
        return now_ns
    seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
    stamped_ns = int(seconds * 1_000_000_000 + nanoseconds + to_monotonic_ns)
    return stamped_ns if now_ns - _OLDEST_NS < stamped_ns <= now_ns else now_ns
