"""Calls move between two real model servers: each turn is answered once, whoever dies or leaves meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.handover import QUIET_PEAK, Handover
from media.turn_log import LOG_TURNS
from tests.model_server.conftest import ServerProcess
from tests.support.talking_worker import assert_whole, worker
from tests.support.upgrades import gauge, until

pytestmark = pytest.mark.processes


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
            assert (
                await gauge(two[0].path, "slots_leased") == 0
                and await gauge(two[1].path, "slots_leased") == 4
            )
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
            assert await gauge(two[1].path, "slots_leased") == 1

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
            assert [await gauge(server.path, "slots_leased") for server in two] == [0, 0]

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
            assert call.server is old and await gauge(two[1].path, "slots_leased") == 1, (
                "it has caught up, and speaks"
            )
            w.level = QUIET_PEAK // 2
            await until(lambda: call.server is new, 2.0)

    asyncio.run(story())
