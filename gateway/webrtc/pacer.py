"""One clock for all calls of a worker: each is asked for its next 20 ms frame every 20 ms.

The 20 ms are divided into `SLOTS` places, aligned to the monotonic clock, and calls are spread over them. A
call gets the place that lies closest behind the moment at which its replies are ready, unless that is full: few
places, since whoever speaks behind another finds the processor's caches warm, and each place is a wake-up.
A clock that woke up late makes up for at most `MOST_LATE_NS`; what is older is left out: the listener would
only get it late, and later and later.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from media.timebase import FRAME_NS, NS_PER_MS

SLOTS = 4
STEP_NS = FRAME_NS // SLOTS
MOST_LATE_NS = 2 * FRAME_NS
CROWD_NS = NS_PER_MS // 4
"""A call more in a place weighs as much as so long a wait."""


class Paced(Protocol):
    """Whoever speaks every 20 ms."""

    def speak(self, due_ns: int) -> None:
        """The frame that is due now; must not wait."""
        ...

    def fail(self, wrong: Exception) -> None:
        """`speak` raised: this call ends, the others do not."""
        ...


class Pacer:
    """The clock, and who is on it."""

    def __init__(self) -> None:
        self.steps_left_out = 0
        self._slots: list[dict[Paced, None]] = [{} for _ in range(SLOTS)]
        self._place: dict[Paced, int] = {}
        self._over: asyncio.Future[None] | None = None  # while it runs
        self._timer: asyncio.TimerHandle | None = None
        self._step = 0  # of `STEP_NS` since the clock's zero: the one that is struck next

    def add(self, paced: Paced, ready_ns: int) -> None:
        """From now on; `ready_ns` modulo 20 ms is when what it will say is ready."""

        def cost_ns(slot: int) -> int:
            return (slot * STEP_NS - ready_ns) % FRAME_NS + len(self._slots[slot]) * CROWD_NS

        self.remove(paced)
        slot = self._place[paced] = min(range(SLOTS), key=cost_ns)
        self._slots[slot][paced] = None
        if self._over is not None and self._timer is None:
            self._begin()

    def remove(self, paced: Paced) -> None:
        """Harmless for one who is not on it."""
        slot = self._place.pop(paced, None)
        if slot is not None:
            del self._slots[slot][paced]

    async def run(self) -> None:
        """Until cancelled; by timers of the loop, since a task that sleeps is woken by way of two callbacks more.
        Raises what broke a step, which is a bug of ours."""
        self._over = asyncio.get_running_loop().create_future()
        if self._place:
            self._begin()
        try:
            await self._over
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._over = self._timer = None

    def _begin(self) -> None:
        self._step = time.monotonic_ns() // STEP_NS + 1
        self._wait()

    def _wait(self) -> None:
        """For the next step that somebody speaks in; for nothing when nobody is here."""
        if not self._place:
            self._timer = None
            return
        while not self._slots[self._step % SLOTS]:
            self._step += 1
        wait_ms = -((time.monotonic_ns() - self._step * STEP_NS) // NS_PER_MS)  # whole ones: less would spin
        self._timer = asyncio.get_running_loop().call_later(max(0, wait_ms) / 1000, self._wake)

    def _wake(self) -> None:
        try:
            self._catch_up()
            self._wait()
        except Exception as wrong:
            if self._over is not None and not self._over.done():
                self._over.set_exception(wrong)

    def _catch_up(self) -> None:
        """All steps that are due."""
        now = time.monotonic_ns() // STEP_NS
        if now - self._step > MOST_LATE_NS // STEP_NS:
            self.steps_left_out += now - self._step
            self._step = now
        while self._step <= now:
            self.strike(self._step)
            self._step += 1

    def strike(self, step: int) -> None:
        """Everybody in the place of this step (of `STEP_NS` since the clock's zero)."""
        for paced in tuple(self._slots[step % SLOTS]):
            try:
                paced.speak(step * STEP_NS)
            except Exception as wrong:  # the edge of a call: nobody else may miss a frame for it
                self.remove(paced)
                paced.fail(wrong)
