"""The one clock of all calls of a process: every 2 ms it sends what is due and reads what came.

Each stream has one of ten sub-slots of the 20 ms packet time, so that a hundred calls leave evenly spread.
Due times come from an absolute schedule on the monotonic clock: a late pass sends late, the next is on
time, nothing drifts. Sockets are read from one epoll per pass, not by a callback per packet, and the
kernel stamps arrivals, so reading late does not measure late.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import time
from types import TracebackType

from gateway.caller.arrival import wall_to_monotonic_ns
from gateway.caller.stream import RtpStream

PACKET_NS = 20_000_000
SUB_SLOTS = 10
SUB_SLOT_NS = PACKET_NS // SUB_SLOTS


class Pacer:
    """Sends and receives for every stream between `add` and `remove`. An async context manager."""

    def __init__(self) -> None:
        self.max_late_ns = 0  # the latest that a pass has been
        self._slots: list[list[RtpStream]] = [[] for _ in range(SUB_SLOTS)]
        self._by_descriptor: dict[int, RtpStream] = {}
        self._busy = asyncio.Event()
        self._epoll = select.epoll()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Pacer:
        self._task = asyncio.create_task(self._run(), name="rtp-pacer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._epoll.close()

    def add(self, stream: RtpStream) -> None:
        """Start a stream at the next turn of the emptiest sub-slot."""
        min(self._slots, key=len).append(stream)
        descriptor = stream.sock.fileno()
        self._by_descriptor[descriptor] = stream
        self._epoll.register(descriptor, select.EPOLLIN)
        self._busy.set()

    def remove(self, stream: RtpStream) -> None:
        """Stop a stream, having read what waits on its socket. Its socket stays open."""
        stream.receive_all(wall_to_monotonic_ns())
        descriptor = stream.sock.fileno()
        self._epoll.unregister(descriptor)
        del self._by_descriptor[descriptor]
        for slot in self._slots:
            if stream in slot:
                slot.remove(stream)
        if not self._by_descriptor:
            self._busy.clear()

    async def _run(self) -> None:
        while True:
            await self._busy.wait()
            tick = time.monotonic_ns() // SUB_SLOT_NS
            while self._busy.is_set():
                due_ns = (tick + 1) * SUB_SLOT_NS
                await asyncio.sleep((due_ns - time.monotonic_ns()) / 1e9)
                now_ns = time.monotonic_ns()
                self.max_late_ns = max(self.max_late_ns, now_ns - due_ns)
                for passed in range(tick + 1, now_ns // SUB_SLOT_NS + 1):
                    tick = passed
                    for stream in self._slots[passed % SUB_SLOTS]:
                        if not stream.finished:
                            stream.send_next()
                self._receive()

    def _receive(self) -> None:
        to_monotonic_ns = wall_to_monotonic_ns()
        for descriptor, _ in self._epoll.poll(0, max(len(self._by_descriptor), 1)):
            self._by_descriptor[descriptor].receive_all(to_monotonic_ns)
