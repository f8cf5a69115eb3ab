"""Tools that really hang: their threads are bounded, others go on, and the process ends all the same."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from gateway.background.threads import MOST_LEFT_OF_ONE, Refused, Threads
from gateway.background.tools import Toolbox, of_function
from loadtests.ports import free_port
from tests.gateway.background.support import line, order
from tests.gateway.state.server import NAMESPACE, StateServer, play, until
from tests.support.chat_server import ChatServer, call_tool

PORT = free_port()
GO = threading.Event()
"""What hangs goes on with it: a test leaves no thread behind."""


def hang() -> str:
    """Waits for what never comes."""
    GO.wait(60.0)
    return "at last"


def add(a: int, b: int) -> int:
    """A sum."""
    return a + b


def leave() -> str:
    """Wants out."""
    raise SystemExit(3)


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"tool-{name}"]


def test_a_tool_that_hangs_is_refused_and_the_others_go_on() -> None:
    async def story() -> None:
        threads = Threads()
        box = Toolbox(
            [of_function(hang, threads), of_function(add, threads), of_function(leave, threads)], 0.1
        )
        for _ in range(MOST_LEFT_OF_ONE):
            assert await box.call("hang", "{}") == "error: no answer within 0.1 s"
        for _ in range(20):
            told = await box.call("hang", "{}")
            assert told == f"error: hang is not run now: {MOST_LEFT_OF_ONE} earlier runs of it still hang"
            assert await box.call("add", '{"a": 3, "b": 4}') == "7"
        assert len(threads_of("hang")) == MOST_LEFT_OF_ONE == threads.left
        counters = threads.counters
        assert (counters.left, counters.left_ended, counters.refused) == (MOST_LEFT_OF_ONE, 0, 20)
        GO.set()
        await until(lambda: threads.left == 0, "they come back")
        assert counters.left_ended == MOST_LEFT_OF_ONE and counters.begun == MOST_LEFT_OF_ONE + 20
        assert await box.call("hang", "{}") == "at last"
        assert await box.call("leave", "{}") == "error: leave ends with SystemExit"

    GO.clear()
    try:
        play(story())
    finally:
        GO.set()
        for thread in threads_of("hang"):
            thread.join()


def test_all_together_have_a_bound() -> None:
    async def story() -> None:
        threads = Threads(most=3)
        runs = [asyncio.create_task(threads.run(f"hang-{n}", hang)) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="all 3 threads"):
            await threads.run("add", add, 1, 2)
        GO.set()
        assert await asyncio.gather(*runs) == 3 * ["at last"]
        assert await threads.run("add", add, 1, 2) == 3

    GO.clear()
    play(story())


@pytest.mark.redis
@pytest.mark.processes
def test_a_worker_ends_at_sigterm_with_tools_that_hang(server: StateServer, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(
        'import time\n\n\ndef stuck() -> str:\n    """Hangs."""\n    time.sleep(600)\n    return ""\n'
    )

    async def story(worker: subprocess.Popen[bytes], chat: ChatServer) -> None:
        async with line(server) as here:
            for number in range(3):
                await here.ask(order(number), 60_000)
            await until(lambda: len(chat.requests) >= 9, "each was told what became of it, twice")
        told = sorted(
            asked["messages"][-1]["content"] for asked in chat.requests if len(asked["messages"]) == 4
        )
        assert told[-1] == "error: no answer within 0.5 s", told
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics") as answer:
            shown = answer.read().decode()
        assert re.search(r"microturn_tools_left_total [23]\.0", shown), shown
        assert "microturn_tools_refused_total 0.0" not in shown
        began_s = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 10) == 0
        assert time.monotonic() - began_s < 5.0

    with ChatServer.start() as chat:
        chat.plan(call_tool("stuck", "{}"))
        environment = {
            **os.environ,
            "MICROTURN_REDIS": server.url,
            "MICROTURN_REDIS_NAMESPACE": NAMESPACE,
            "MICROTURN_RUN_DIR": str(tmp_path / "run"),
            "MICROTURN_BACKGROUND_URL": chat.url,
            "MICROTURN_BACKGROUND_MODEL": "tiny",
            "MICROTURN_BACKGROUND_TOOLS": "stuck:stuck",
            "MICROTURN_BACKGROUND_TOOL_S": "0.5",
            "MICROTURN_BACKGROUND_METRICS_PORT": str(PORT),
        }
        command = [sys.executable, "-c", "from gateway.cli import main; main()", "worker"]
        worker = subprocess.Popen(command, cwd=tmp_path, env=environment)
        try:
            play(story(worker, chat))
        finally:
            worker.kill()
            worker.wait()
