"""How many sessions a device holds, by its memory and by what steps took; and why it cannot be measured here.

Sessions are spread over phase groups, as the server does it (`leases.py`): each group steps once a turn, all on the
same device, so every step is within the deadline and all of them together within `STEP_SHARE` of the turn.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from media.timebase import NS_PER_MS, TURN_NS
from model_server.leases import STEP_SHARE

USABLE = 0.92
"""Of free memory: the rest is what passes need in between, graphs, and the libraries' own."""
GB = 1e9


class CannotMeasure(Exception):
    """What was found, what is expected, what to do."""


@dataclass(frozen=True, slots=True)
class Room:
    """Memory of a device, bytes."""

    device: str
    total: int
    free: int
    weights: int
    """Of the model."""
    session: int
    """Of one session, with full memory."""

    @property
    def sessions(self) -> int:
        """That fit beside the weights."""
        return max(0, int(USABLE * self.free - self.weights) // self.session)

    def expect_one(self, name: str) -> None:
        """`CannotMeasure` where not even one session of that configuration fits."""
        if self.sessions >= 1:
            return
        least = (self.weights + self.session) / USABLE
        raise CannotMeasure(
            f"{self.device} has {self.total / GB:.1f} GB, {self.free / GB:.1f} of them free: expected "
            f"{least / GB:.1f} free at least, for {self.weights / GB:.1f} GB of weights of {name} and "
            f"{self.session / GB:.2f} GB a session, with {1 - USABLE:.0%} to spare. Free it, take a larger device "
            "(an H200 has 141 GB), or a smaller --config"
        )


def buckets_for(sessions: int, buckets: tuple[int, ...]) -> tuple[int, ...]:
    """Those that have sessions for all of their rows, and one of all sessions where the next is too large."""
    fitting = tuple(size for size in sorted(buckets) if size <= sessions)
    return fitting if len(fitting) == len(buckets) or sessions in fitting else (*fitting, sessions)


def held(p99_ms: Mapping[int, float], groups: int, deadline_ms: float, most: int) -> int:
    """The most sessions, up to `most`, whose steps keep the deadline; 0 when none does.

    `p99_ms`: of a step, by rows of its bucket. A step of fewer rows takes as long as the next larger bucket's.
    """
    turn_ms = TURN_NS * STEP_SHARE / NS_PER_MS
    sizes = sorted(p99_ms)
    for sessions in range(min(most, groups * sizes[-1]), 0, -1):
        fewer, larger = divmod(sessions, groups)
        steps = [fewer + 1] * larger + [fewer] * (groups - larger)
        taken = [p99_ms[sizes[bisect_left(sizes, rows)]] for rows in steps if rows]
        if max(taken) <= deadline_ms and sum(taken) <= turn_ms:
            return sessions
    return 0
