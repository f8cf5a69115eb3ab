"""The operator's line to a running `up`: one request at a time, and an answer to every one."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from gateway import control
from gateway.operator import SOCKET, Operator, Outcome, Tell, ask
from gateway.tasks import Tasks


class Up:
    """Its upgrades end when they are let."""

    def __init__(self, run_dir: Path) -> None:
        self.let, self.begun, self.broken = asyncio.Event(), 0, list[BaseException]()
        self.engines: list[str] = []
        self.tasks = Tasks(self.broken.append)
        self.operator = Operator(run_dir, self.upgrade, self.tasks)

    async def upgrade(self, engine: str, tell: Tell) -> Outcome:
        self.begun += 1
        self.engines.append(engine)
        tell("loading")
        await self.let.wait()
        return Outcome(True, "done", {"load_s": 1.5, "inherited": False})

    def close(self) -> None:
        self.tasks.cancel()
        self.operator.close()
        assert not self.broken


def test_one_upgrade_at_a_time_and_everybody_is_told(tmp_path: Path) -> None:
    async def story() -> None:
        up, said = Up(tmp_path / "run"), list[str]()
        assert stat.S_IMODE((tmp_path / "run" / SOCKET).stat().st_mode) == 0o600
        first = asyncio.create_task(ask(tmp_path / "run", said.append))
        while not said:
            await asyncio.sleep(0.01)
        second = await ask(tmp_path / "run", said.append)
        assert not second.done and "an upgrade is under way" in second.said
        up.let.set()
        assert await first == Outcome(True, "done", {"load_s": 1.5, "inherited": False})
        assert said == ["loading"] and up.begun == 1
        assert (await ask(tmp_path / "run", said.append, "lab")).done, "and the next one is taken"
        assert up.engines == ["", "lab"]
        up.close()
        assert not (tmp_path / "run" / SOCKET).exists()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_who_hangs_up_ends_nothing_and_nonsense_is_answered(tmp_path: Path) -> None:
    async def story() -> None:
        up = Up(tmp_path)
        with control.connect(tmp_path / SOCKET) as connection:
            connection.send(b"rubbish")
            packet = await asyncio.get_running_loop().sock_recv(connection, 4096)
            assert b"that is no request" in packet
        asking = asyncio.create_task(ask(tmp_path, lambda said: None))
        while not up.begun:
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.sleep(0.05)
        assert "under way" in (await ask(tmp_path, lambda said: None)).said
        up.let.set()
        await asyncio.sleep(0.05)
        assert (await ask(tmp_path, lambda said: None)).done
        up.close()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_without_an_up_it_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"no microturn up answers in run_dir {tmp_path}"):
        asyncio.run(ask(tmp_path, lambda said: None))


def test_an_up_that_ends_meanwhile_is_told(tmp_path: Path) -> None:
    async def story() -> None:
        up = Up(tmp_path)
        asking = asyncio.create_task(ask(tmp_path, lambda said: None))
        while not up.begun:
            await asyncio.sleep(0.01)
        up.close()
        outcome = await asking
        assert not outcome.done and "ended meanwhile" in outcome.said

    asyncio.run(asyncio.wait_for(story(), 20))
