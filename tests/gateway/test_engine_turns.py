"""Calls of two engines in one worker: what happens to a model server happens to the calls of its engine alone.

Real model servers (`echo`), and calls that nobody carries: they say text, their ear is served when they are cut.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.cut_time import CutTime
from gateway.engine_turns import EngineTurns
from gateway.turns import Pulls
from media.chunk import Reply, VideoFrame
from media.codecs.opus import OpusDecoder
from media.jitter import JitterBuffer
from media.leg import Leg
from media.timebase import FRAME_NS, MODEL_HZ
from tests.support.upgrades import gauge, running, until

pytestmark = pytest.mark.processes


class Call:
    """`gateway.turns.Call`: says a line in every turn, and keeps the turns that were answered with theirs."""

    persona, is_over = "", False

    def __init__(self, name: str, engine: str) -> None:
        self.name, self.engine = name, engine
        self.leg: Leg[Any] = Leg(JitterBuffer(OpusDecoder(MODEL_HZ)))
        self.answered: list[int] = []
        self.wrong: Exception | None = None
        self._first_ns = time.monotonic_ns()
        self._pulled = 0

    def drain(self) -> None:
        self.leg.receive_text(f"{self.name} {self.leg.turn}")

    def pulls(self) -> Pulls:
        while self._pulled * FRAME_NS <= time.monotonic_ns() - self._first_ns:
            self.leg.playout.pull()
            self._pulled += 1
        return Pulls(self._first_ns, self._first_ns + (self._pulled - 1) * FRAME_NS)

    def pictures(self, now_ns: int, wanted: int) -> tuple[VideoFrame, ...]:
        return ()

    def turned(self, chunk: Any) -> None: ...

    def replied(self, reply: Reply, taken: bool) -> None:
        assert all(line.startswith(self.name) for line in reply.text.splitlines()), "another call's"
        self.answered.append(reply.turn)

    def fail(self, wrong: Exception) -> None:
        self.wrong = wrong


@asynccontextmanager
async def worker(usual: Path, lab: Path) -> AsyncIterator[tuple[EngineTurns, list[tuple[str, bool]]]]:
    """Its turns, and what it says of which engine there is; what breaks in it breaks the test."""
    told: list[tuple[str, bool]] = []
    turns = EngineTurns(
        "w",
        {"": usual, "lab": lab},
        CutTime(8, 200_000),
        attachable=lambda engine, there: told.append((engine, there)),
    )
    keeping = asyncio.create_task(turns.keep())
    try:
        yield turns, told
        assert not keeping.done()
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("usual", "lab"):
        (tmp_path / name).mkdir()
    return tmp_path / "usual", tmp_path / "lab"


async def talking(*calls: Call, turns: int = 4) -> None:
    """Until so many more turns of each are answered."""
    had = [len(call.answered) for call in calls]
    await until(
        lambda: (
            all(len(call.answered) >= n + turns for call, n in zip(calls, had, strict=True))
            or any(call.wrong for call in calls)
        )
    )
    assert not any(call.wrong for call in calls)
    for call in calls:
        assert call.answered == sorted(set(call.answered)), "every turn once, in order"


def test_each_call_is_answered_by_its_engine_whatever_groups_that_has(tmp_path: Path) -> None:
    async def story() -> None:
        ours, theirs = folders(tmp_path)
        async with (
            running(ours, "--groups=4") as usual,
            running(theirs, "--groups=1", "--slots=3") as lab,
            worker(usual.path, lab.path) as (turns, told),
        ):
            await until(lambda: len(told) == 2)
            assert set(told) == {("", True), ("lab", True)} and set(turns.attached) == {"", "lab"}
            here, there, more = Call("here", ""), Call("there", "lab"), Call("more", "lab")
            assert [await turns.lease(call) for call in (here, there, more)] == [True] * 3
            assert [await gauge(up.path, "slots_leased") for up in (usual, lab)] == [1, 2]
            tables = [turns.table_of(call) for call in (here, there)]
            assert [table.slots for table in tables if table is not None] == [8, 3]
            assert turns.kind_of(there) == "echo"
            assert turns.gauges() == {"engine_calls": 1.0, "engine_calls:lab": 2.0}
            await talking(here, there, more)
            assert turns.report()["turns_cut"] >= 12 and turns.report()["replies_stale"] == 0
            turns.leave(there)
            await until(lambda: _leased(lab.path, 1))
            assert await gauge(usual.path, "slots_leased") == 1
            for call in (here, more):
                turns.leave(call)
            assert turns.is_empty

    asyncio.run(asyncio.wait_for(story(), 60))


def test_the_death_of_one_server_is_nothing_to_the_calls_of_the_other(tmp_path: Path) -> None:
    async def story() -> None:
        ours, theirs = folders(tmp_path)
        async with (
            running(ours) as usual,
            running(theirs) as lab,
            worker(usual.path, lab.path) as (turns, told),
        ):
            await until(lambda: len(told) == 2)
            here, there = Call("here", ""), Call("there", "lab")
            assert await turns.lease(here) and await turns.lease(there)
            await talking(here, there)
            kept, had = here.leg.tenancy, there.leg.tenancy
            assert lab.child.process is not None and had is not None
            lab.child.process.kill()
            await until(lambda: there.leg.tenancy is None)
            assert turns.attached == [""] and not turns.is_attached("lab") and turns.is_attached("")
            await talking(here)
            await until(lambda: there.leg.tenancy is not None)
            assert there.leg.tenancy is not None and there.leg.tenancy.generation > had.generation
            await talking(here, there)
            assert here.leg.tenancy is kept, "it has the slot that it had"
            assert told[2:] == [("lab", False), ("lab", True)]
            assert turns.report()["model_servers_lost"] == 1
            assert await gauge(usual.path, "slots_leased") == 1

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_live_upgrade_moves_the_calls_of_its_engine(tmp_path: Path) -> None:
    async def story() -> None:
        ours, theirs = folders(tmp_path)
        async with (
            running(ours) as usual,
            running(theirs) as lab,
            worker(usual.path, lab.path) as (turns, told),
        ):
            await until(lambda: len(told) == 2)
            here, there = Call("here", ""), Call("there", "lab")
            assert await turns.lease(here) and await turns.lease(there)
            await talking(here, there)
            kept, old = here.leg.tenancy, lab.child.process
            done = await lab.upgrade("--slots=6")
            assert (done.calls, done.inherited) == (1, False) and lab.child.process is not old
            assert here.leg.tenancy is kept and turns.report()["calls_moved"] == 1
            await talking(here, there)
            assert await gauge(lab.path, "slots") == 6 and await gauge(lab.path, "slots_leased") == 1
            assert len(told) == 2, "there was one for new calls all the time"

    asyncio.run(asyncio.wait_for(story(), 90))


def test_an_engine_that_this_worker_never_had_gives_no_slot(tmp_path: Path) -> None:
    async def story() -> None:
        async with worker(tmp_path / "nobody", tmp_path / "nobody-either") as (turns, told):
            stranger = Call("stranger", "other")
            assert not turns.is_attached("other") and not await turns.lease(stranger)
            assert turns.table_of(stranger) is None and turns.kind_of(stranger) == ""
            assert turns.sums_of(stranger).turns == 0 and turns.notes_of(stranger) is None
            turns.leave(stranger)
            assert turns.is_empty and told == []

    asyncio.run(asyncio.wait_for(story(), 20))


async def _leased(path: Path, slots: int) -> bool:
    return await gauge(path, "slots_leased") == slots
