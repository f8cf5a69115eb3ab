"""Sums over ranks: which way is chosen, what is refused, and one rank that waits. Ranks as processes: see
`test_all_reduce_norm.py`, whose processes add through shared memory too."""

from __future__ import annotations

import mmap
import threading

import pytest
import torch

from turn_kernels.all_reduce import ONE_SHOT_LIMIT_BYTES, Hardware, Op, Way, choose, possible
from turn_kernels.all_reduce.shared_memory import PAGE_BYTES, SharedMemory, region_bytes

SWITCH = Hardware("cuda", one_machine=True, peers=True, multicast=True)
PEERS = Hardware("cuda", one_machine=True, peers=True)
APART = Hardware("cuda", one_machine=True)
CPUS = Hardware("cpu", one_machine=True)
MANY_MACHINES = Hardware("cpu", one_machine=False)
LITTLE, MUCH = ONE_SHOT_LIMIT_BYTES, ONE_SHOT_LIMIT_BYTES + 1


@pytest.mark.parametrize(
    ("hardware", "size", "reduce", "gather"),
    [
        (SWITCH, LITTLE, Way.MULTIMEM, Way.MULTIMEM),
        (SWITCH, MUCH, Way.MULTIMEM, Way.MULTIMEM),
        (PEERS, LITTLE, Way.ONE_SHOT, Way.NCCL),
        (PEERS, MUCH, Way.TWO_SHOT, Way.NCCL),
        (APART, LITTLE, Way.NCCL, Way.NCCL),
        (CPUS, LITTLE, Way.SHARED_MEMORY, Way.SHARED_MEMORY),
        (CPUS, MUCH, Way.SHARED_MEMORY, Way.SHARED_MEMORY),
        (MANY_MACHINES, LITTLE, Way.GLOO, Way.GLOO),
    ],
)
def test_hardware_and_size_decide(hardware: Hardware, size: int, reduce: Way, gather: Way) -> None:
    for op, way in ((Op.ALL_REDUCE, reduce), (Op.ALL_GATHER, gather)):
        choice = choose(op, hardware, size)
        assert (choice.op, choice.way) == (op, way) and choice.reason


def test_what_is_asked_for_is_taken_or_refused() -> None:
    assert choose(Op.ALL_REDUCE, SWITCH, LITTLE, Way.NCCL).way is Way.NCCL
    assert choose(Op.ALL_REDUCE, PEERS, MUCH, Way.ONE_SHOT).reason == "asked for"
    with pytest.raises(ValueError, match="this hardware has one_shot, two_shot, nccl"):
        choose(Op.ALL_REDUCE, PEERS, LITTLE, Way.MULTIMEM)
    assert Way.ONE_SHOT not in possible(Op.ALL_GATHER, PEERS)


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("multimem_all_reduce_", "(Tensor(a!) input, str reduce_op, str group_name) -> Tensor(a!)"),
        ("one_shot_all_reduce", "(Tensor input, str reduce_op, str group_name) -> Tensor"),
        ("two_shot_all_reduce_", "(Tensor(a!) input, str reduce_op, str group_name) -> Tensor(a!)"),
        ("multimem_all_gather_out", "(Tensor input, str group_name, Tensor(a!) out) -> Tensor(a!)"),
    ],
)
def test_torch_has_the_operators_that_are_called(name: str, schema: str) -> None:
    assert str(getattr(torch.ops.symm_mem, name).default._schema) == f"symm_mem::{name}{schema}"


def team(ranks: int, half_bytes: int = PAGE_BYTES) -> list[SharedMemory]:
    memory = mmap.mmap(-1, region_bytes(ranks, half_bytes))
    return [SharedMemory(memory, rank, ranks, half_bytes) for rank in range(ranks)]


def test_a_team_of_one_keeps_its_rows() -> None:
    (alone,) = team(1)
    x = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(alone.all_reduce(x.clone()), x) and torch.equal(alone.all_gather(x)[0], x)
    assert alone.all_reduce(torch.zeros(0)).shape == (0,)


def test_who_waits_is_asked_now_and_then_and_may_give_up() -> None:
    asked: list[int] = []

    def give_up(other: int) -> None:
        asked.append(other)
        if len(asked) == 3:
            raise RuntimeError("rank 1 is gone")

    memory = mmap.mmap(-1, region_bytes(2, PAGE_BYTES))
    with pytest.raises(RuntimeError, match="rank 1 is gone"):
        SharedMemory(memory, 0, 2, PAGE_BYTES, while_waiting=give_up).all_reduce(torch.ones(4))
    assert asked == [1, 1, 1]


def test_threads_may_be_ranks_too() -> None:
    members, found = team(3), dict[int, torch.Tensor]()

    def run(rank: int) -> None:
        x = torch.full((3000,), float(rank + 1))
        for _ in range(20):
            x = members[rank].all_reduce(x) / 3
        found[rank] = x

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])
    torch.testing.assert_close(found[0], torch.full((3000,), 2.0))


def test_what_cannot_be_added_is_refused() -> None:
    (alone,) = team(1)
    with pytest.raises(ValueError, match="x is torch.int64"):
        alone.all_reduce(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="contiguous"):
        alone.all_gather(torch.zeros(3, 3).mT[1:])
    with pytest.raises(ValueError, match="expected whole pages"):
        SharedMemory(mmap.mmap(-1, 1 << 16), 0, 1, 100)
    with pytest.raises(ValueError, match="expected at least"):
        SharedMemory(mmap.mmap(-1, PAGE_BYTES), 0, 2, PAGE_BYTES)
