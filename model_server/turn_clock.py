"""The turn clock: when the next tick is, and of which phase group.

Group g ticks at `timebase.phase_offset_ns(g, groups)` of every 200 ms of the monotonic clock, so every
process of a node knows every tick without being told. The one rule: a tick that was overslept is skipped and
counted, never made up for; of all ticks that are overdue only the newest is run.
"""

from __future__ import annotations

from typing import NamedTuple

from media.timebase import TURN_NS, phase_offset_ns


class Tick(NamedTuple):
    """A boundary of the clock."""

    tick_ns: int
    """Monotonic, when it is due; already past when we are late."""
    group: int


class TurnClock:
    """Sans-IO: the caller brings the time and does the sleeping."""

    def __init__(self, groups: int) -> None:
        self._offsets = [phase_offset_ns(group, groups) for group in range(groups)]
        self._last = -1
        self.skipped = 0
        """Ticks that were overslept."""

    def next_tick(self, now_ns: int) -> Tick:
        """The tick to run next: at once when it is overdue, else when its time has come.

        The first call gives the first tick that is not before `now_ns`; each later call a later tick.
        """
        due = self._number_at(now_ns)
        if self._last < 0:
            number = due if self._at(due).tick_ns == now_ns else due + 1
        else:
            number = max(self._last + 1, due)
            self.skipped += number - self._last - 1
        self._last = number
        return self._at(number)

    def _number_at(self, now_ns: int) -> int:
        """Number of the last tick that is not after `now_ns`, counted from 0 ns."""
        turn, within = divmod(now_ns, TURN_NS)
        return turn * len(self._offsets) + sum(offset <= within for offset in self._offsets) - 1

    def _at(self, number: int) -> Tick:
        turn, group = divmod(number, len(self._offsets))
        return Tick(turn * TURN_NS + self._offsets[group], group)
