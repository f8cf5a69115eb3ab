"""SGLang's scheduler is killed, and goes silent, under a model server: it ends, says why, and calls are rebuilt."""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
import threading
import time
from asyncio.subprocess import Process
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from gateway import model_servers
from gateway.model_servers import ModelServers
from media.chunk import Chunk
from media.leases import Leased, Stats, StatsRequest
from media.timebase import NS_PER_S, TURN_NS, TURN_SAMPLES
from model_server.engine import LOST_STATUS
from model_server.engine.sglang.limits import STUCK_S, TURN_S
from model_server.engine.sglang.watch import Watch
from tests.gateway.test_model_servers import answers, until, waiting_spare
from tests.gateway.test_model_servers_of_ranks import CALLS, TURNS, Calls
from tests.model_server.conftest import Worker
from tests.model_server.ranks.conftest import random_checkpoint
from tests.on_sglang.conftest import scheduler
from tests.support.sglang_here import needs_sglang

pytestmark = [needs_sglang, pytest.mark.processes]

SOON_S = 8.0
"""From a death until the model server is gone. It takes 0.2 s; the rest is for a machine that is busy."""
STORY_S = 420.0
STOPPED_S = 0.3
"""Longer than two ticks: the model server is in the middle of a turn then."""


class Ended:
    """What a watch says, and when."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._said = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self._said.set()

    def wait(self) -> str:
        assert self._said.wait(10)
        return self.reasons[0]


@pytest.mark.parametrize(
    ("command", "number", "reason"),
    [
        ("sleep 60", signal.SIGKILL, "was killed by SIGKILL"),
        ("sleep 60", signal.SIGSEGV, "was killed by SIGSEGV"),
        ("sleep 0.2; exit 3", None, "ended with exit status 3"),
        ("sleep 0.2", None, "ended with exit status 0"),
    ],
)
def test_the_watch_says_how_a_process_ended(command: str, number: signal.Signals | None, reason: str) -> None:
    said = Ended()
    with (
        subprocess.Popen(["sleep", "60"]) as other,
        subprocess.Popen(["sh", "-c", f"exec {command}" if number else command]) as process,
    ):
        watch = Watch([other.pid, process.pid], said)
        if number:
            process.send_signal(number)
        assert said.wait() == f"{process.pid} {reason}"
        assert process.wait() is not None, "who started it is told, too"
        watch.stop()
        other.kill()
    assert len(said.reasons) == 1


def test_a_watch_that_is_stopped_says_nothing() -> None:
    said = Ended()
    with subprocess.Popen(["sleep", "60"]) as process:
        Watch([process.pid], said).stop()
        process.kill()
    assert not said.reasons


def test_dead_and_silent_schedulers_end_their_model_servers_and_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In this order: the scheduler of a spare dies, one dies in the middle of a turn, one goes silent."""
    monkeypatch.setattr(model_servers, "SETTLE_S", 0.0)
    monkeypatch.setattr(model_servers, "AGAIN_S", 0.0)
    path, checkpoint = tmp_path / "model.sock", random_checkpoint(tmp_path, kv_heads=2)
    flags = {"engine": "sglang", "checkpoint": checkpoint, "products": "float32", "groups": 1}
    told = [f"--{name}={value}" for name, value in (flags | {"socket": path, "slots": CALLS + 1}).items()]
    kept = ModelServers([sys.executable, "-m", "model_server", *told], path, with_spare=True)
    calls = Calls(checkpoint)
    started: list[Process] = []

    async def story() -> None:
        started.append(first := await kept.start())
        await until(lambda: answers(path))
        started.append(unlucky := await waiting_spare(kept))
        begun_s = time.monotonic()
        scheduler(unlucky.pid).kill()
        assert await unlucky.wait() == LOST_STATUS, "nobody waits for it, and it ends all the same"
        assert time.monotonic() - begun_s < SOON_S
        assert "was killed by SIGKILL" in capfd.readouterr().err
        spare = await waiting_spare(kept, other_than=unlucky)

        worker = Worker(path)
        calls.lease(worker, 0)
        assert calls.talk(worker, range(TURNS)) >= CALLS * (TURNS - 2)
        with talking(worker, calls.leased, TURNS):
            await asyncio.sleep(STOPPED_S)
            killed = scheduler(first.pid)
            killed.suspend()
            await asyncio.sleep(STOPPED_S)
            killed_s = time.monotonic()
            killed.kill()
            assert await first.wait() == LOST_STATUS
        gone_s = time.monotonic() - killed_s
        with capfd.disabled():
            print(f"gone {gone_s:.2f} s after its scheduler was killed")
        assert gone_s < SOON_S
        assert f"SGLang's process {killed.pid} was killed by SIGKILL" in capfd.readouterr().err
        worker.close()

        monkeypatch.setattr(model_servers, "SETTLE_S", STORY_S)  # no other spare
        started.append(heir := await kept.start())
        assert heir is spare
        await until(lambda: answers(path))
        worker = Worker(path)
        calls.lease(worker, TURNS)
        assert stats_of(worker)["counters"]["turns_rebuilt_total"] == CALLS * TURNS
        assert calls.talk(worker, range(TURNS, 2 * TURNS)) >= CALLS * (TURNS - 2)
        with talking(worker, calls.leased, 2 * TURNS):
            stopped_s = time.monotonic()
            scheduler(heir.pid).suspend()
            assert await heir.wait() == LOST_STATUS
        silent_s = time.monotonic() - stopped_s
        with capfd.disabled():
            print(f"gone {silent_s:.2f} s after its scheduler went silent")
        assert STUCK_S < silent_s < STUCK_S + 2 * TURN_S + SOON_S
        said = capfd.readouterr().err
        assert "no answer in 0.6 s" in said and "SGLang has said nothing for" in said
        worker.close()

    async def bounded() -> None:
        try:
            await asyncio.wait_for(story(), STORY_S)
        finally:
            kept.close()
            for process in started:
                if process.returncode is None:
                    process.kill()
                await process.wait()
            if kept._spare is not None:
                await kept._spare.wait()

    asyncio.run(bounded())


@contextmanager
def talking(worker: Worker, leased: Sequence[Leased], first: int) -> Iterator[None]:
    """Chunks go on from turn `first`, whoever listens, from a thread."""
    over = threading.Event()

    def talk() -> None:
        for turn in itertools.count(first):
            for each in leased:
                pcm = np.zeros(TURN_SAMPLES, np.int16)
                worker.table.put_chunk(each.slot, Chunk(each.generation, turn, time.monotonic_ns(), pcm))
            if over.wait(TURN_NS / NS_PER_S):
                return

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def stats_of(worker: Worker) -> dict[str, dict[str, int]]:
    answer = worker.ask(StatsRequest())
    assert isinstance(answer, Stats)
    return answer.fields
