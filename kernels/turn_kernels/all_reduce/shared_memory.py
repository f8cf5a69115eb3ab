"""Ranks as processes of one machine, without GPUs: they write their rows into one mapping, and add what is there.

    arrivals  int64, a cache line a rank   cell 0: calls that this rank has arrived at
                                           cells 1, 2: bytes of its last two calls, by their half
    rows      [2, ranks, half_bytes]       what the ranks add; calls take the two halves in turn

Writers: rank r its own line and its own rows. There is one barrier a call: a rank writes its rows, arrives, waits
until all have arrived, and adds. A half is written again two calls later, when every rank has arrived at the call
in between, and so has left the one that read it. Nothing is ever reset.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from turn_kernels.all_reduce import check

LINE_CELLS = 8
LINE_BYTES = 8 * LINE_CELLS
PAGE_BYTES = 4096
POLLS_AT_ONCE = 50
"""Before the processor is offered to somebody else; two ranks may have to share a core."""
YIELDS_BEFORE_SLEEP = 500
SLEEP_S = 50e-6


def region_bytes(ranks: int, half_bytes: int) -> int:
    """What a team needs of the mapping; a message that is larger than a half goes in several calls."""
    return -(-ranks * LINE_BYTES // PAGE_BYTES) * PAGE_BYTES + 2 * ranks * half_bytes


def _fence() -> Callable[[], object]:
    """x86 keeps stores in order, and calls are opaque to the compiler; elsewhere fence for real."""
    if platform.machine() in ("x86_64", "AMD64"):
        return lambda: None
    fence = ctypes.CDLL("libatomic.so.1").atomic_thread_fence
    return lambda: fence(5)  # memory_order_seq_cst


class SharedMemory:
    """One rank's view of the mapping, which is zeroed when it is made."""

    def __init__(
        self,
        memory: mmap.mmap,
        rank: int,
        ranks: int,
        half_bytes: int,
        *,
        offset: int = 0,
        while_waiting: Callable[[int], None] | None = None,
    ) -> None:
        """`while_waiting(other)` is called now and then while that rank has not come; it may raise."""
        if half_bytes % PAGE_BYTES or offset % PAGE_BYTES:
            raise ValueError(f"half_bytes = {half_bytes}, offset = {offset}: expected whole pages")
        needed = offset + region_bytes(ranks, half_bytes)
        if len(memory) < needed:
            raise ValueError(f"{len(memory)} bytes of memory: expected at least {needed}")
        self._rank, self._ranks, self._half_bytes = rank, ranks, half_bytes
        self._cells = memoryview(memory)[offset : offset + ranks * LINE_BYTES].cast("q")
        rows_at = needed - 2 * ranks * half_bytes
        rows = torch.frombuffer(memory, dtype=torch.uint8, count=2 * ranks * half_bytes, offset=rows_at)
        self._rows = {dtype: rows.view(dtype).view(2, ranks, -1) for dtype in (torch.float32, torch.bfloat16)}
        self._epoch = 0
        self._while_waiting = while_waiting or (lambda _: None)
        self._fence = _fence()

    def all_reduce(self, x: Tensor) -> Tensor:
        """As `Collective.all_reduce`; added in the order of the ranks."""
        check(x)
        flat = x.view(-1)
        for piece in flat.split(self._half_bytes // x.element_size()):
            theirs = list(self._exchanged(piece))
            if x.dtype == torch.float32:
                torch.add(theirs[0], theirs[1], out=piece) if len(theirs) > 1 else piece.copy_(theirs[0])
                for each in theirs[2:]:
                    piece += each
            else:
                total = theirs[0].float()
                for each in theirs[1:]:
                    total += each
                piece.copy_(total)
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        """As `Collective.all_gather`."""
        check(x)
        flat = x.view(-1)
        out = x.new_empty(self._ranks, len(flat))
        begin = 0
        for piece in flat.split(self._half_bytes // x.element_size()):
            for rank, theirs in enumerate(self._exchanged(piece)):
                out[rank, begin : begin + len(piece)] = theirs
            begin += len(piece)
        return out.view(self._ranks, *x.shape)

    def _exchanged(self, piece: Tensor) -> Iterator[Tensor]:
        """The same piece of every rank, in their order, valid until the call after the next one."""
        self._epoch += 1
        half = self._epoch % 2
        rows = self._rows[piece.dtype][half, :, : len(piece)]
        rows[self._rank] = piece
        line, size = self._rank * LINE_CELLS, len(piece) * piece.element_size()
        self._cells[line + 1 + half] = size
        self._fence()
        self._cells[line] = self._epoch
        for other in range(self._ranks):
            if other != self._rank:
                self._wait_for(other)
                if (found := self._cells[other * LINE_CELLS + 1 + half]) != size:
                    raise RuntimeError(
                        f"call {self._epoch}: {size} bytes here, {found} bytes of rank {other}: the ranks do not "
                        "do the same"
                    )
        self._fence()
        yield from rows

    def _wait_for(self, other: int) -> None:
        cells, arrived, epoch = self._cells, other * LINE_CELLS, self._epoch
        yields = 0
        while True:
            for _ in range(POLLS_AT_ONCE):
                if cells[arrived] >= epoch:
                    return
            yields += 1
            if yields < YIELDS_BEFORE_SLEEP:
                os.sched_yield()
            else:
                time.sleep(SLEEP_S)
            if yields % YIELDS_BEFORE_SLEEP == 0:
                self._while_waiting(other)
