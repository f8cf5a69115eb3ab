"""What several of these tests need: a queue on a real server, orders, and somebody who answers as a test wishes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.background.line import TaskLine
from gateway.background.records import News, Order, Spoken
from gateway.background.work import NoAnswer, Step, Words
from gateway.background.worker import Worker
from gateway.state.address import parse
from gateway.state.client import Login
from tests.gateway.state.server import NAMESPACE, StateServer

CALL = "b-00000000000000aa"
NODE = "n1"


def order(number: int = 1, request: str = "caller: 3 plus 4", **more: Any) -> Order:
    task = f"{number}-ab"
    return Order(key=f"{CALL}.{task}", call=CALL, task=task, node=NODE, turn=number, request=request, **more)


def caller(*texts: str) -> tuple[Spoken, ...]:
    return tuple(Spoken(turn, "caller", text) for turn, text in enumerate(texts))


@contextlib.asynccontextmanager
async def line(server: StateServer, name: str = NODE) -> AsyncIterator[TaskLine]:
    """A line of a test's own."""
    here = TaskLine(parse(server.url), Login(), NAMESPACE, name)
    try:
        yield here
    finally:
        await here.close()


@dataclass
class Scripted:
    """Answers with these words, one when the test says so."""

    words: tuple[str, ...] = ("One. ", "Two. ", "Three.")
    fails: str = ""
    answered: list[tuple[str, str]] = field(default_factory=list)
    cancelled: int = 0
    go: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def answer(self, order: Order, said: str) -> AsyncIterator[Step]:
        self.answered.append((order.task, said))
        try:
            before = len(said)
            for word in self.words:
                await self.go.acquire()
                if word[before:]:
                    yield Words(word[before:])
                before = max(0, before - len(word))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fails:
            raise NoAnswer(self.fails)

    async def close(self) -> None:
        """Nothing is held."""


@contextlib.asynccontextmanager
async def working(server: StateServer, answerer: Any, most: int = 4, name: str = "") -> AsyncIterator[Worker]:
    """A worker until the block is left, stopped as by SIGTERM."""
    here = Worker(TaskLine(parse(server.url), Login(), NAMESPACE, "worker"), answerer, most, name)
    stop = asyncio.Event()
    running = asyncio.create_task(here.run(stop))
    try:
        yield here
    finally:
        stop.set()
        await running


class Reader:
    """News of a node, in order."""

    def __init__(self, line: TaskLine) -> None:
        self.news: list[News] = []
        self._line, self._after = line, "0-0"

    async def until(self, holds: Callable[[list[News]], bool], timeout_s: float = 20.0) -> list[News]:
        async with asyncio.timeout(timeout_s):
            while not holds(self.news):
                for name, news in await self._line.news(NODE, self._after):
                    self._after = name
                    assert news is not None
                    self.news.append(news)
        return self.news


def told(news: list[News], task: str = "1-ab") -> list[tuple[int, str, str]]:
    return [(one.number, one.state, one.text) for one in news if one.task == task]


def is_over(news: list[News]) -> bool:
    return any(one.state in ("done", "failed", "cancelled") for one in news)
