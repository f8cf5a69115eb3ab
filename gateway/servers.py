"""The model servers that a worker is attached to: one at its path, and, while calls move, another one.

It attaches to the one at its path whenever there is none, for as long as it takes. Its one rule: who is attached is
listened to until it is gone, or until all of its calls have moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from gateway.attachment import Attachment, CannotAttach, RowCounters
from media.chunk import Reply
from media.leases import CaughtUp, Leave

log = structlog.get_logger()

RETRY_S = 0.05
"""Between two attempts to reach a model server that is away: a connect to a missing socket costs 20 us."""
PATIENCE_S = 20.0
"""With a server that is starting, before it is missed aloud: it measures itself first."""


class Servers:
    """Of one worker. Who comes and who goes is told by `came` and `went`."""

    def __init__(
        self,
        worker: str,
        path: Path,
        *,
        came: Callable[[Attachment], None],
        went: Callable[[Attachment], None],
        replied: Callable[[Attachment, list[tuple[int, Reply]]], None],
        told: Callable[[Attachment, CaughtUp | Leave], None],
    ) -> None:
        self.path, self.counters = path, RowCounters()
        self._worker = worker
        self._came, self._went, self._replied, self._told = came, went, replied, told
        self._listening: dict[Attachment, asyncio.Task[None]] = {}

    @property
    def attached(self) -> list[Attachment]:
        """In the order in which they came."""
        return list(self._listening)

    async def keep(self) -> None:
        """Stay attached until cancelled."""
        try:
            while True:
                if not self._listening:
                    await self._reach()
                done, _ = await asyncio.wait(self._listening.values(), return_when=asyncio.FIRST_COMPLETED)
                for listening in done:
                    if not listening.cancelled():
                        listening.result()  # what is broken in here ends the worker
        finally:
            for server, listening in self._listening.items():
                listening.cancel()
                server.close()

    async def join(self, path: Path) -> Attachment:
        """The server at that path, attached now if it was not. One of `CannotAttach` says why not."""
        return await self._attach(path)

    def leave(self, server: Attachment) -> None:
        """We need that one no more; nobody is told that it went."""
        self._listening.pop(server).cancel()
        server.close()

    async def _reach(self) -> None:
        loop = asyncio.get_running_loop()
        told, patient_until_s = False, loop.time() + PATIENCE_S
        while True:
            try:
                await self._attach(self.path)
                return
            except CannotAttach as wrong:
                if not told and loop.time() >= patient_until_s:
                    log.warning("no model server", socket=str(self.path), reason=str(wrong))
                    told = True
                await asyncio.sleep(RETRY_S)

    async def _attach(self, path: Path) -> Attachment:
        server = Attachment(self._worker, path, self.counters, replied=self._replied, told=self._told)
        await server.open()
        for known in self._listening:  # by another name, perhaps: paths are given away
            if known.epoch == server.epoch:
                server.close()
                return known
        self._listening[server] = asyncio.create_task(self._listen(server))
        self._came(server)
        return server

    async def _listen(self, server: Attachment) -> None:
        await server.listen()
        del self._listening[server]
        self._went(server)
