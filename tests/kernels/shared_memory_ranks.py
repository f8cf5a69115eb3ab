"""What one rank checks of sums and gathers through shared memory; `all_reduce_ranks.py` calls it."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from turn_kernels.all_reduce.reference import ByGroup
from turn_kernels.all_reduce.shared_memory import LINE_BYTES, PAGE_BYTES, SharedMemory, region_bytes

HALF_BYTES = PAGE_BYTES
OFFSET = PAGE_BYTES
SHAPES = ((1,), (7, 104), (3, 1023), (2, 5, 300))
"""Less than a half, more than one, and none of them a whole number of vectors."""


def poisoned_memory(directory: Path, world: int) -> None:
    """Every byte 0xFF (NaN), but for the arrivals, which are 0; a page before and one behind."""
    region = bytes(world * LINE_BYTES)
    region += b"\xff" * (region_bytes(world, HALF_BYTES) - len(region))
    (directory / "memory").write_bytes(b"\xff" * OFFSET + region + b"\xff" * PAGE_BYTES)


def made(seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Multiples of 1/64: their float32 sums are exact in any order."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (values * 64).round().div(64).to(dtype)


def check(rank: int, world: int, directory: Path) -> None:
    """Against gloo, bit for bit; somebody is late each time."""
    with open(directory / "memory", "r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    ours = SharedMemory(memory, rank, world, HALF_BYTES, offset=OFFSET)
    gloo = ByGroup(dist.group.WORLD)
    for index, shape in enumerate(SHAPES * 2):
        for dtype in (torch.float32, torch.bfloat16):
            if (index + rank) % world == 0:
                time.sleep(0.01)
            x = made(100 * index + rank, shape, dtype)
            total, gathered = ours.all_reduce(x.clone()), ours.all_gather(x.clone())
            assert torch.equal(total, gloo.all_reduce(x.clone())), (rank, index, dtype)
            assert torch.equal(gathered, gloo.all_gather(x)), (rank, index, dtype)
    apart = [made(r, (1001,), torch.float32) / 3 for r in range(world)]
    by_hand = apart[0].clone()
    for each in apart[1:]:
        by_hand += each
    assert torch.equal(ours.all_reduce(apart[rank].clone()), by_hand), "added in the order of the ranks"
    _do_not_agree(ours, rank)
    dist.barrier()
    assert memory[:OFFSET] == b"\xff" * OFFSET and memory[-PAGE_BYTES:] == b"\xff" * PAGE_BYTES


def _do_not_agree(ours: SharedMemory, rank: int) -> None:
    try:
        ours.all_reduce(torch.zeros(4 if rank else 5))
    except RuntimeError as told:
        assert "the ranks do not do the same" in str(told)
    else:
        # Of more than two ranks the larger ranks agree among themselves; rank 0 differs from each of them.
        raise AssertionError(f"rank {rank}: other sizes were added")
