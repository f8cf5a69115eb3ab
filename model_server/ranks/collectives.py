"""The way that sums between ranks go: chosen once, at start, by op and hardware; said, and counted."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field

import structlog
from torch import Tensor

from model_server.ranks.memory import HALF_BYTES, ROWS_AT, RankMemory
from turn_kernels.all_reduce import Collective, Hardware, Op, Way, choose
from turn_kernels.all_reduce.shared_memory import SharedMemory

log = structlog.get_logger()


@dataclass(slots=True)
class Spent:
    """On one op, so far."""

    calls: int = 0
    bytes: int = 0
    """That this rank gave."""
    ns: int = 0
    """Waiting for other ranks included."""


@dataclass(slots=True)
class Meter:
    """Of one rank."""

    ways: dict[Op, Way] = field(default_factory=dict)
    spent: dict[Op, Spent] = field(default_factory=lambda: {op: Spent() for op in Op})

    def fields(self) -> dict[str, object]:
        """For metrics: by op, the way it goes and what it cost."""
        return {str(op): {"way": str(self.ways[op]), **asdict(self.spent[op])} for op in self.ways}


class MeteredCollectives:
    """What the sharded model calls; a call costs what its way does, and two looks at the clock."""

    def __init__(self, by_op: dict[Op, Collective], memory: RankMemory, meter: Meter) -> None:
        self._reduce, self._gather = by_op[Op.ALL_REDUCE], by_op[Op.ALL_GATHER]
        self._memory, self.meter = memory, meter

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over ranks, the same bits on each; x may be overwritten."""
        begun_ns = time.perf_counter_ns()
        out = self._reduce.all_reduce(x.contiguous())
        self._count(Op.ALL_REDUCE, x, begun_ns)
        return out

    def all_gather(self, x: Tensor) -> Tensor:
        """[ranks, *x.shape]."""
        begun_ns = time.perf_counter_ns()
        out = self._gather.all_gather(x.contiguous())
        self._count(Op.ALL_GATHER, x, begun_ns)
        return out

    def _count(self, op: Op, x: Tensor, begun_ns: int) -> None:
        self._memory.live()
        spent = self.meter.spent[op]
        spent.calls += 1
        spent.bytes += x.numel() * x.element_size()
        spent.ns += time.perf_counter_ns() - begun_ns


def collectives_of(memory: RankMemory) -> MeteredCollectives:
    """For CPU ranks of one machine: those that share `memory`."""
    hardware = Hardware("cpu", one_machine=True)
    shared = SharedMemory(
        memory.map,
        memory.rank,
        memory.ranks,
        HALF_BYTES,
        offset=ROWS_AT,
        while_waiting=lambda _: memory.live(),
    )
    made: dict[Way, Collective] = {Way.SHARED_MEMORY: shared}
    meter = Meter()
    by_op: dict[Op, Collective] = {}
    for op in Op:
        choice = choose(op, hardware, HALF_BYTES)
        by_op[op], meter.ways[op] = made[choice.way], choice.way
        if memory.rank == 0:
            log.info("ranks add", op=str(op), way=str(choice.way), reason=choice.reason, ranks=memory.ranks)
    return MeteredCollectives(by_op, memory, meter)
