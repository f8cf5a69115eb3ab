"""Calls move between two real model servers: each turn is answered once, whoever dies or leaves meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from gateway.attachment import Attachment, RowCounters
from gateway.handover import QUIET_PEAK, Handover
from gateway.model_control import ask_model
from media.chunk import Chunk, Reply
from media.leases import CaughtUp, Lease, Leased, Leave
from media.timebase import NS_PER_S, TURN_NS, TURN_SAMPLES, phase_offset_ns
from media.turn_log import LOG_TURNS, TurnLog
from tests.model_server.conftest import ServerProcess

pytestmark = pytest.mark.processes

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
    """The calls of a worker whose callers say numbers; `Moving` as `Turns` is."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.servers: dict[str, Attachment] = {}
        self.handover: Handover[Call] | None = None
        self.level = 5_000
        self._tasks: list[asyncio.Task[None]] = []

    async def attach(self, name: str, path: Path) -> Attachment:
        server = Attachment(name, path, RowCounters(), replied=self._replied, told=self._told)
        await server.open()
        self.servers[name] = server
        self._tasks.append(asyncio.create_task(server.listen()))
        return server

    async def call(self, name: str, server: Attachment) -> Call:
        answer = await server.lease(Lease(name))
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
        offset = phase_offset_ns(call.leased.group, 4) - EARLY_NS
        while call in self.calls:
            now_ns = time.monotonic_ns()
            await asyncio.sleep(((offset - now_ns) % TURN_NS or TURN_NS) / NS_PER_S)
            pcm = np.full(TURN_SAMPLES, self.level, np.int16)
            chunk = Chunk(call.leased.generation, call.turn, now_ns, pcm, text=f"turn {call.turn}")
            call.server.publish(call.leased.slot, chunk)
            call.log.add(chunk)
            call.turn += 1
            await asyncio.sleep(EARLY_NS / NS_PER_S)

    def _replied(self, server: Attachment, replies: list[tuple[int, Reply]]) -> None:
        for slot, reply in replies:
            for call in self.calls_at(server):
                if call.leased.slot == slot and call.leased.generation == reply.generation:
                    assert reply.text.split("\n")[-1] == f"turn {reply.turn}"
                    call.log.answer(reply.turn)
                    call.replies.append((server.worker, reply.turn))
                    if self.handover is not None and self.handover.old is server:
                        self.handover.answered(call, reply.pcm)

    def _told(self, server: Attachment, message: CaughtUp | Leave) -> None:
        if isinstance(message, CaughtUp) and self.handover is not None and self.handover.new is server:
            self.handover.caught_up(message)


@asynccontextmanager
async def worker() -> AsyncIterator[Worker]:
    made = Worker()
    try:
        yield made
        assert not made.broken()
    finally:
        made.close()


async def until(holds: Callable[[], object], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.01)


async def leased(path: Path) -> int:
    stats = await ask_model(path)
    assert stats is not None
    return int(stats["gauges"]["slots_leased"])


def assert_whole(call: Call, *, lost: int = 0) -> None:
    """Every turn was answered once, in order; on a machine that stalls one may be missing, never twice."""
    turns = [turn for _, turn in call.replies]
    assert turns == sorted(set(turns)) and len(turns) >= turns[-1] + 1 - lost, call.replies
    who = [name for name, _ in call.replies]
    assert who == sorted(who, reverse=True), "old, then new"


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    servers = [ServerProcess(tmp_path / name) for name in ("old", "new")]
    yield servers[0], servers[1]
    for server in servers:
        if server.popen.poll() is None:
            os.kill(server.popen.pid, signal.SIGCONT)
            server.end(signal.SIGKILL)


def test_all_calls_move_and_each_turn_is_answered_once(two: tuple[ServerProcess, ServerProcess]) -> None:
    async def story() -> None:
        async with worker() as w:
            old, new = await w.attach("old", two[0].path), await w.attach("new", two[1].path)
            calls = [await w.call(f"call {n}", old) for n in range(4)]
            await until(lambda: all(len(call.replies) > 5 for call in calls))
            await w.begin("old", "new")
            await until(lambda: all(call.server is new for call in calls))
            assert await leased(two[0].path) == 0 and await leased(two[1].path) == 4
            moved = [len(call.replies) for call in calls]
            await until(lambda: all(len(c.replies) > n + 5 for c, n in zip(calls, moved, strict=True)))
            for call in calls:
                assert_whole(call, lost=1)
                assert {name for name, _ in call.replies} == {"old", "new"}

    asyncio.run(story())


