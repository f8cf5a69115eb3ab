"""What is left out when steps take too long: in a stated order, alike for every call, never by letting all be late.

    level 0   nothing
    level 1   video: pictures are not looked at
    level 2   tokens: a call may write one a turn, where its network can go on in the next (`digits` cannot)
    level 3   new calls are refused

What is looked at after every step is what all steps of a turn take together. A level more after `RISE_STEPS` steps,
of the newest `SEEN_STEPS`, with that over its limit; a level less after `CALM_STEPS` steps, one after another, with
a fifth to spare. What was seen before a change counts no more after it.
"""

from __future__ import annotations

import enum
from collections import deque


class Shed(enum.IntEnum):
    """Each leaves out what those before it do, too."""

    NOTHING = 0
    VIDEO = 1
    TOKENS = 2
    NEW_CALLS = 3


SEEN_STEPS = 20
"""One second of four groups' ticks."""
RISE_STEPS = 3
CALM_STEPS = 200
"""Ten seconds."""
SPARE = 0.8
"""Of the limit: what they take at most when it is calm."""


class Shedding:
    """Fed by every step."""

    def __init__(self) -> None:
        self.level = Shed.NOTHING
        self._over: deque[bool] = deque(maxlen=SEEN_STEPS)
        self._calm = 0

    def observe(self, busy_ns: int, limit_ns: int) -> bool:
        """The steps of a turn took so long, which ought to take `limit_ns` at most; True when the level changed."""
        self._over.append(busy_ns > limit_ns)
        self._calm = self._calm + 1 if busy_ns <= SPARE * limit_ns else 0
        if sum(self._over) >= RISE_STEPS and self.level < Shed.NEW_CALLS:
            return self._move(1)
        if self._calm >= CALM_STEPS and self.level > Shed.NOTHING:
            return self._move(-1)
        return False

    def _move(self, by: int) -> bool:
        self.level = Shed(self.level + by)
        self._over.clear()
        self._calm = 0
        return True
