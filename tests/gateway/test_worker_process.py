"""The skeleton of a worker process: what ends it, what it says once a second, and when its garbage goes."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import weakref
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway import control
from gateway.cut_time import CutTime
from gateway.worker_process import (
    ENDED_CALLS_TO_COLLECT,
    MOST_WAITED_S,
    SWEEP_NS,
    Garbage,
    WorkerProcess,
)

PATIENCE_S = 5.0
READY = control.Ready("w", 1, 2, 3, 8_000, "none", False, [])
REPORT = control.Report({"calls": 1}, {})


class Cycle:
    """Something that only the collector can free."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    """As it was: a worker process never gives it back."""
    yield
    gc.unfreeze()
    gc.enable()


@pytest.fixture
def garbage() -> Garbage:
    garbage = Garbage()
    garbage.begin()
    return garbage


def test_nothing_is_collected_but_by_the_sweep(garbage: Garbage) -> None:
    left = weakref.ref(Cycle())
    kept = [[] for _ in range(100_000)]  # type: ignore[var-annotated]
    assert left() is not None and len(kept) == 100_000
    garbage.sweep()  # nothing is due
    assert left() is not None
    garbage.second_passed()
    garbage.sweep()
    assert left() is None


def test_what_outlived_a_sweep_goes_when_so_many_calls_have_ended(garbage: Garbage) -> None:
    for _ in range(2):
        held = Cycle()
        left = weakref.ref(held)
        garbage.second_passed()
        garbage.sweep()  # it is old now
        del held
        for _ in range(ENDED_CALLS_TO_COLLECT - 1):
            garbage.call_ended()
        garbage.sweep()
        assert left() is not None
        garbage.call_ended()
        assert left() is not None  # the end of a call may be told in the middle of its callback
        garbage.sweep()
        assert left() is None


def test_nothing_is_swept_while_some_engine_is_about_to_cut_but_not_for_ever(garbage: Garbage) -> None:
    left = weakref.ref(Cycle())
    for _ in range(MOST_WAITED_S):
        garbage.second_passed()
        garbage.sweep(SWEEP_NS - 1)
        assert left() is not None
    garbage.second_passed()
    garbage.sweep(0)
    assert left() is None and not garbage.is_overdue
    left = weakref.ref(Cycle())
    garbage.second_passed()
    garbage.sweep(0)
    assert left() is not None, "it waits anew"
    garbage.sweep(SWEEP_NS)
    assert left() is None


class World:
    """A worker process that has no calls, and the main process's end of its line."""

    def __init__(self, tmp_path: Path) -> None:
        self.listener = control.listen(tmp_path / "run" / "control")
        self.heard: list[control.MainMessage] = []
        self.order: list[str] = []
        self.process = WorkerProcess(
            "w", str(tmp_path / "run" / "control"), str(tmp_path / "no-model"), CutTime(1, 200_000),
            ready=lambda: READY, is_busy=lambda: False, look_after=self._look_after, report=self._report,
            hear=self.heard.append,
        )  # fmt: skip

    async def _look_after(self) -> None:
        self.order.append("looked after")

    def _report(self) -> control.Report:
        self.order.append("reported")
        return REPORT

    async def main(self) -> socket.socket:
        """The connection of the worker, which has said that it is ready."""
        connection, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        assert await self.told(connection) == READY
        return connection

    async def told(self, connection: socket.socket) -> control.WorkerMessage:
        message: control.WorkerMessage = control.decode_worker(
            await asyncio.get_running_loop().sock_recv(connection, control.MAX_BYTES)
        )
        return message


def live(
    tmp_path: Path, story: Callable[[World], Coroutine[Any, Any, None]], *works: Coroutine[Any, Any, None]
) -> None:
    """Serve beside `story`: both have to end."""

    async def both() -> None:
        world = World(tmp_path)
        with world.listener:
            world.process.heed_signals()
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(world.process.serve(*works), story(world))
            world.process.close()

    asyncio.run(both())


def test_drain_ends_it_and_all_else_is_handed_on(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        with await world.main() as connection:
            for message in (control.HangUp(7, "c"), control.Drain()):
                connection.send(control.encode(message))
            while len(world.heard) < 1:
                await asyncio.sleep(0.001)
            assert world.heard == [control.HangUp(7, "c")]

    live(tmp_path, story)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    async def story(world: World) -> None:
        with await world.main():
            signal.raise_signal(number)

    live(tmp_path, story)


def test_work_that_breaks_ends_it_and_is_told(tmp_path: Path) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    async def story(world: World) -> None:
        pass

    with capture_logs() as logs:
        live(tmp_path, story, broken())
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["worker broken"]


def test_calls_are_looked_after_before_each_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.worker_process.LOOK_AFTER_S", 0.001)

    async def story(world: World) -> None:
        with await world.main() as connection:
            for _ in range(3):
                assert await world.told(connection) == REPORT
            connection.send(control.encode(control.Drain()))
        assert world.order[:4] == ["looked after", "reported"] * 2

    live(tmp_path, story)


def test_calls_that_hear_no_replies_do_not_keep_the_sweep_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.worker_process.LOOK_AFTER_S", 0.001)

    async def story(world: World) -> None:
        monkeypatch.setattr(type(world.process.turns), "is_empty", property(lambda turns: False))
        with await world.main() as connection:
            left = weakref.ref(Cycle())
            while left() is not None:
                assert await world.told(connection) == REPORT
            connection.send(control.encode(control.Drain()))

    live(tmp_path, story)
