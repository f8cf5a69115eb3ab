"""One clock for all calls of a worker: each is asked for its next 20 ms frame every 20 ms.

The 20 ms are divided into `SLOTS` places, aligned to the monotonic clock, and calls are spread over them. A
call gets the place that lies closest behind the moment at which its replies are ready, unless that is full.
A clock that woke up late makes up for at most `MOST_LATE_NS`; what is older is left out: the listener would
only get it late, and later and later.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from media.timebase import FRAME_NS, NS_PER_MS

SLOTS = 8
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
        self._somebody = asyncio.Event()

    def add(self, paced: Paced, ready_ns: int) -> None:
        """From now on; `ready_ns` modulo 20 ms is when what it will say is ready."""

        def cost_ns(slot: int) -> int:
            return (slot * STEP_NS - ready_ns) % FRAME_NS + len(self._slots[slot]) * CROWD_NS

        self.remove(paced)
        slot = self._place[paced] = min(range(SLOTS), key=cost_ns)
        self._slots[slot][paced] = None
        self._somebody.set()

    def remove(self, paced: Paced) -> None:
        """Harmless for one who is not on it."""
        slot = self._place.pop(paced, None)
        if slot is not None:
            del self._slots[slot][paced]

    async def run(self) -> None:
        """Until cancelled."""
        step = time.monotonic_ns() // STEP_NS + 1
        while True:
            if not self._place:
                self._somebody.clear()
                await self._somebody.wait()
                step = time.monotonic_ns() // STEP_NS + 1
            while not self._slots[step % SLOTS]:
                step += 1
            wait_ms = -((time.monotonic_ns() - step * STEP_NS) // NS_PER_MS)  # whole ones: less would spin
            await asyncio.sleep(max(0, wait_ms) / 1000)
            now = time.monotonic_ns() // STEP_NS
            if now - step > MOST_LATE_NS // STEP_NS:
                self.steps_left_out += now - step
                step = now
            while step <= now:
                self.strike(step)
                step += 1

    def strike(self, step: int) -> None:
        """Everybody in the place of this step (of `STEP_NS` since the clock's zero)."""
        for paced in tuple(self._slots[step % SLOTS]):
            try:
                paced.speak(step * STEP_NS)
            except Exception as wrong:  # the edge of a call: nobody else may miss a frame for it
                self.remove(paced)
                paced.fail(wrong)
