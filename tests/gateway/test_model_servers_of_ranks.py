"""Model servers cut over two processes, as `microturn up` keeps them: what they say, and the death of a rank."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

import torch

from gateway import model_servers
from gateway.model_servers import ModelServers
from media.chunk import Chunk, Reply
from media.leases import Lease, Leased, Stats, StatsRequest
from media.ring import META
from media.timebase import NS_PER_MS, NS_PER_S, TURN_NS, tick_at_or_after
from media.turn_log import TurnLog
from model_server.batch import Batch, Results
from model_server.engine import LOST_STATUS
from model_server.engine.digits import DigitsEngine
from model_server.rebuild import FILL_TURNS
from tests.gateway.test_model_servers import answers, title_of, until, waiting_spare
from tests.model_server.conftest import Worker
from tests.model_server.ranks.conftest import random_checkpoint
from tests.model_server.ranks.lead import CALLS, chunks

pytestmark = pytest.mark.processes

TURNS = FILL_TURNS
"""Before the death of a rank, and after it: so many are rebuilt however long that takes."""
CUT_NS = 20 * NS_PER_MS
SAMPLE = 1e-3 * 32768
SOON_S = 8.0
"""As in `tests/model_server/ranks/test_deaths.py`."""


class Calls:
    """Of one worker; the same turns are given to an engine in one process that nobody kills.

    None of them hears the model, nor does it hear itself: what it said goes back into it in 16 levels a
    channel, and where the ranks' rounding falls on the edge of one, the sound is another from then on.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.engine = DigitsEngine(checkpoint, products=torch.float32)
        self.logs = [TurnLog() for _ in range(CALLS)]
        self.leased: list[Leased] = []
        self._next: list[int | None] = [0] * CALLS
        """The turn of each one's next reply; None: one came too late, and what was not heard was not said."""
        for slot in range(CALLS):
            self.engine.open(slot, "")

    def lease(self, worker: Worker, turn: int) -> None:
        """A slot for each, with its log where it has one; returns when nothing is left to rebuild.

        The first time, too, they come as calls that go on: two ranks on one core may be too slow for new ones.
        """
        floors = [leased.generation for leased in self.leased] or [1] * CALLS
        self.leased = []
        for number, floor in enumerate(floors):
            self.leased.append(
                _leased(worker, Lease(f"call {number}", floor, turn), self.logs[number].pack())
            )
        while _stats(worker)["gauges"]["calls_rebuilding"]:
            time.sleep(0.02)

    def talk(self, worker: Worker, turns: Sequence[int]) -> int:
        """In real time; how many replies came, each of which is that of the one process.

        A call that has missed one says other things from then on, since it hears that nothing was said.
        """
        wanted = [self.engine.step(_batch(turn)) for turn in turns]
        table, seen = worker.table, 0
        tick_ns = tick_at_or_after(time.monotonic_ns() + 60 * NS_PER_MS, 0, table.groups)
        for at, turn in enumerate(turns):
            time.sleep(max(0, tick_ns + at * TURN_NS - CUT_NS - time.monotonic_ns()) / NS_PER_S)
            for number, leased in enumerate(self.leased):
                chunk = Chunk(leased.generation, turn, 1, chunks(turn)[number])
                assert table.put_chunk(leased.slot, chunk)
                self.logs[number].add(chunk)
            seen += self._hear(worker, turns[0], wanted)
        time.sleep(3 * TURN_NS / NS_PER_S)
        return seen + self._hear(worker, turns[0], wanted)

    def _hear(self, worker: Worker, first: int, wanted: Sequence[Results]) -> int:
        ring, seen = worker.table.outbound, 0
        while len(slots := ring.ready()):
            for slot, reply in zip(slots, worker.table.replies(ring.gather(slots)), strict=True):
                number = next(n for n, leased in enumerate(self.leased) if leased.slot == slot)
                self.logs[number].answer(reply.turn)
                if reply.turn != self._next[number]:
                    self._next[number] = None
                else:
                    _compare(reply, wanted[reply.turn - first], number, worker)
                    self._next[number] = reply.turn + 1
                seen += 1
            ring.advance(slots)
        return seen


def test_two_ranks_serve_calls_and_one_that_is_killed_costs_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_servers, "SETTLE_S", 0.0)
    path, checkpoint = tmp_path / "model.sock", random_checkpoint(tmp_path, kv_heads=2)
    flags = {"engine": "digits", "checkpoint": checkpoint, "ranks": 2, "products": "float32", "groups": 1}
    told = [f"--{name}={value}" for name, value in (flags | {"socket": path, "slots": 4}).items()]
    kept = ModelServers([sys.executable, "-m", "model_server", *told], path, with_spare=True)
    calls = Calls(checkpoint)
    started: list[Process] = []

    async def story() -> None:
        started.append(first := await kept.start())
        await until(lambda: answers(path))
        spare = await waiting_spare(kept)
        worker = Worker(path)
        calls.lease(worker, 0)
        assert calls.talk(worker, range(TURNS)) >= CALLS * (TURNS - 2)
        (rank,) = children(first.pid)
        assert title_of(rank) == "microturn: model-server rank 1"
        killed_s = time.monotonic()
        os.kill(rank, signal.SIGKILL)
        assert await first.wait() == LOST_STATUS and time.monotonic() - killed_s < SOON_S
        worker.close()
        started.append(heir := await kept.start())
        assert heir is spare
        await until(lambda: answers(path))
        worker = Worker(path)
        calls.lease(worker, TURNS)
        assert _stats(worker)["counters"]["turns_rebuilt_total"] == CALLS * TURNS
        assert calls.talk(worker, range(TURNS, 2 * TURNS)) >= CALLS * (TURNS - 2)
        worker.close()
        (rank,) = children(heir.pid)
        heir.terminate()
        assert await heir.wait() == 0
        await until(lambda: not Path(f"/proc/{rank}").exists())

    async def bounded() -> None:
        try:
            await asyncio.wait_for(story(), 120)
        finally:
            kept.close()
            for process in started:
                if process.returncode is None:
                    process.kill()
                await process.wait()
            if kept._spare is not None:
                await kept._spare.wait()

    asyncio.run(bounded())


def children(pid: int) -> list[int]:
    """Process ids."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _batch(turn: int) -> Batch:
    meta = np.zeros(CALLS, META)
    meta["turn"] = turn
    return Batch(turn * TURN_NS, np.arange(CALLS, dtype=np.intp), meta, chunks(turn))


def _compare(reply: Reply, wanted: Results, number: int, worker: Worker) -> None:
    text = wanted.said[number].text if number in wanted.said else ""
    assert reply.text == text, (reply.turn, number, _stats(worker))
    apart = np.abs(reply.pcm.astype(np.int32) - wanted.pcm_BS[number])
    where = np.flatnonzero(apart > SAMPLE)
    assert not len(where), (reply.turn, number, apart.max(), where[0], where[-1], reply.flags, _stats(worker))


def _leased(worker: Worker, wish: Lease, past: bytes) -> Leased:
    answer = worker.ask_with_log(wish, past) if past else worker.ask(wish)
    assert isinstance(answer, Leased), answer
    return answer


def _stats(worker: Worker) -> dict[str, dict[str, int]]:
    answer = worker.ask(StatsRequest())
    assert isinstance(answer, Stats)
    return answer.fields
