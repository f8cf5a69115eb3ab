"""Model servers with a spare: who serves after a death, what waits, and what is left when nobody is wanted."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway import model_servers
from gateway.model_servers import ModelServers

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here has calls to rebuild first."""
    monkeypatch.setattr(model_servers, "SETTLE_S", 0.1)


def servers(path: Path, *, with_spare: bool = True) -> ModelServers:
    flags = ["--engine=echo", f"--socket={path}", "--slots=8"]
    return ModelServers([sys.executable, "-m", "model_server", *flags], path, with_spare=with_spare)


def title_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode()


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


async def waiting_spare(kept: ModelServers, other_than: Process | None = None) -> Process:
    """The spare, once it has loaded everything and reads its standard input."""
    await until(lambda: kept._spare is not None and kept._spare is not other_than)
    spare = kept._spare
    assert spare is not None
    await until(lambda: title_of(spare.pid) == "microturn: spare model-server")
    return spare


def test_the_spare_serves_within_moments_of_a_death_and_is_followed_by_another(tmp_path: Path) -> None:
    path = tmp_path / "model.sock"

    async def story() -> None:
        kept = servers(path)
        try:
            first = await kept.start()
            await until(lambda: answers(path))
            spare = await waiting_spare(kept)
            ran = Path(f"/proc/{spare.pid}/schedstat")
            before = ran.read_text()
            await asyncio.sleep(0.3)
            assert ran.read_text() == before, "it waits without CPU"
            first.kill()
            await first.wait()
            assert not answers(path), "the spare has no socket before it is wanted"
            wanted_s = time.monotonic()
            heir = await kept.start()
            await until(lambda: answers(path))
            assert time.monotonic() - wanted_s < 0.5
            assert heir is spare and title_of(heir.pid) == "microturn: model-server"
            assert os.getpriority(os.PRIO_PROCESS, heir.pid) == os.getpriority(os.PRIO_PROCESS, 0)
            again = await waiting_spare(kept, other_than=spare)
            assert again.pid != heir.pid
            heir.terminate()
            assert await heir.wait() == 0, "it takes signals as one that always served"
        finally:
            kept.close()
        await again.wait()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_without_a_spare_a_new_process_serves(tmp_path: Path) -> None:
    path = tmp_path / "model.sock"

    async def story() -> None:
        kept = servers(path, with_spare=False)
        first = await kept.start()
        await until(lambda: answers(path))
        assert kept._spare is None and kept._keeping is None
        first.kill()
        await first.wait()
        second = await kept.start()
        await until(lambda: answers(path))
        kept.close()
        second.terminate()
        assert await second.wait() == 0

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_spare_that_died_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "model.sock"

    async def story() -> None:
        kept = servers(path)
        first = await kept.start()
        spare = await waiting_spare(kept)
        spare.kill()
        await spare.wait()
        first.kill()
        await first.wait()
        second = await kept.start()
        assert second is not spare
        await until(lambda: answers(path))
        kept.close()
        second.terminate()
        assert await second.wait() == 0

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_spare_that_nobody_wants_ends(tmp_path: Path) -> None:
    async def story() -> None:
        kept = servers(tmp_path / "model.sock")
        first = await kept.start()
        spare = await waiting_spare(kept)
        assert kept._keeping is not None
        kept._keeping.cancel()
        assert spare.stdin is not None
        spare.stdin.close()  # as the kernel does when its keeper is killed
        assert await spare.wait() == 0
        first.terminate()
        assert await first.wait() == 0

    asyncio.run(asyncio.wait_for(story(), 60))
