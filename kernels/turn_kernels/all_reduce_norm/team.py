"""The memory that the ranks of a team share, and what lies where in it.

Each rank has one region, at the same offsets in all of them:

    rows      bfloat16 [2, rows, width]   what the rank adds; calls take the two halves in turn
    signals   int64 [blocks, world]       cell [b, r]: the last call at which block b of rank r arrived (peer form)
    counters  int64 [blocks]              arrivals of block b, of all ranks, ever (multimem form)

Writers: rank r its own rows, column r of everybody's signals; the switch the counters. The count of calls is on the
device, one cell a block (`epochs`), so that a captured graph can be replayed. It only grows: nothing is ever reset.

There is one barrier a call. A half is written again two calls later, when every rank has arrived at the call in
between, and so has left the one that read it. This needs calls in the same order on every rank, one after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from mmap import mmap

import torch
import torch.distributed as dist
from torch import Tensor

WORLDS = (1, 2, 4, 8)
_CELL_BYTES = 8
_ROW_BYTES = 2
_REGION_ALIGNMENT = 128
MAX_WIDTH = 16_384
"""Of a row: a program holds one in its registers."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of a team's memory; a wrong one raises `ValueError`."""

    world: int
    rows: int
    """N at most."""
    width: int
    """D."""
    blocks: int
    """Programs of a call. All must run at once: at most one a multiprocessor."""

    def __post_init__(self) -> None:
        checks = (
            (self.world in WORLDS, f"world is one of {WORLDS}"),
            (self.rows >= 1 and self.blocks >= 1, "rows and blocks are at least 1"),
            (self.width % 8 == 0, "width is a multiple of 8: the switch adds 16 bytes at once"),
            (8 <= self.width <= MAX_WIDTH, f"width is 8 .. {MAX_WIDTH}"),
        )
        for holds, expected in checks:
            if not holds:
                raise ValueError(f"expected {expected}: {self}")

    @property
    def signals_at(self) -> int:
        """Offset in bytes."""
        return 2 * self.rows * self.width * _ROW_BYTES

    @property
    def counters_at(self) -> int:
        """Offset in bytes."""
        return self.signals_at + self.blocks * self.world * _CELL_BYTES

    @property
    def region_bytes(self) -> int:
        """Of one rank."""
        end = self.counters_at + self.blocks * _CELL_BYTES
        return -(-end // _REGION_ALIGNMENT) * _REGION_ALIGNMENT


@dataclass(frozen=True, slots=True, eq=False)
class Team:
    """One rank's view of it."""

    layout: Layout
    rank: int
    bases: Tensor
    """int64 [world]: where this rank sees each region."""
    multicast: int
    """The address that means all regions at once; 0 where there is none."""
    epochs: Tensor
    """int64 [blocks]: calls so far, this rank's own."""
    group: dist.ProcessGroup | None
    """For the reference."""
    memory: object
    """Kept, so that it stays mapped."""


def team_in_slab(slab: mmap, rank: int, layout: Layout, group: dist.ProcessGroup | None = None) -> Team:
    """Ranks of one machine without GPUs: `slab` is memory they all have mapped, zeroed, a region a rank."""
    memory = torch.frombuffer(slab, dtype=torch.uint8)
    if len(memory) < layout.world * layout.region_bytes:
        raise ValueError(f"{len(memory)} bytes: expected {layout.world} regions of {layout.region_bytes}")
    bases = memory.data_ptr() + torch.arange(layout.world) * layout.region_bytes
    return Team(layout, rank, bases, 0, torch.zeros(layout.blocks, dtype=torch.int64), group, memory)


def team_of_gpus(group: dist.ProcessGroup, layout: Layout, device: torch.device) -> Team:
    """Ranks with a GPU each: torch's symmetric memory, with a multicast address where the hardware has it.

    Collective. Has not run on several GPUs yet.
    """
    import torch.distributed._symmetric_memory as symmetric

    memory = symmetric.empty(layout.region_bytes, dtype=torch.uint8, device=device)
    handle = symmetric.rendezvous(memory, group)
    memory.zero_()
    torch.cuda.synchronize(device)
    dist.barrier(group)
    bases = torch.tensor(handle.buffer_ptrs, dtype=torch.int64, device=device)
    epochs = torch.zeros(layout.blocks, dtype=torch.int64, device=device)
    return Team(layout, handle.rank, bases, int(handle.multicast_ptr), epochs, group, (memory, handle))
