"""The narrowest place of a link: when a packet has passed it, and the queue before it, which has a bound.

One rule: first come, first served; what would make the queue longer than its bound is not taken (drop tail).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from loadtests.netem import traces
from media.timebase import NS_PER_MS, NS_PER_S


class Server(Protocol):
    """What sends packets one after the other."""

    def serve(self, size_bytes: int, from_ns: int) -> int:
        """When a packet that may begin at `from_ns` has passed. Never earlier than the one before it."""


class Rate(Protocol):
    """How fast a bottleneck is."""

    def begin(self, now_ns: int) -> Server:
        """One that is idle now."""


@dataclass(frozen=True, slots=True)
class ConstantRate:
    """So many kbit/s, always."""

    kbit_per_s: float

    def begin(self, now_ns: int) -> Server:
        return _Constant(self.kbit_per_s, now_ns)


@dataclass(frozen=True, slots=True)
class TraceRate:
    """A recorded cellular link, from `offset_s` of the recording, round and round."""

    trace: str
    offset_s: float = 0.0

    def begin(self, now_ns: int) -> Server:
        return _Recorded(self.trace, now_ns - round(self.offset_s * NS_PER_S))


class _Constant:
    def __init__(self, kbit_per_s: float, now_ns: int) -> None:
        self._ns_per_byte = 8 * NS_PER_MS / kbit_per_s
        self._free_ns = now_ns

    def serve(self, size_bytes: int, from_ns: int) -> int:
        self._free_ns = max(self._free_ns, from_ns) + round(size_bytes * self._ns_per_byte)
        return self._free_ns


class _Recorded:
    """An opportunity carries several small packets, or a part of a large one, and is lost when nothing waits."""

    def __init__(self, trace: str, began_ns: int) -> None:
        self._stamps_ms = traces.opportunities_ms(trace)
        self._length_ms = int(self._stamps_ms[-1])
        self._began_ns = began_ns
        self._index = -1  # counts on over the rounds
        self._left = 0

    def serve(self, size_bytes: int, from_ns: int) -> int:
        if self._index < 0 or self._time_ns(self._index) < from_ns:
            self._move_to(from_ns)
        while size_bytes > self._left:
            size_bytes -= self._left
            self._index, self._left = self._index + 1, traces.OPPORTUNITY_BYTES
        self._left -= size_bytes
        return self._time_ns(self._index)

    def _move_to(self, at_ns: int) -> None:
        """The first opportunity at that time or later."""
        age_ms = -(-(at_ns - self._began_ns) // NS_PER_MS)
        rounds, rest_ms = divmod(age_ms, self._length_ms)
        self._index = rounds * len(self._stamps_ms) + int(self._stamps_ms.searchsorted(rest_ms))
        self._left = traces.OPPORTUNITY_BYTES

    def _time_ns(self, index: int) -> int:
        rounds, place = divmod(index, len(self._stamps_ms))
        return self._began_ns + (rounds * self._length_ms + int(self._stamps_ms[place])) * NS_PER_MS


class Bottleneck:
    """A server with its queue."""

    def __init__(self, server: Server, queue_bytes: int) -> None:
        self._server = server
        self._queue_bytes = queue_bytes
        self._waiting: deque[tuple[int, int]] = deque()  # when it has passed, its bytes; bounded by the bytes
        self.queued_bytes = 0

    def admit(self, size_bytes: int, now_ns: int) -> int | None:
        """When the packet has passed, or None when the queue is full."""
        while self._waiting and self._waiting[0][0] <= now_ns:
            self.queued_bytes -= self._waiting.popleft()[1]
        if self.queued_bytes + size_bytes > self._queue_bytes:
            return None
        passed_ns = self._server.serve(size_bytes, now_ns)
        self._waiting.append((passed_ns, size_bytes))
        self.queued_bytes += size_bytes
        return passed_ns
