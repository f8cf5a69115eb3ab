"""How many HTTP connections there may be, and how long one may take to say what it wants.

aiohttp bounds a request, and how long a connection rests between two; not how many there are, nor how long the
first request's head may take. Beyond `most`, the new connection is closed: those that wait are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

MOST_CONNECTIONS: Final = 1024
HEAD_S: Final = 10.0
_END_OF_HEAD: Final = b"\r\n\r\n"


@dataclass(slots=True)
class GuardCounters:
    """Connections that were closed here, and what was no HTTP."""

    connections_refused: int = 0
    connections_too_slow: int = 0
    requests_malformed: int = 0


class Guard:
    """A factory of protocols around another one, for `loop.create_server`."""

    def __init__(
        self,
        inner: Callable[[], asyncio.Protocol],
        most: int = MOST_CONNECTIONS,
        head_s: float = HEAD_S,
        counters: GuardCounters | None = None,
    ) -> None:
        self.counters = counters or GuardCounters()
        self.inner, self.most, self.head_s = inner, most, head_s
        self.open = 0

    def __call__(self) -> asyncio.Protocol:
        return _Guarded(self)


class _Guarded(asyncio.Protocol):
    """One connection: passes everything on once it is let in."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._inner: asyncio.Protocol | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        guard = self._guard
        if guard.open >= guard.most:
            guard.counters.connections_refused += 1
            cast(asyncio.Transport, transport).abort()
            return
        guard.open += 1
        self._inner = guard.inner()
        self._timer = asyncio.get_running_loop().call_later(guard.head_s, self._too_slow, transport)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._inner is None:
            return
        if self._timer is not None:
            seen, self._tail = self._tail + data, (self._tail + data)[-3:]
            if _END_OF_HEAD in seen:
                self._timer.cancel()
                self._timer = None
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else None

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._inner is not None:
            self._guard.open -= 1
            self._inner.connection_lost(exc)

    def _too_slow(self, transport: asyncio.BaseTransport) -> None:
        self._timer = None
        self._guard.counters.connections_too_slow += 1
        cast(asyncio.Transport, transport).abort()
