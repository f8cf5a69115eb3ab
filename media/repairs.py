"""What is missing when its place has come, what gives it back, and the delay that getting it back is worth.

    lost                    made up by a repair or a guess: nothing had come when its place was cut
    repeated                it came, but only because it was asked for again (`media/nack.py`)
    beyond FEC              lost or repeated, and the packet after it could not have given it back: all of a run but
                            the last, and the last one where the packet after has no FEC

    target delay >=  guard + a packet             FEC gives back at least half of what is lost: the last packet of a
                                                  chunk needs the first of the next one
                     guard + lateness of repeats  more than FEC can is missing, and repeats come (`media/delay.py`)

Both only above `REPAIR_LOSS` of the last 10 s, and only while something is missing: 2 s after the line is good
again no wait may be left. Knows no packets and no sound. One rule: a wait that mends nothing ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

LOSS_TURNS = 50
REPAIR_LOSS, REPAIR_TURNS = 0.03, 9
"""From 3 % on, when FEC gives back at least half of it, loss is worth a packet of delay: at 5 % by chance PESQ
rises from 3.59 to 3.74 (`loadtests netem`). After 1.8 s without loss the delay goes back: within 2 s in all."""
REPEAT_TURNS = 4
"""A round trip is some turns to take back (`RUSH_MS` in `media/jitter.py`): so after 0.8 s without loss."""
REPEATS_NEEDED = 8
"""One repeat for so many packets shows that there are any. More is not asked of a line that does not wait yet: only
what is lost early in a chunk is asked for then, with a round trip of 120 ms one packet in five."""


@dataclass(slots=True)
class Turn:
    """Packets of one turn."""

    lost: int = 0
    decoded: int = 0
    recovered: int = 0
    """Given back by FEC."""
    repeated: int = 0
    beyond_fec: int = 0
    revived: int = 0
    """Carried once more by the packet after (RED), as good as FEC."""
    came_again: int = 0
    """Repeats that came in it, in time or late."""

    @property
    def missing(self) -> int:
        return self.lost + self.repeated + self.revived


class Repairs:
    """One leg's."""

    def __init__(self) -> None:
        self._turns: deque[Turn] = deque()
        self._now, self._sum = Turn(), Turn()
        self._run = 0
        self._waits_for_fec = self._waits_for_repeats = False

    @property
    def loss(self) -> float:
        """Share of the packets lost over the last 10 s, 0..1, before FEC; late ones count as lost."""
        lost = self._sum.lost
        return lost / (lost + self._sum.decoded) if lost else 0.0

    def lose(self, packets: int) -> None:
        """So many in a row were not there when their place had come."""
        self._now.lost += packets
        self._run += packets

    def decode(self, *, repeated: bool, fec: Callable[[], bool]) -> None:
        """A packet was there. `fec` says whether it can give back the one before, and is asked only if need be."""
        self._now.decoded += 1
        if repeated:
            self._now.repeated += 1
            self._run += 1
        elif self._run:
            self._now.beyond_fec += self._run - fec()
            self._run = 0

    def revive(self) -> None:
        """A packet was missing and came in another one."""
        self._now.revived += 1

    def come_again(self) -> None:
        """A repeat came."""
        self._now.came_again += 1

    def end_turn(self, recovered: int) -> None:
        """Packets that FEC gave back in it."""
        self._now.recovered = recovered
        self._turns.append(self._now)
        self._add(self._now, 1)
        self._now = Turn()
        if len(self._turns) > LOSS_TURNS:
            self._add(self._turns.popleft(), -1)

    def wait_ms(self, packet_ms: float, repeat_ms: float | None, *, has_fec: bool) -> float:
        """What the target delay is to be at least, beyond its guard, from this turn on."""
        if not self._sum.missing:
            self._waits_for_fec = self._waits_for_repeats = False
            return 0.0
        of_sent = REPAIR_LOSS * (self._sum.lost + self._sum.decoded)
        self._waits_for_fec = (
            has_fec
            and self._missed_in(REPAIR_TURNS)
            and 2 * self._sum.recovered + self._sum.revived >= self._sum.lost
            and (self._waits_for_fec or self._sum.missing >= of_sent)
        )
        self._waits_for_repeats = (
            self._missed_in(REPEAT_TURNS)
            and REPEATS_NEEDED * self._sum.came_again >= self._sum.beyond_fec
            and (self._waits_for_repeats or self._sum.beyond_fec >= of_sent)
        )
        wait_ms = packet_ms if self._waits_for_fec else 0.0
        return max(wait_ms, repeat_ms) if self._waits_for_repeats and repeat_ms is not None else wait_ms

    def _missed_in(self, turns: int) -> bool:
        return any(turn.missing for turn in islice(reversed(self._turns), turns))

    def _add(self, turn: Turn, times: int) -> None:
        for name in Turn.__slots__:
            setattr(self._sum, name, getattr(self._sum, name) + times * getattr(turn, name))
