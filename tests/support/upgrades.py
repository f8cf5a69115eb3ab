"""Live upgrades: of a whole gateway, as an operator types it, and of model servers as `microturn up` keeps them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.caller.calls import CallLog
from gateway.caller.report import report_call
from gateway.model_control import ask_model
from gateway.model_servers import ModelServers
from gateway.supervise import Child
from gateway.upgrade import Upgrade, Upgraded
from loadtests.faults.calls import S, lag_ms
from loadtests.gateway_under_test import GatewayUnderTest

ROOT = Path(__file__).parents[2]
UPGRADE_S = 90.0


def upgrade(gateway: GatewayUnderTest) -> subprocess.CompletedProcess[str]:
    """`microturn upgrade`."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", "upgrade", "--run-dir", str(gateway.run_dir)],
        env={k: v for k, v in os.environ.items() if not k.startswith("MICROTURN_")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=UPGRADE_S,
    )


async def upgraded(gateway: GatewayUnderTest, calls: int) -> str:
    """Upgrade while so many calls are live, which all move; what the command said."""
    done = await asyncio.to_thread(upgrade, gateway)
    assert done.returncode == 0, (done.stdout, done.stderr, list(gateway.lines)[-20:])
    assert f"{calls} calls moved" in done.stdout, done.stdout
    return done.stdout


def assert_goes_on(logs: list[CallLog]) -> None:
    """All calls were ended by their callers, and heard themselves to the end with the lag of the beginning."""
    for log in logs:
        assert log.ended_by == "us"
        report = report_call(log)
        first_ns, last_ns = log.sent_ns[0], log.listened_until_ns
        before = lag_ms(report, first_ns, first_ns + 3 * S)
        after = lag_ms(report, last_ns - 4 * S, last_ns)
        assert before is not None and after is not None and abs(after - before) < 25, (before, after)
        assert report.gap_ms < 2_000, "not a turn here and there, but all that was said while it moved"


def model_server(path: Path, *more: str) -> list[str]:
    """The command line of one that serves at once; the last of two flags of a name counts."""
    return [sys.executable, "-m", "model_server", "--engine=echo", f"--socket={path}", "--slots=8", *more]


class Up:
    """What `microturn up` has of model servers."""

    def __init__(self, path: Path, *flags: str, with_spare: bool) -> None:
        self.path, self._flags = path, flags
        self.servers = ModelServers(model_server(path, *flags), path, with_spare=with_spare)
        self.child = Child("model-server", self.servers.start)
        self.said: list[str] = []

    async def upgrade(self, *more: str) -> Upgraded:
        """To one with these flags in addition."""
        argv = model_server(self.path, *self._flags, *more)
        return await Upgrade(self.servers, self.child, argv, self.said.append).run()


@asynccontextmanager
async def running(folder: Path, *flags: str, with_spare: bool = False) -> AsyncIterator[Up]:
    """One that serves at `model.sock` in the folder; all are gone when the block is left."""
    up = Up(folder / "model.sock", *flags, with_spare=with_spare)
    keeping = asyncio.create_task(up.child.keep())
    try:
        await until(lambda: ask_model(up.path))
        yield up
    finally:
        up.servers.close()
        await up.child.stop(5.0)
        await keeping


async def until(holds: Callable[[], object], timeout_s: float = 30.0) -> None:
    """It holds, or what it returns does when awaited; or `TimeoutError`."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = holds()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.01)


async def gauge(path: Path, name: str) -> int:
    """Of the model server there."""
    stats = await ask_model(path)
    assert stats is not None
    return int(stats["gauges"][name])
