"""Live upgrades without a gateway: real model servers, and a worker whose calls are only leases."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from gateway import upgrade as upgrade_module
from gateway.attachment import Attachment, RowCounters
from gateway.model_control import ask_model
from gateway.upgrade import UpgradeFailed
from media.leases import CaughtUp, Lease, Leased, Leave
from tests.support.upgrades import gauge, running, until

pytestmark = pytest.mark.processes


class Holder:
    """A worker with one call, which has no turns: it stays until `obeys`, and then goes where it is told.

    One that does not let go (`lets_go`) stays attached to where it was.
    """

    def __init__(self, path: Path, *, lets_go: bool = True) -> None:
        self.path, self.obeys, self.lets_go = path, asyncio.Event(), lets_go
        self.heard: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._listening: dict[Attachment, asyncio.Task[None]] = {}

    async def open(self) -> None:
        self.at = await self._attach(self.path)
        leased = await self.at.lease(Lease("call"))
        assert isinstance(leased, Leased)
        self.leased = leased

    async def _attach(self, path: Path) -> Attachment:
        server = Attachment("w", path, RowCounters(), replied=lambda *_: None, told=self._told)
        await server.open()
        self._listening[server] = asyncio.create_task(server.listen())
        return server

    def _told(self, server: Attachment, message: CaughtUp | Leave) -> None:
        assert isinstance(message, Leave)
        self.heard.append(Path(message.to).name if message.to else "")
        if message.to:
            self._tasks.append(asyncio.create_task(self._move(server, Path(message.to))))

    async def _move(self, old: Attachment, to: Path) -> None:
        await self.obeys.wait()
        self.at = await self._attach(to)
        answer = await self.at.lease(Lease("call", self.leased.generation, moves=True))
        assert isinstance(answer, Leased)
        old.release("call", self.leased.slot, self.leased.generation)
        self.leased = answer
        if self.lets_go:
            self._listening.pop(old).cancel()
            old.close()

    def close(self) -> None:
        for task in (*self._tasks, *self._listening.values()):
            task.cancel()
        self.at.close()


def test_a_new_one_takes_the_path_when_the_old_one_has_no_call_left(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path, with_spare=True) as up:
            holder = Holder(up.path)
            await holder.open()
            old = up.child.process
            assert old is not None
            upgrading = asyncio.create_task(up.upgrade("--slots=6"))
            await until(lambda: holder.heard == ["model.sock.next"])
            await asyncio.sleep(0.3)
            assert not upgrading.done() and up.child.process is old, "it has a call"
            holder.obeys.set()
            done = await upgrading
            assert (done.calls, done.inherited) == (1, False) and done.load_s > 0
            assert await old.wait() == 0 and up.child.process is not old and up.child.restarts == 0
            stats = await ask_model(up.path)
            assert stats is not None and stats["gauges"]["slots_leased"] == 1
            assert [p.name for p in tmp_path.iterdir()] == ["model.sock"]
            assert stats["gauges"]["slots"] == 6
            await until(lambda: up.servers._spare is not None)
            spare = up.servers._spare
            assert spare is not None and b"--slots=6" in Path(f"/proc/{spare.pid}/cmdline").read_bytes()
            holder.close()
        assert not list(tmp_path.iterdir()), "its socket goes with it, under the name that it was given"

    asyncio.run(asyncio.wait_for(story(), 90))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--engine=nonsense",), "expected echo or digits"),
        (("--engine=digits", "--checkpoint=/nowhere/at.all"), "/nowhere/at.all"),
        (("--groups=2",), "calls cannot move from"),
        (("--video-size=64x48",), "calls cannot move from"),
    ],
    ids=["engine", "checkpoint", "groups", "pictures"],
)
def test_what_cannot_take_over_says_why_and_the_old_one_goes_on(
    tmp_path: Path, more: tuple[str, ...], told: str
) -> None:
    if "--engine=digits" in more:
        pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

    async def story() -> None:
        async with running(tmp_path) as up:
            old = up.child.process
            with pytest.raises(UpgradeFailed, match=told):
                await up.upgrade(*more)
            assert up.child.process is old and await ask_model(up.path) is not None
            assert up.servers.heir is None
            await until(lambda: [p.name for p in tmp_path.iterdir()] == ["model.sock"])
            assert not (await up.upgrade()).inherited, "and the next one is taken"

    asyncio.run(asyncio.wait_for(story(), 90))


def test_the_new_one_dies_while_calls_move_and_the_old_one_is_told_to_keep_them(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as up:
            holder = Holder(up.path)
            await holder.open()
            upgrading = asyncio.create_task(up.upgrade())
            await until(lambda: holder.heard == ["model.sock.next"])
            assert up.servers.heir is not None
            up.servers.heir.process.kill()
            with pytest.raises(UpgradeFailed, match=r"died \(signal 9\) while calls moved"):
                await upgrading
            await until(lambda: holder.heard == ["model.sock.next", ""])
            stats = await ask_model(up.path)
            assert stats is not None and stats["gauges"]["slots_leased"] == 1
            assert stats["gauges"]["leaving"] == 0
            holder.close()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_calls_that_do_not_move_in_time_stay_and_those_that_have_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrade_module, "MOVE_S", 1.0)

    async def story() -> None:
        async with running(tmp_path) as up:
            stays, moves = Holder(up.path), Holder(up.path)
            await stays.open()
            await moves.open()
            moves.obeys.set()
            with pytest.raises(UpgradeFailed, match="1 calls did not move within 1 s"):
                await up.upgrade()
            assert stays.heard == ["model.sock.next", ""]
            assert moves.heard == ["model.sock.next", "model.sock"] and moves.at.path == up.path
            stats = await ask_model(up.path)
            assert stats is not None and stats["gauges"]["slots_leased"] == 2
            stays.close()
            moves.close()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_the_old_one_dies_while_calls_move_and_the_new_one_inherits(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as up:
            holder = Holder(up.path)
            await holder.open()
            upgrading = asyncio.create_task(up.upgrade())
            await until(lambda: holder.heard == ["model.sock.next"])
            heir = up.servers.heir
            assert heir is not None
            os.kill(up.child.pid, signal.SIGKILL)
            done = await upgrading
            assert done.inherited and up.child.process is heir.process and up.servers.heir is None
            stats = await ask_model(up.path)
            assert stats is not None and stats["gauges"]["slots_leased"] == 0
            holder.close()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_the_old_one_dies_while_the_new_one_loads_and_calls_move_from_its_successor(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as up:
            old = up.child.process
            assert old is not None
            upgrading = asyncio.create_task(up.upgrade("--slots=6"))
            await until(lambda: up.servers.heir is not None)
            heir = up.servers.heir
            assert heir is not None and not heir.is_ready
            old.kill()
            await until(lambda: up.child.process not in (None, old))
            between = up.child.process
            done = await upgrading
            assert not done.inherited and up.child.process is heir.process is not between
            assert between is not None and await between.wait() == 0
            assert await gauge(up.path, "slots") == 6

    asyncio.run(asyncio.wait_for(story(), 60))


def test_the_new_one_dies_when_all_calls_have_moved_and_does_not_inherit(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as up:
            old, holder = up.child.process, Holder(up.path, lets_go=False)
            await holder.open()
            upgrading = asyncio.create_task(up.upgrade())
            await until(lambda: holder.heard)
            holder.obeys.set()
            await until(lambda: holder.at.path != up.path and holder.leased.generation > 1)
            assert up.servers.heir is not None
            up.servers.heir.process.kill()
            with pytest.raises(UpgradeFailed, match=r"died \(signal 9\) while calls moved"):
                await upgrading
            assert up.child.process is old and await gauge(up.path, "leaving") == 0
            holder.close()

    asyncio.run(asyncio.wait_for(story(), 60))
