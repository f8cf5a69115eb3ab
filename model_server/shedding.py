"""What is left out when steps take too long: in a stated order, alike for every call, never by letting all be late.

    level 0   nothing
    level 1   video: pictures are not looked at
    level 2   tokens: a call may write one a turn, where its network can go on in the next (`digits` cannot)
    level 3   new calls are refused

A level more after `RISE_STEPS` steps, of the newest `SEEN_STEPS`, over their limit; a level less after `CALM_STEPS`
steps, one after another, that would have been in time with a fifth to spare. Between two rises lie `SEEN_STEPS` at
least, so that what was left out can show what it is worth.
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
"""Of the limit: what a calm step takes at most."""


class Shedding:
    """Fed by every step."""

    def __init__(self) -> None:
        self.level = Shed.NOTHING
        self._over: deque[bool] = deque(maxlen=SEEN_STEPS)
        self._calm = 0

    def observe(self, step_ns: int, limit_ns: int) -> bool:
        """A step took so long, which ought to have taken `limit_ns` at most; True when the level changed."""
        self._over.append(step_ns > limit_ns)
        self._calm = self._calm + 1 if step_ns <= SPARE * limit_ns else 0
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
