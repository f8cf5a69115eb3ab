"""Live upgrades of a model server that is cut over two processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from gateway.upgrade import Upgraded, UpgradeFailed
from tests.gateway.test_model_servers import title_of
from tests.gateway.test_model_servers_of_ranks import children
from tests.model_server.ranks.conftest import random_checkpoint
from tests.support.talking_worker import Worker, assert_whole, worker
from tests.support.upgrades import Up, gauge, running, until

pytestmark = pytest.mark.processes

CALLS = 2
SOON_TURNS = 5
LATE = 10
"""Turns of a call that four processes on one core may answer too late; none is answered twice."""


@asynccontextmanager
async def talking(folder: Path) -> AsyncIterator[tuple[Up, Worker]]:
    """Two ranks that serve two calls."""
    checkpoint = random_checkpoint(folder, kv_heads=2)
    flags = {"engine": "digits", "checkpoint": checkpoint, "ranks": 2, "products": "float32", "groups": 1}
    async with running(folder, *(f"--{k}={v}" for k, v in flags.items())) as up, worker(echoes=False) as w:
        old = await w.attach("old", up.path)
        for n in range(CALLS):
            await w.call(f"call {n}", old, must=True)
        await answered(w, SOON_TURNS)
        yield up, w


async def answered(w: Worker, more: int) -> None:
    """So many turns more of every call."""
    before = [len(call.replies) for call in w.calls]
    await until(lambda: all(len(c.replies) >= n + more for c, n in zip(w.calls, before, strict=True)))


async def told_to_move(up: Up, w: Worker, ranks: int = 2) -> asyncio.Task[Upgraded]:
    """Both serve, and the worker is attached to both."""
    upgrading = asyncio.create_task(up.upgrade(f"--ranks={ranks}"))
    await until(lambda: upgrading.done() or any("calls move" in said for said in up.said), 60.0)
    assert not upgrading.done(), upgrading.exception()
    assert up.servers.heir is not None
    await w.attach("new", up.servers.heir.path)
    return upgrading


@pytest.mark.parametrize("ranks", [2, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.long
def test_calls_move_from_two_ranks_to_as_many_as_there_shall_be(tmp_path: Path, ranks: int) -> None:
    async def story() -> None:
        async with talking(tmp_path) as (up, w):
            old = [up.child.pid, *children(up.child.pid)]
            upgrading = await told_to_move(up, w, ranks)
            await w.begin("old", "new")
            new = w.servers["new"]
            await until(lambda: all(call.server is new for call in w.calls))
            w.leave("old")
            done = await upgrading
            assert (done.calls, done.inherited) == (CALLS, False)
            await answered(w, SOON_TURNS)
            for call in w.calls:
                assert_whole(call, lost=LATE)
            await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in old))
            others = children(up.child.pid)
            assert [title_of(rank) for rank in others] == ["microturn: model-server rank 1"] * (ranks - 1)
            ours = os.getpriority(os.PRIO_PROCESS, 0)
            threads = [
                int(t.name) for pid in (up.child.pid, *others) for t in Path(f"/proc/{pid}/task").iterdir()
            ]
            assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {ours}, (
                "all came forward"
            )
            assert await gauge(up.path, "slots_leased") == CALLS

    asyncio.run(asyncio.wait_for(story(), 120))


@pytest.mark.long
def test_a_rank_of_the_new_one_is_killed_while_calls_move_and_the_old_ranks_go_on(tmp_path: Path) -> None:
    async def story() -> None:
        async with talking(tmp_path) as (up, w):
            old = up.child.pid
            upgrading = await told_to_move(up, w)
            assert up.servers.heir is not None
            (rank,) = children(up.servers.heir.process.pid)
            os.kill(rank, signal.SIGKILL)
            with pytest.raises(UpgradeFailed, match=r"died \(exit 70\) while calls moved"):
                await upgrading
            await answered(w, SOON_TURNS)
            for call in w.calls:
                assert_whole(call, lost=LATE)
            assert up.child.pid == old and await gauge(up.path, "leaving") == 0

    asyncio.run(asyncio.wait_for(story(), 120))