def test_the_new_one_dies_while_calls_are_on_the_way_and_the_old_one_goes_on(
    two: tuple[ServerProcess, ServerProcess],
) -> None:
    async def story() -> None:
        async with worker() as w:
            old, _ = await w.attach("old", two[0].path), await w.attach("new", two[1].path)
            calls = [await w.call(f"call {n}", old) for n in range(3)]
            await until(lambda: all(len(call.replies) > 5 for call in calls))
            two[1].popen.send_signal(signal.SIGSTOP)  # it takes nothing: nobody gets there
            handover = await w.begin("old", "new")
            await asyncio.sleep(0.3)
            two[1].end(signal.SIGKILL)
            handover.stop()
            before = [len(call.replies) for call in calls]
            await until(lambda: all(len(c.replies) > n + 5 for c, n in zip(calls, before, strict=True)))
            for call in calls:
                assert_whole(call, lost=1)
                assert call.server is old

    asyncio.run(story())


def test_the_old_one_dies_and_who_is_on_the_way_is_inherited(
    two: tuple[ServerProcess, ServerProcess],
) -> None:
    async def story() -> None:
        async with worker() as w:
            old, new = await w.attach("old", two[0].path), await w.attach("new", two[1].path)
            call = await w.call("call", old)
            await until(lambda: len(call.replies) > 5)
            handover = Handover(old, new, w, time.monotonic)
            await handover.begin()  # by hand, and nobody listens to who has caught up
            two[0].end(signal.SIGKILL)
            await until(lambda: old.table is None)
            heir = handover.inherit(call)
            assert heir is not None
            call.server, call.leased = new, heir
            before = len(call.replies)
            await until(lambda: len(call.replies) > before + 5)
            turns = [turn for _, turn in call.replies]
            assert turns == sorted(set(turns)) and turns[-1] - len(turns) < 3, "what was under way, at most"
            assert await leased(two[1].path) == 1

    asyncio.run(story())


def test_a_call_that_is_hung_up_on_the_way_is_free_at_both(two: tuple[ServerProcess, ServerProcess]) -> None:
    async def story() -> None:
        async with worker() as w:
            old, new = await w.attach("old", two[0].path), await w.attach("new", two[1].path)
            call = await w.call("call", old)
            await until(lambda: len(call.replies) > 3)
            w.handover = Handover(old, new, w, time.monotonic)
            leasing = asyncio.create_task(w.handover.begin())
            await asyncio.sleep(0)  # the wish is under way
            w.hang_up(call)
            await leasing
            assert await leased(two[0].path) == await leased(two[1].path) == 0

    asyncio.run(story())


def test_where_there_is_no_room_a_call_stays_and_is_answered(tmp_path: Path) -> None:
    servers = [ServerProcess(tmp_path / "old"), ServerProcess(tmp_path / "new", slots=1)]

    async def story() -> None:
        async with worker() as w:
            old, new = await w.attach("old", servers[0].path), await w.attach("new", servers[1].path)
            calls = [await w.call(f"call {n}", old) for n in range(2)]
            await until(lambda: all(len(call.replies) > 3 for call in calls))
            await w.begin("old", "new")
            await until(lambda: any(call.server is new for call in calls))
            before = [len(call.replies) for call in calls]
            await until(lambda: all(len(c.replies) > n + 5 for c, n in zip(calls, before, strict=True)))
            assert [call.server for call in calls].count(old) == 1
            for call in calls:
                assert_whole(call, lost=1)

    try:
        asyncio.run(story())
    finally:
        for server in servers:
            server.end(signal.SIGKILL)


def test_an_old_call_that_speaks_moves_when_it_is_quiet(two: tuple[ServerProcess, ServerProcess]) -> None:
    async def story() -> None:
        async with worker() as w:
            old, new = await w.attach("old", two[0].path), await w.attach("new", two[1].path)
            call = await w.call("call", old)
            call.turn = 2 * LOG_TURNS  # its log does not go back to its beginning
            await until(lambda: len(call.replies) > 3)
            await w.begin("old", "new")
            await asyncio.sleep(1.2)
            assert call.server is old and await leased(two[1].path) == 1, "it has caught up, and speaks"
            w.level = QUIET_PEAK // 2
            await until(lambda: call.server is new, 2.0)

    asyncio.run(story())
