"""The memory that the ranks of one model share: a memfd that rank 0 makes, and the others inherit.

    cells   int64, a cache line a rank   0: steps given (rank 0 only)   1: steps done   2: last sign of life
                                         3: silence allowed, ns (rank 0 only)
    plan    [PLAN_BYTES]                 what rank 0 told last
    rows    turn_kernels.all_reduce.shared_memory

Writers: each rank its own line; rank 0 the plan, when all have done the one before. Pages that nobody touches cost
nothing. Its descriptor is its only name: it is gone with the last rank. So is a second one, empty, at which the
ranks of a process group meet (`group.py`).
"""

from __future__ import annotations

import mmap
import os
import time

from turn_kernels.all_reduce.shared_memory import LINE_BYTES, LINE_CELLS, PAGE_BYTES, region_bytes

MAX_RANKS = PAGE_BYTES // LINE_BYTES
PLAN_BYTES = 64 * 2**20
"""The largest step: 64 calls with two pictures each are 30 MB."""
HALF_BYTES = 2**20
"""Of rows in one sum; 64 calls of 8 positions of 192 float32 are 0.4 MB. What is larger goes in pieces."""
ROWS_AT = PAGE_BYTES + PLAN_BYTES
_GIVEN, _DONE, _ALIVE, _PATIENCE = range(4)


class RankMemory:
    """One rank's view of it. Times are of the machine's monotonic clock, which all ranks read."""

    def __init__(self, descriptor: int, meeting: int, rank: int, ranks: int) -> None:
        self.descriptor, self.meeting, self.rank, self.ranks = descriptor, meeting, rank, ranks
        self.map = mmap.mmap(descriptor, ROWS_AT + region_bytes(ranks, HALF_BYTES))
        self._cells = memoryview(self.map)[:PAGE_BYTES].cast("q")
        self.plan = memoryview(self.map)[PAGE_BYTES : PAGE_BYTES + PLAN_BYTES]
        self._line = rank * LINE_CELLS

    @classmethod
    def create(cls, ranks: int) -> RankMemory:
        """Rank 0's, all zeros."""
        assert 1 <= ranks <= MAX_RANKS, ranks
        descriptor = os.memfd_create("microturn-ranks")
        os.ftruncate(descriptor, ROWS_AT + region_bytes(ranks, HALF_BYTES))
        return cls(descriptor, os.memfd_create("microturn-ranks-meet"), 0, ranks)

    @property
    def given(self) -> int:
        """Steps that rank 0 has told of."""
        return self._cells[_GIVEN]

    def give(self, patience_ns: int) -> int:
        """One more, rank 0; its number. A rank may be silent for so long while it does it."""
        self._cells[_PATIENCE] = patience_ns
        self._cells[_GIVEN] += 1
        return self._cells[_GIVEN]

    @property
    def patience_ns(self) -> int:
        """Of the step that was given last."""
        return self._cells[_PATIENCE]

    def done(self, rank: int) -> int:
        """Steps that this rank has done."""
        return self._cells[rank * LINE_CELLS + _DONE]

    def finish(self, step: int) -> None:
        """Our own."""
        self._cells[self._line + _DONE] = step
        self.live()

    def live(self) -> None:
        """A sign of life, of this rank."""
        self._cells[self._line + _ALIVE] = time.monotonic_ns()

    def alive_ns(self, rank: int) -> int:
        """When that rank gave its last one; 0: none yet."""
        return self._cells[rank * LINE_CELLS + _ALIVE]

    def close(self) -> None:
        """The mapping stays for who still has a view of it."""
        self._cells.release()
        self.plan.release()
        os.close(self.descriptor)
        os.close(self.meeting)
