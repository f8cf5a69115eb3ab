"""What waits for Redis: in order, bounded, and never in anybody's way.

Each write has a rank. When there is no room, the oldest of the lowest rank goes, and what comes is itself dropped
if everything else is of a higher one:

    DETAIL   transcript lines, heard ledger        goes first
    STATE    session, legs, tasks
    RECORD   call detail records, begin and end    goes last

What is left stays in order: over all calls, and so within each.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import Final

from gateway.state.lease import Write
from gateway.state.owned import Owned

MOST_WRITES: Final = 20_000
MOST_BYTES: Final = 16 << 20
WRITE_BYTES: Final = 256
"""What a write costs beside its value."""


class Rank(enum.IntEnum):
    """The lower goes first."""

    DETAIL = 0
    STATE = 1
    RECORD = 2


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """One write of a call, or None for its begin or end alone."""

    number: int
    """In the order of coming."""
    owned: Owned
    rank: Rank
    write: Write | None
    is_last: bool = False
    """The call is left with it."""

    @property
    def size_bytes(self) -> int:
        """Against the bound."""
        return WRITE_BYTES + (len(self.write.value) if self.write is not None else 0)


class Buffer:
    """Bounded by number and by bytes, those that are out to the server included."""

    def __init__(self, most_writes: int = MOST_WRITES, most_bytes: int = MOST_BYTES) -> None:
        self.bytes = 0
        self.dropped = 0
        """Records that had no room."""
        self._most_writes, self._most_bytes = most_writes, most_bytes
        self._ranks: tuple[deque[Waiting], ...] = tuple(deque() for _ in Rank)
        self._last = 0
        self._out = 0

    def __len__(self) -> int:
        return sum(len(rank) for rank in self._ranks) + self._out

    @property
    def waiting(self) -> int:
        """Writes that are not out to the server."""
        return len(self) - self._out

    def put(self, owned: Owned, rank: Rank, write: Write | None, *, is_last: bool = False) -> bool:
        """False when this very one had no room."""
        self._last += 1
        coming = Waiting(self._last, owned, rank, write, is_last)
        self._ranks[rank].append(coming)
        self.bytes += coming.size_bytes
        return coming not in self._make_room()

    def take(self, most: int) -> list[Waiting]:
        """The oldest so many: they are out until `settle` or `give_back`."""
        taken: list[Waiting] = []
        while len(taken) < most and (heads := [rank for rank in self._ranks if rank]):
            taken.append(min(heads, key=lambda rank: rank[0].number).popleft())
        self._out += len(taken)
        return taken

    def settle(self, done: list[Waiting]) -> None:
        """They are with the server, or refused by it."""
        self._out -= len(done)
        self.bytes -= sum(waiting.size_bytes for waiting in done)

    def give_back(self, failed: list[Waiting]) -> None:
        """They go again, before all others."""
        self._out -= len(failed)
        for waiting in sorted(failed, key=lambda w: w.number, reverse=True):
            self._ranks[waiting.rank].appendleft(waiting)
        self._make_room()

    def _make_room(self) -> list[Waiting]:
        gone: list[Waiting] = []
        while (len(self) > self._most_writes or self.bytes > self._most_bytes) and self.waiting:
            lowest = next(rank for rank in self._ranks if rank)
            gone.append(lowest.popleft())
            self.bytes -= gone[-1].size_bytes
        self.dropped += sum(waiting.write is not None for waiting in gone)
        return gone
