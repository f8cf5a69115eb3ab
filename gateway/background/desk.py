"""Tasks of this gateway's calls: into the queue of whoever works, and news of them back to the calls.

    ask, withdraw, lose -> wishes, in order, bounded -> Redis -> news -> `deliver`

Whoever asks never waits. When nobody answers, it is tried again ever more rarely; what is open then is asked for
anew once the server is back, since it may have forgotten it. A task whose deadline is over is cancelled there by
whoever told its call so (`conversation`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import structlog

from gateway.background.records import OPEN, News, Order, State, Still
from gateway.state.client import Away

log = structlog.get_logger()

MOST_OPEN: Final = 1_000
"""Of one gateway."""
MOST_WISHES: Final = 4 * MOST_OPEN
FIRST_PAUSE_S: Final = 0.05
MOST_PAUSE_S: Final = 2.0
BEGINNING: Final = "0-0"
HOMELESS_S: Final = 10.0
MOST_HOMELESS: Final = 1_000
MOST_STILLS: Final = 64
STILL_S: Final = 5.0
"""An older picture is not what the camera shows now."""
GRACE_S: Final = 5.0
"""After its deadline nobody asks for a task any more."""


@dataclass(slots=True)
class DeskCounters:
    """Since the start of this process."""

    asked: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    refused: int = 0
    """At once: too many of a call, of a gateway, or in the queue."""
    pieces: int = 0
    """Of results, on their way to a call."""
    unreadable: int = 0
    """News that made no sense."""
    stills: int = 0
    """Pictures on their way to who works at a task."""
    stills_missing: int = 0
    """Answers that there is none."""
    stills_dropped: int = 0
    """Too late, or without room: who asked is told by its own clock that none came."""
    dropped: int = 0
    """Wishes that had no room while the server was away."""


class Line(Protocol):
    """What is asked of `line.TaskLine`."""

    async def ping(self) -> str: ...
    async def ask(self, order: Order, left_ms: int) -> Literal["asked", "known", "full"]: ...
    async def cancel(self, key: str) -> bool: ...
    async def show(self, key: str, still: Still) -> bool: ...
    async def news(self, node: str, after: str, most: int = 200) -> list[tuple[str, News | None]]: ...
    async def forget_news(self, node: str, names: list[str]) -> None: ...
    async def close(self) -> None: ...


@dataclass(slots=True)
class Open:
    """A task that is not over."""

    order: Order
    deadline_s: float
    """Of `time.monotonic`."""
    state: State = "asked"
    text: str = ""

    @property
    def left_ms(self) -> int:
        """0 when its time is over."""
        return max(0, round(1e3 * (self.deadline_s - time.monotonic())))


Wish = Literal["ask", "cancel", "show"]
Deliver = Callable[[News], bool]
"""False while nobody knows the call."""
Note = Callable[[Open, State, str], None]
"""To be told of every task that begins, and of its end with the whole result."""


class Desk:
    """Its `run` is to run; everything else returns at once. Belongs to one event loop."""

    def __init__(
        self,
        connect: Callable[[], Line],
        node: str,
        *,
        deadline_s: float,
        most_of_a_call: int,
        deliver: Deliver,
        note: Note = lambda task, state, result: None,
    ) -> None:
        self.counters = DeskCounters()
        self._connect, self._node = connect, node
        self._deadline_s, self._most = deadline_s, most_of_a_call
        self._deliver, self._note = deliver, note
        self._open: dict[str, Open] = {}
        self._wishes: deque[tuple[Wish, str]] = deque()
        self._stills: dict[str, tuple[Still, float]] = {}
        """By task, each with the moment (`time.monotonic`) when it is too old; `MOST_STILLS`."""
        self._wake = asyncio.Event()
        self._is_away = False
        self._homeless: deque[tuple[str, News | None, float]] = deque()
        """Entry, news, and until when its call may turn up (`time.monotonic`); `MOST_HOMELESS`."""

    @property
    def open_tasks(self) -> int:
        """Of all calls."""
        return len(self._open)

    def has_tasks(self, call: str) -> bool:
        """Whether some of this call are open."""
        return any(task.order.call == call for task in self._open.values())

    # -- what the calls want

    def ask(self, order: Order) -> tuple[State, str, int]:
        """Its state, why it failed if it did, and how long it may take (ms). Harmless when repeated."""
        task = self._open.get(order.key)
        if task is not None:
            return task.state, "", task.left_ms
        of_call = sum(1 for other in self._open.values() if other.order.call == order.call)
        if of_call >= self._most or len(self._open) >= MOST_OPEN:
            self.counters.refused += 1
            return "failed", f"{of_call} tasks of this call are under way already", 0
        task = self._open[order.key] = Open(order, time.monotonic() + self._deadline_s)
        self.counters.asked += 1
        self._note(task, "asked", "")
        self._wish("ask", order.key)
        return "asked", "", task.left_ms

    def withdraw(self, call: str, task: str = "") -> None:
        """One task of a call, or all of them."""
        for key, open_ in list(self._open.items()):
            if open_.order.call == call and task in ("", open_.order.task):
                self._stills.pop(key, None)
                self._over(open_, "cancelled", "")
                self._wish("cancel", key)

    def show(self, key: str, still: Still) -> None:
        """To whoever works at that task; one that has no room is counted."""
        if key not in self._stills and len(self._stills) >= MOST_STILLS:
            self.counters.stills_dropped += 1
            return
        self._stills[key] = still, time.monotonic() + STILL_S
        self._wish("show", key)

    # -- the way there and back

    async def run(self) -> None:
        """Until cancelled."""
        line = self._connect()
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._keep(lambda: self._send(line)))
                both.create_task(self._keep(lambda: self._read(line)))
        finally:
            await line.close()

    async def settle(self, patience_s: float) -> None:
        """Until every wish is with the server, for so long at most."""
        until_s = time.monotonic() + patience_s
        while self._wishes and time.monotonic() < until_s:
            await asyncio.sleep(0.01)

    async def _keep(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await work()
                pause_s = FIRST_PAUSE_S
            except Away as wrong:
                self._gone(wrong)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MOST_PAUSE_S)

    def _gone(self, wrong: Away) -> None:
        if not self._is_away:
            self._is_away = True
            log.warning("tasks wait: Redis is away", reason=str(wrong), open=len(self._open))

    async def _send(self, line: Line) -> None:
        """Every wish in its order; one that met nobody is the first again."""
        await self._wake.wait()
        self._wake.clear()
        while self._wishes:
            what, key = self._wishes[0]
            try:
                await self._send_one(line, what, key)
            except Away:
                self._wake.set()
                raise
            if self._wishes and self._wishes[0] == (what, key):
                self._wishes.popleft()

    async def _send_one(self, line: Line, what: Wish, key: str) -> None:
        if what == "ask":
            await self._send_ask(line, key)
        elif what == "cancel":
            await line.cancel(key)
        else:
            await self._send_still(line, key)

    async def _send_still(self, line: Line, key: str) -> None:
        still, until_s = self._stills.get(key, (None, 0.0))
        if still is None:
            return
        if time.monotonic() > until_s or not await line.show(key, still):
            self.counters.stills_dropped += 1
        elif still.jpeg:
            self.counters.stills += 1
        else:
            self.counters.stills_missing += 1
        if self._stills.get(key, (None,))[0] is still:
            del self._stills[key]

    async def _send_ask(self, line: Line, key: str) -> None:
        task = self._open.get(key)
        if task is None or not task.left_ms:
            return
        if await line.ask(task.order, task.left_ms) == "full" and self._open.get(key) is task:
            self.counters.refused += 1
            self._over(task, "failed", "")
            order = task.order
            self._deliver(News(key, order.call, order.task, 0, "failed", note="the queue of tasks is full"))

    async def _read(self, line: Line) -> None:
        """News since the beginning: what was delivered is not there any more."""
        after = BEGINNING
        self._homeless.clear()
        while True:
            entries = await line.news(self._node, after)
            if self._is_away:
                self._back()
                self._homeless.clear()
                after = BEGINNING
                continue
            until_s = time.monotonic() + HOMELESS_S
            self._homeless.extend((name, news, until_s) for name, news in entries)
            after = entries[-1][0] if entries else after
            await line.forget_news(self._node, self._hand_out())
            self._sweep()

    def _back(self) -> None:
        """The server may have lost what it was told: whoever has it already says so."""
        self._is_away = False
        log.info("Redis is back: tasks go on", open=len(self._open))
        for key in self._open:
            self._wish("ask", key)

    def _hand_out(self) -> list[str]:
        """News to their calls, each call's in order; gives the names of those that are done with.

        After a restart of this process its workers come back some time after the first news.
        """
        done, waiting, left = list[str](), set[str](), deque[tuple[str, News | None, float]]()
        for name, news, until_s in self._homeless:
            if news is None:
                self.counters.unreadable += 1
                done.append(name)
            elif news.call not in waiting and self._deliver(news):
                self._take(news)
                done.append(name)
            elif time.monotonic() < until_s and len(left) < MOST_HOMELESS:
                waiting.add(news.call)
                left.append((name, news, until_s))
            else:
                self._take(news)
                done.append(name)
        self._homeless = left
        return done

    def _take(self, news: News) -> None:
        """Its task may be unknown here: a call may outlive the process that asked for it."""
        self.counters.pieces += bool(news.text)
        task = self._open.get(news.key)
        if task is not None:
            task.state = news.state
            task.text += news.text
            if news.state not in OPEN:
                self._over(task, news.state, task.text)

    def _sweep(self) -> None:
        """Those whose end never came: their calls were told so by their workers."""
        now_s = time.monotonic()
        for task in [t for t in self._open.values() if now_s > t.deadline_s + GRACE_S]:
            self._over(task, "failed", task.text)

    def _over(self, task: Open, state: State, result: str) -> None:
        del self._open[task.order.key]
        if state in ("done", "failed", "cancelled"):
            setattr(self.counters, state, getattr(self.counters, state) + 1)
        self._note(task, state, result)

    def _wish(self, what: Wish, key: str) -> None:
        if len(self._wishes) >= MOST_WISHES:
            self.counters.dropped += 1  # what is in Redis already ends there by its deadline
            if what == "show":
                del self._stills[key]
            return
        self._wishes.append((what, key))
        self._wake.set()
