"""The calls of a worker whose callers say numbers, without a gateway: `Moving` as `gateway.turns.Turns` is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gateway.attachment import Attachment, RowCounters
from gateway.handover import Handover
from media.chunk import Chunk, Reply
from media.leases import CaughtUp, Lease, Leased, Leave
from media.timebase import NS_PER_S, TURN_NS, TURN_SAMPLES, phase_offset_ns
from media.turn_log import TurnLog

EARLY_NS = 30_000_000
"""Chunks are published so long before their tick."""


@dataclass(eq=False)
class Call:
    """One call: where it is, and who answered which of its turns."""

    name: str
    server: Attachment
    leased: Leased
    log: TurnLog = field(default_factory=TurnLog)
    turn: int = 0
    replies: list[tuple[str, int]] = field(default_factory=list)


class Worker:
    """Of an engine that `echoes`, every reply is looked at."""

    def __init__(self, *, echoes: bool = True) -> None:
        self.echoes = echoes
        self.calls: list[Call] = []
        self.servers: dict[str, Attachment] = {}
        self.handover: Handover[Call] | None = None
        self.level = 5_000
        self._tasks: list[asyncio.Task[None]] = []
        self._listening: dict[Attachment, asyncio.Task[None]] = {}

    async def attach(self, name: str, path: Path) -> Attachment:
        server = Attachment(name, path, RowCounters(), replied=self._replied, told=self._told)
        await server.open()
        self.servers[name] = server
        self._listening[server] = asyncio.create_task(server.listen())
        self._tasks.append(self._listening[server])
        return server

    def leave(self, name: str) -> None:
        server = self.servers.pop(name)
        self._listening.pop(server).cancel()
        server.close()

    async def call(self, name: str, server: Attachment, *, must: bool = False) -> Call:
        """One that `must` have a slot comes as a call that goes on, which is taken whatever is predicted."""
        answer = await server.lease(Lease(name, int(must)))
        assert isinstance(answer, Leased), answer
        self.calls.append(Call(name, server, answer))
        self._tasks.append(asyncio.create_task(self._talk(self.calls[-1])))
        return self.calls[-1]

    async def begin(self, old: str, new: str) -> Handover[Call]:
        self.handover = Handover(self.servers[old], self.servers[new], self, time.monotonic)
        self._tasks.append(asyncio.create_task(self.handover.run()))
        return self.handover

    def hang_up(self, call: Call) -> None:
        self.calls.remove(call)
        if self.handover is not None:
            self.handover.drop(call)
        call.server.release(call.name, call.leased.slot, call.leased.generation)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for server in self.servers.values():
            server.close()

    def broken(self) -> list[BaseException]:
        done = [task for task in self._tasks if task.done() and not task.cancelled()]
        return [wrong for task in done if (wrong := task.exception()) is not None]

    # -- Moving

    def calls_at(self, server: Attachment) -> Iterable[Call]:
        return [call for call in self.calls if call.server is server]

    def wish_of(self, call: Call) -> Lease:
        old = call.leased
        return Lease(call.name, old.generation, call.turn, group=old.group, budget_ns=old.budget_ns)

    def log_of(self, call: Call) -> TurnLog:
        return call.log

    def move(self, call: Call, server: Attachment, leased: Leased) -> None:
        call.server.release(call.name, call.leased.slot, call.leased.generation)
        assert (leased.group, leased.budget_ns) == (call.leased.group, call.leased.budget_ns)
        call.server, call.leased = server, leased

    # -- turns

    async def _talk(self, call: Call) -> None:
        assert call.server.table is not None
        offset = phase_offset_ns(call.leased.group, call.server.table.groups) - EARLY_NS
        while call in self.calls:
            now_ns = time.monotonic_ns()
            await asyncio.sleep(((offset - now_ns) % TURN_NS or TURN_NS) / NS_PER_S)
            pcm = np.full(TURN_SAMPLES, self.level, np.int16)
            text = f"turn {call.turn}" if self.echoes else ""
            chunk = Chunk(call.leased.generation, call.turn, now_ns, pcm, text=text)
            call.server.publish(call.leased.slot, chunk)
            call.log.add(chunk)
            call.turn += 1
            await asyncio.sleep(EARLY_NS / NS_PER_S)

    def _replied(self, server: Attachment, replies: list[tuple[int, Reply]]) -> None:
        for slot, reply in replies:
            for call in self.calls_at(server):
                if call.leased.slot == slot and call.leased.generation == reply.generation:
                    assert not self.echoes or reply.text.split("\n")[-1] == f"turn {reply.turn}"
                    call.log.answer(reply.turn)
                    call.replies.append((server.worker, reply.turn))
                    if self.handover is not None and self.handover.old is server:
                        self.handover.answered(call, reply.pcm)

    def _told(self, server: Attachment, message: CaughtUp | Leave) -> None:
        if isinstance(message, CaughtUp) and self.handover is not None and self.handover.new is server:
            self.handover.caught_up(message)


@asynccontextmanager
async def worker(*, echoes: bool = True) -> AsyncIterator[Worker]:
    """What broke in it breaks the test."""
    made = Worker(echoes=echoes)
    try:
        yield made
        assert not made.broken()
    finally:
        made.close()


def assert_whole(call: Call, *, lost: int = 0) -> None:
    """Every turn was answered once, in order; on a machine that stalls one may be missing, never twice."""
    turns = [turn for _, turn in call.replies]
    assert turns == sorted(set(turns)) and len(turns) >= turns[-1] + 1 - lost, call.replies
    who = [name for name, _ in call.replies]
    assert who == sorted(who, reverse=True), "old, then new"
