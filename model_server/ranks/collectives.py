"""The way that sums between ranks go: chosen once, at start, by op and hardware; said, and counted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
import torch
from torch import Tensor

from model_server.ranks.memory import HALF_BYTES, ROWS_AT, RankMemory
from turn_kernels.all_reduce import Choice, Collective, Hardware, Op, Way, choose, possible
from turn_kernels.all_reduce.shared_memory import SharedMemory

if TYPE_CHECKING:
    from model_server.ranks.group import Group

CPU = torch.device("cpu")
AUTO = "auto"
"""Of ways: the best that there is."""

log = structlog.get_logger()


@dataclass(slots=True)
class Spent:
    """On one op, so far."""

    calls: int = 0
    bytes: int = 0
    """That this rank gave."""
    ns: int = 0
    """Of this rank's processor, waiting for other ranks included; none where a GPU replays what was captured."""


@dataclass(slots=True)
class Meter:
    """Of one rank."""

    ways: dict[Op, Way] = field(default_factory=dict)
    spent: dict[Op, Spent] = field(default_factory=lambda: {op: Spent() for op in Op})

    def fields(self) -> dict[str, dict[str, Any]]:
        """By op, the way it goes and what it cost."""
        return {str(op): {"way": str(self.ways[op]), **asdict(self.spent[op])} for op in self.ways}

    @property
    def gauges(self) -> Mapping[str, int]:
        """For metrics: of both ops together."""
        spent = self.spent.values()
        return {
            "rank_sums_total": sum(each.calls for each in spent),
            "rank_sum_bytes_total": sum(each.bytes for each in spent),
            "rank_sum_ns": sum(each.ns for each in spent),
        }

    def mark(self) -> dict[Op, Spent]:
        """See `model_server.model.device.graphs.Tally`."""
        return {op: Spent(each.calls, each.bytes, each.ns) for op, each in self.spent.items()}

    def take_back(self, mark: dict[Op, Spent]) -> dict[Op, Spent]:
        """See `Tally`. A replay costs a processor nothing."""
        cost = {
            op: Spent(each.calls - mark[op].calls, each.bytes - mark[op].bytes)
            for op, each in self.spent.items()
        }
        self.spent = mark
        return cost

    def again(self, cost: dict[Op, Spent]) -> None:
        """See `Tally`."""
        for op, each in cost.items():
            self.spent[op].calls += each.calls
            self.spent[op].bytes += each.bytes


class MeteredCollectives:
    """What the sharded model calls, once it is connected; a call costs what its way does, and two looks at the
    clock."""

    def __init__(self, memory: RankMemory, device: torch.device = CPU, asked: str = AUTO) -> None:
        """`asked`: the way of sums, where one is asked for."""
        self._memory, self._device, self._asked = memory, device, asked
        self._by_op: dict[Op, Collective] = {}
        self._group: Group | None = None
        self.meter = Meter()

    def connect(self) -> None:
        """Choose, and meet the other ranks, which do the same.

        `ValueError` for a way that cannot be had; what torch raises where ranks do not meet.
        """
        if self._device.type == "cuda" or self._asked == Way.GLOO:
            from model_server.ranks.group import MESSAGE_BYTES, Group

            self._group = group = Group(self._memory, self._device)
            for op in Op:
                choice = self._chosen(op, group.hardware, MESSAGE_BYTES)
                self._by_op[op] = group.way(choice.way)
        else:
            shared = shared_memory_of(self._memory)
            for op in Op:
                self._chosen(op, Hardware("cpu", one_machine=True), HALF_BYTES)
                self._by_op[op] = shared

    def close(self) -> None:
        """Nothing more is added."""
        self._by_op.clear()
        if self._group:
            self._group.close()

    def _chosen(self, op: Op, hardware: Hardware, message_bytes: int) -> Choice:
        ways = possible(op, hardware)
        had = possible(Op.ALL_REDUCE, hardware)
        if self._asked not in (AUTO, *had):
            raise ValueError(
                f"sums = {self._asked!r}: these ranks have {', '.join(had)}; take one of them, or {AUTO}"
            )
        asked = Way(self._asked) if self._asked in ways else None
        choice = choose(op, hardware, message_bytes, asked)
        self.meter.ways[op] = choice.way
        if self._memory.rank == 0:
            ranks = self._memory.ranks
            log.info("ranks add", op=str(op), way=str(choice.way), reason=choice.reason, ranks=ranks)
        return choice

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over ranks, the same bits on each; x may be overwritten."""
        begun_ns = time.perf_counter_ns()
        out = self._by_op[Op.ALL_REDUCE].all_reduce(x.contiguous())
        self._count(Op.ALL_REDUCE, x, begun_ns)
        return out

    def all_gather(self, x: Tensor) -> Tensor:
        """[ranks, *x.shape]."""
        begun_ns = time.perf_counter_ns()
        out = self._by_op[Op.ALL_GATHER].all_gather(x.contiguous())
        self._count(Op.ALL_GATHER, x, begun_ns)
        return out

    def _count(self, op: Op, x: Tensor, begun_ns: int) -> None:
        self._memory.live()
        spent = self.meter.spent[op]
        spent.calls += 1
        spent.bytes += x.numel() * x.element_size()
        spent.ns += time.perf_counter_ns() - begun_ns


def shared_memory_of(memory: RankMemory) -> SharedMemory:
    """Sums of CPU ranks of one machine: those that share `memory`."""
    return SharedMemory(
        memory.map,
        memory.rank,
        memory.ranks,
        HALF_BYTES,
        offset=ROWS_AT,
        while_waiting=lambda _: memory.live(),
    )
