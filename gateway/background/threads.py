"""Functions that block, each run in a thread of its own; one that never comes back costs its thread and no more.

asyncio's own executor has a few threads for everybody: as many functions that hang would stop all the others, and
the end of the process waits for them. These are daemon threads, which nobody waits for.

Nothing can end a thread from outside. So a run that nobody waits for any more is *left*: it is counted until it
comes back, and while `MOST_LEFT_OF_ONE` of a function are, that function is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

import structlog

log = structlog.get_logger()

MOST_LEFT_OF_ONE: Final = 2
MOST_THREADS: Final = 320
"""256 tasks at once, which is the most that a worker may be given, and as many left ones as others will stand."""

P = ParamSpec("P")
R = TypeVar("R")


class Refused(Exception):
    """No thread for this function now; the message is for who wanted it."""


@dataclass(slots=True)
class ThreadCounters:
    """Since the start of this process; begun = came back + left + running now."""

    begun: int = 0
    left: int = 0
    """Nobody waits for them any more: out of time, or their task was withdrawn."""
    left_ended: int = 0
    """Those of them that came back after all."""
    refused: int = 0


class Threads:
    """Of one worker; belongs to one event loop."""

    def __init__(self, most: int = MOST_THREADS) -> None:
        self.counters = ThreadCounters()
        self._most, self._now = most, 0
        self._left: Counter[str] = Counter()

    @property
    def left(self) -> int:
        """Threads that nobody waits for."""
        return self._left.total()

    async def run(self, name: str, function: Callable[P, R], *given: P.args, **named: P.kwargs) -> R:
        """What the function gives or raises. `Refused` while too many runs of that name, or of all, hang."""
        if self._left[name] >= MOST_LEFT_OF_ONE:
            self.counters.refused += 1
            raise Refused(f"{name} is not run now: {self._left[name]} earlier runs of it still hang")
        if self._now >= self._most:
            self.counters.refused += 1
            raise Refused(f"{name} is not run now: all {self._most} threads are taken")
        loop = asyncio.get_running_loop()
        came_back: asyncio.Future[R] = loop.create_future()

        def work() -> None:
            outcome: tuple[R] | BaseException
            try:
                outcome = (function(*given, **named),)
            except BaseException as wrong:
                outcome = wrong
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(self._ended, name, came_back, outcome)

        self.counters.begun += 1
        self._now += 1
        threading.Thread(target=work, name=f"tool-{name}", daemon=True).start()
        try:
            return await came_back
        except asyncio.CancelledError:
            if came_back.cancelled():
                self.counters.left += 1
                self._left[name] += 1
                log.warning(
                    "nobody waits for a tool any more, and it goes on", tool=name, left=self._left[name]
                )
            raise

    def _ended(self, name: str, came_back: asyncio.Future[R], outcome: tuple[R] | BaseException) -> None:
        self._now -= 1
        if came_back.cancelled():
            self._left[name] -= 1
            self.counters.left_ended += 1
        elif isinstance(outcome, tuple):
            came_back.set_result(outcome[0])
        elif isinstance(outcome, Exception):
            came_back.set_exception(outcome)
        else:  # an exit is the function's own affair
            came_back.set_exception(RuntimeError(f"{name} ends with {type(outcome).__name__}"))
