"""Ranks as processes: the collectives against gloo and against a sum in the order of the ranks.

all_reduce_ranks.py DIRECTORY WORLD...     a line a world: exit statuses, all 0 when every rank saw what it should
"""

from __future__ import annotations

import dataclasses
import mmap
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from tests.kernels import shared_memory_ranks
from turn_kernels.all_reduce_norm import Layout, Team, all_reduce_norm, team_in_slab, triton_form
from turn_kernels.all_reduce_norm.reference import add_norm, sum_of_ranks
from turn_kernels.forms import Form

WIDTH, ROWS, BLOCKS = 104, 7, 3
CALLS = (7, 1, 2, 5)
"""Rows of each call: more and fewer than there are blocks, so that blocks sit out calls."""
EPS = 1e-6
IN_A_ROW = 3
PATIENCE_S = 90


def made(seed: int, *shape: int) -> Tensor:
    """Multiples of 1/1024 where bfloat16 has them: their float32 sums are exact in any order."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (values * 1024).round().div(1024).bfloat16()


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int16).int()


def call(team: Team, index: int, count: int) -> None:
    """One call in the fast form, checked against both references."""
    world, rank = team.layout.world, team.rank
    rows = [made(100 * index + r, count, WIDTH) for r in range(world)]
    residual, weight = made(7000 + index, count, WIDTH), made(9000 + index, WIDTH)
    found, by_gloo, by_hand = residual.clone(), residual.clone(), residual.clone()
    if (index + rank) % world == 0:
        time.sleep(0.03)  # somebody is late each time; the result must not depend on it
    x = rows[rank].clone()
    out = all_reduce_norm(x, found, weight, EPS, team, Form.PEER)
    x.fill_(float("nan"))
    gloo_out = all_reduce_norm(rows[rank], by_gloo, weight, EPS, team, Form.REFERENCE)
    out_by_hand = add_norm(sum_of_ranks(rows), by_hand, weight, EPS)
    assert torch.equal(found, by_hand), (rank, index, (found - by_hand).abs().max())
    assert torch.equal(found, by_gloo), (rank, index, "gloo")
    apart = (bits(out) - bits(out_by_hand)).abs().max()  # in units of the last place: sums of squares differ
    assert apart <= 1, (rank, index, apart)
    assert torch.equal(gloo_out, out_by_hand), (rank, index)


def in_a_row(team: Team, slab: mmap.mmap) -> None:
    """Rank 0 reads only when all others are in the next call, and have put new rows into their memory."""
    world, rank = team.layout.world, team.rank
    if rank == 0:
        triton_form._sum_of_peers = _Late(team, slab, triton_form._sum_of_peers)
    for index in range(IN_A_ROW):
        rows = [made(50_000 + 100 * index + r, 2, WIDTH) for r in range(world)]
        residual = torch.zeros_like(rows[0])
        all_reduce_norm(rows[rank], residual, torch.ones(WIDTH).bfloat16(), EPS, team, Form.PEER)
        assert torch.equal(residual, sum_of_ranks(rows)), (rank, index)


class _Late:
    """The kernel's own function, once the others are a call ahead."""

    def __init__(self, team: Team, slab: mmap.mmap, quick: Callable[..., object]) -> None:
        cells = torch.frombuffer(
            slab, dtype=torch.int64, count=team.layout.world, offset=team.layout.signals_at
        )
        self.team, self.others, self.quick = team, cells[1:], quick

    def __call__(self, *arguments: object) -> object:
        ahead = min(int(self.team.epochs[0]) + 2, IN_A_ROW)
        until = time.monotonic() + PATIENCE_S
        while int(self.others.min()) < ahead:
            assert time.monotonic() < until, (self.others, ahead)
            time.sleep(0.001)
        return self.quick(*arguments)


def run(rank: int, layout: Layout, directory: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{directory / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=layout.world)
    slab, team = joined(directory, rank, layout)
    for index, count in enumerate(CALLS):
        call(team, index, count)
    dist.barrier()
    region = torch.frombuffer(slab, dtype=torch.uint8)[rank * layout.region_bytes :][: layout.region_bytes]
    assert (region[layout.counters_at + 8 * layout.blocks :] == 0xFF).all(), "wrote beyond its cells"
    assert (region[layout.counters_at :][: 8 * layout.blocks] == 0).all(), "the peer form counts nothing"
    slab, team = joined(directory, rank, one_block(layout))
    in_a_row(team, slab)
    shared_memory_ranks.check(rank, layout.world, directory)
    dist.destroy_process_group()


def one_block(layout: Layout) -> Layout:
    """All rows by one program, so that one rank can read while another is calls ahead."""
    return dataclasses.replace(layout, blocks=1)


def joined(directory: Path, rank: int, layout: Layout) -> tuple[mmap.mmap, Team]:
    with open(directory / f"slab-{layout.blocks}", "r+b") as file:
        slab = mmap.mmap(file.fileno(), 0)
    return slab, team_in_slab(slab, rank, layout, dist.group.WORLD)


def poisoned_slab(directory: Path, layout: Layout) -> None:
    """Every byte 0xFF (NaN), but for signals and counters, which are 0."""
    cells = layout.counters_at + 8 * layout.blocks - layout.signals_at
    end = layout.region_bytes - layout.signals_at - cells
    region = b"\xff" * layout.signals_at + bytes(cells) + b"\xff" * end
    (directory / f"slab-{layout.blocks}").write_bytes(region * layout.world)


def main(directory: Path, worlds: list[int]) -> int:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    statuses = []
    for world in worlds:
        inside = directory / str(world)
        inside.mkdir()
        statuses += (of_world := run_world(world, inside))
        print(of_world, flush=True)
    return int(any(statuses))


def run_world(world: int, directory: Path) -> list[int | None]:
    """Exit statuses of its ranks."""
    layout = Layout(world, ROWS, WIDTH, BLOCKS)
    poisoned_slab(directory, layout)
    poisoned_slab(directory, one_block(layout))
    shared_memory_ranks.poisoned_memory(directory, world)
    fork = multiprocessing.get_context("fork")  # torch is imported once, and has no threads yet
    ranks = [fork.Process(target=run, args=(rank, layout, directory)) for rank in range(world)]
    for process in ranks:
        process.start()
    until = time.monotonic() + PATIENCE_S
    while any(process.is_alive() for process in ranks) and time.monotonic() < until:
        if any(process.exitcode not in (0, None) for process in ranks):
            break  # the others would wait for it
        time.sleep(0.05)
    for process in ranks:
        if process.is_alive():
            process.kill()
        process.join()
    return [process.exitcode for process in ranks]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [int(world) for world in sys.argv[2:]]))
