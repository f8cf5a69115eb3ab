"""What a worker does when its model server says that it leaves: it attaches to the other one, where its calls move.

One way at a time. When all have moved it lets go of the old server, whose end then wakes nobody; when it is told
that the server stays, or one of the two is gone, who has not moved stays where it is.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from gateway.attachment import Attachment, CannotAttach
from gateway.handover import Handover, Moving
from gateway.servers import Servers
from media.chunk import PCM
from media.leases import CaughtUp, Leased, Leave

log = structlog.get_logger()

SPREAD_S = 4.0
"""Workers are told all at once: each that has calls begins at a time of its own."""
JOIN_AGAIN_S, JOIN_S = 0.2, 10.0
"""Attempts to reach the server that calls are to move to, for so long."""

CallT = TypeVar("CallT")


class Departure(Generic[CallT]):
    """Of one worker. `start` runs a task that may be cancelled."""

    def __init__(
        self,
        worker: str,
        servers: Servers,
        turns: Moving[CallT],
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._after_s = SPREAD_S * zlib.crc32(worker.encode()) / 2**32
        self._servers, self._turns, self._start = servers, turns, start
        self._handover: Handover[CallT] | None = None
        self._moving: asyncio.Task[None] | None = None
        self._given_up = 0
        self._leaving: set[Attachment] = set()

    @property
    def given_up(self) -> int:
        """Moves that came to nothing, since the worker began."""
        return self._given_up + (self._handover.given_up if self._handover is not None else 0)

    @property
    def by_choice(self) -> list[Attachment]:
        """Servers for a new call, the best first: where calls move to, before where they move from."""
        attached = self._servers.attached
        best = self._handover.new if self._handover is not None else attached[-1] if attached else None
        return sorted(attached, key=lambda server: server is not best)

    def told(self, server: Attachment, message: CaughtUp | Leave) -> None:
        """What a server says that nobody has asked for."""
        if isinstance(message, CaughtUp):
            if self._handover is not None and self._handover.new is server:
                self._handover.caught_up(message)
        elif message.to:
            self._leaving.add(server)
            self.stop()
            self._moving = self._start(self._move_all(server, Path(message.to)))
        else:
            self._leaving.discard(server)
            if self._handover is None or self._handover.old is server:
                self.stop()

    def went(self, server: Attachment) -> bool:
        """It is gone, and nobody moves any more; whether it had said that it would go."""
        was_leaving = server in self._leaving
        self._leaving.discard(server)
        self.stop()
        return was_leaving

    def answered(self, server: Attachment, call: CallT, pcm: PCM) -> None:
        """That server's reply to a turn of the call, int16 [3200]."""
        if self._handover is not None and self._handover.old is server:
            self._handover.answered(call, pcm)

    def drop(self, call: CallT) -> None:
        """It is over."""
        if self._handover is not None:
            self._handover.drop(call)

    def inherit(self, call: CallT, gone: Attachment) -> tuple[Attachment, Leased] | None:
        """Its server is gone: where it goes on, if it was on its way there."""
        if self._handover is None or self._handover.old is not gone:
            return None
        leased = self._handover.inherit(call)
        return (self._handover.new, leased) if leased is not None else None

    def stop(self) -> None:
        """Nobody moves any more."""
        if self._moving is not None:
            self._moving.cancel()
        if self._handover is not None:
            self._handover.stop()
        self._given_up, self._moving, self._handover = self.given_up, None, None

    async def _move_all(self, old: Attachment, to: Path) -> None:
        new = await self._join(old, to)
        if new is None:
            return
        self._handover = Handover(old, new, self._turns, time.monotonic)
        await self._handover.run()
        self._given_up, self._handover = self.given_up, None
        self._leaving.discard(old)
        self._servers.leave(old)

    async def _join(self, old: Attachment, to: Path) -> Attachment | None:
        if any(self._turns.calls_at(old)):
            await asyncio.sleep(self._after_s)
        until_s = time.monotonic() + JOIN_S
        while True:
            try:
                new = await self._servers.join(to)
                break
            except CannotAttach as wrong:
                if time.monotonic() > until_s:
                    log.error("calls cannot move", socket=str(to), reason=str(wrong))
                    return None
                await asyncio.sleep(JOIN_AGAIN_S)
        if old.table is None or new.table is None or new is old:
            return None
        if new.table.groups != old.table.groups:
            log.error("calls cannot move", socket=str(to), groups=new.table.groups, expected=old.table.groups)
            return None
        return new
