"""Worker processes of every kind: started, adopted after a restart, listened to, stopped.

It knows names, connections and counters. What a worker's messages mean is its kind's business: the telephone's
edge (`gateway/telephones.py`) or the pool of browser calls (`gateway/webrtc/pool.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import structlog

from gateway import control
from gateway.metrics import Metrics
from gateway.spare import Spares
from gateway.supervise import Child

log = structlog.get_logger()

STOP_S = 3.0


class Kind(Protocol):
    """What the fleet tells of one kind of worker. `ValueError` ends the connection that said something wrong."""

    def welcome(self, ready: control.Ready | control.WebrtcReady, send: Callable[[bytes], object]) -> int:
        """It takes calls; gives how many live on in it."""

    def hear(self, worker: str, message: control.WorkerMessage) -> None:
        """What it says besides its figures."""

    def lose(self, worker: str) -> int:
        """It is gone; gives how many calls went with it."""


@dataclass(slots=True, eq=False)
class Member:
    """One worker."""

    name: str
    module: str
    options: bytes
    kind: Kind
    calls: int = 0
    adopted: int = 0
    child: Child | None = None
    connection: socket.socket | None = None
    counters: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)

    @property
    def what(self) -> str:
        """Its kind in a word: `sip`, `webrtc`."""
        return self.module.rpartition(".")[2]


class Fleet:
    """All workers of one main process. `spawn` runs a task until the process ends."""

    def __init__(self, metrics: Metrics, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self.members: dict[str, Member] = {}
        self.stopping = False
        self._told: set[str] = set()  # kinds whose start was told as a whole
        self._metrics, self._spawn, self._spares = metrics, spawn, Spares()

    def add(self, name: str, module: str, options: object, kind: Kind) -> None:
        """A worker to be: `python -m module`, with these options as JSON on its standard input."""
        self.members[name] = Member(name, module, msgspec.json.encode(options), kind)

    @property
    def ready(self) -> list[Member]:
        """Those that are connected."""
        return [member for member in self.members.values() if member.connection is not None]

    def hand(self, worker: str, packet: bytes, descriptor: int) -> None:
        """A message with an open file, which stays open here; `OSError` when it cannot be sent."""
        member = self.members.get(worker)
        if member is None or member.connection is None:
            raise OSError(errno.ENOTCONN, "the worker is not there")
        socket.send_fds(member.connection, [packet], [descriptor])

    async def accept(self, listener: socket.socket) -> None:
        """Listen to whoever comes, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setblocking(False)
            self._spawn(self._listen_to(connection))

    def start_missing(self) -> None:
        """Start those that have not reported."""
        for member in self.members.values():
            if member.connection is None:
                self._start(member)

    async def stop(self) -> None:
        """All of them, adopted ones too."""
        self.stopping = True
        self._spares.close()
        for member in self.ready:
            if member.child is None and member.connection is not None:  # adopted
                with contextlib.suppress(OSError):
                    member.connection.send(control.encode(control.Drain()))
        children = [member.child for member in self.members.values() if member.child is not None]
        await asyncio.gather(*(child.stop(STOP_S) for child in children))

    def _start(self, member: Member) -> None:
        member.child = Child(
            member.name, functools.partial(self._spares.start, member.module, member.options)
        )
        self._spawn(member.child.keep())

    async def _listen_to(self, connection: socket.socket) -> None:
        """One worker, from its `Ready` to the end of its connection."""
        member: Member | None = None
        with connection:
            try:
                async for packet in control.packets(connection):
                    message = control.decode_worker(packet)
                    if isinstance(message, control.Ready | control.WebrtcReady):
                        member = self._welcome(message, connection)
                    elif member is not None:
                        self._hear(member, message)
            except (msgspec.DecodeError, ValueError) as wrong:
                log.error("worker speaks nonsense", worker=member and member.name, reason=str(wrong)[:200])
            if member is not None:
                self._lose(member)

    def _welcome(self, ready: control.Ready | control.WebrtcReady, connection: socket.socket) -> Member:
        member = self.members.get(ready.worker)
        if member is None or member.connection is not None:
            raise ValueError(f"{ready.worker!r} is not expected")
        member.adopted = member.kind.welcome(ready, connection.send)
        member.connection, member.calls = connection, ready.capacity
        tell = log.info if member.what in self._told else log.debug  # one that comes back is news
        tell("worker ready", worker=ready.worker, pid=ready.pid, calls=ready.capacity, adopted=member.adopted)
        self._see_all(member)
        return member

    def _see_all(self, newest: Member) -> None:
        """When all workers of a kind are there: one line the first time, and a spare for the next that dies."""
        what = newest.what
        members = [member for member in self.members.values() if member.what == what]
        if self.stopping or any(member.connection is None for member in members):
            return
        self._spawn(self._spares.provide(newest.module))
        if what in self._told:
            return
        self._told.add(what)
        calls, adopted = sum(m.calls for m in members), sum(m.adopted for m in members)
        log.info(f"{len(members)} {what} workers ready: {calls} calls", adopted=adopted)

    def _hear(self, member: Member, message: control.WorkerMessage) -> None:
        if isinstance(message, control.Report):
            self._metrics.count(member.counters, message.counters)
            member.counters, member.gauges = message.counters, message.gauges
        else:
            member.kind.hear(member.name, message)

    def _lose(self, member: Member) -> None:
        lost = member.kind.lose(member.name)
        self._metrics.sums["calls_lost"] += lost
        member.connection, member.counters, member.gauges = None, {}, {}
        if not self.stopping:
            log.error("worker gone", worker=member.name, calls_lost=lost)
            if member.child is None:  # it was adopted: nobody else starts it again
                self._start(member)
