"""Where the time of late turns went: five stamps for each reply that was published after its budget."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from media.timebase import NS_PER_MS

KEPT = 256
"""The newest; older ones are forgotten."""


@dataclass(frozen=True, slots=True)
class LateTurn:
    """One turn of one call; monotonic ns."""

    slot: int
    turn: int
    tick_ns: int
    """When its tick was due."""
    captured_ns: int
    """When its last sample was due."""
    ready_ns: int
    """When we began with the tick, and its chunk was there."""
    gathered_ns: int
    """Copied into the batch."""
    stepped_ns: int
    """The engine was done."""
    published_ns: int
    """The reply could be read."""
    budget_ns: int
    """After the tick, as its worker was told."""

    @property
    def spans_ms(self) -> dict[str, float]:
        """From stamp to stamp, and how late it was in the end."""
        spans = {
            "captured_to_tick": self.tick_ns - self.captured_ns,
            "tick_to_ready": self.ready_ns - self.tick_ns,
            "ready_to_gathered": self.gathered_ns - self.ready_ns,
            "gathered_to_stepped": self.stepped_ns - self.gathered_ns,
            "stepped_to_published": self.published_ns - self.stepped_ns,
            "late": self.published_ns - self.tick_ns - self.budget_ns,
        }
        return {name: round(ns / NS_PER_MS, 2) for name, ns in spans.items()}


class LateTurns:
    """The newest `KEPT`."""

    def __init__(self) -> None:
        self._kept: deque[LateTurn] = deque(maxlen=KEPT)

    def add(self, turn: LateTurn) -> None:
        """One more; the oldest goes."""
        self._kept.append(turn)

    @property
    def kept(self) -> tuple[LateTurn, ...]:
        """Oldest first."""
        return tuple(self._kept)
