"""The engine `digits` on one rank: the same engine, whose model holds a part of the matrices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from model_server.engine.digits import DigitsEngine
from model_server.model.interaction import Interaction
from model_server.model.served.layer import serve
from model_server.model.served.products import dtype_of
from model_server.model.sharding.parallel import rank_of
from model_server.model.sharding.plan import plan_of
from model_server.ranks.collectives import AUTO, CPU, MeteredCollectives
from model_server.ranks.memory import RankMemory
from model_server.ranks.plan import Age, Close, Open, Plan, Repeat, Step, Warm

if TYPE_CHECKING:
    from model_server.ranks.device import RankDeviceEngine


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The same for all ranks."""

    checkpoint: Path
    persona: str
    """Of calls that name none."""
    passes: int = 0
    """See `ModelServerConfig`; 0 is as many as the network was trained with."""
    products: str = "auto"
    """See `ModelServerConfig`; rank 0 decides for all: it is timed, and ranks add what they get."""
    device: str = ""
    """`cuda`: each rank has a GPU, rank r the r-th. `cpu`: the step that a GPU repeats, on CPUs, for tests. Empty:
    the one for CPUs."""
    calls: int = 1
    """At once, with a device."""
    sums: str = AUTO
    """The way that they go; see `turn_kernels.all_reduce.Way`."""

    def device_of(self, rank: int) -> torch.device:
        """Of that rank."""
        return torch.device("cuda", rank) if self.device == "cuda" else CPU

    def collectives_of(self, memory: RankMemory) -> MeteredCollectives:
        """Not connected yet."""
        return MeteredCollectives(memory, self.device_of(memory.rank), self.sums)


class RankEngine(DigitsEngine):
    """What it does depends on what it is given alone, so ranks that are given the same do the same."""

    def __init__(
        self, options: EngineOptions, rank: int, ranks: int, collectives: MeteredCollectives
    ) -> None:
        """`ValueError` for a checkpoint, a persona or a number of ranks that cannot be."""
        self._rank, self._ranks, self._collectives = rank, ranks, collectives
        passes, products = options.passes or None, dtype_of(options.products)
        super().__init__(options.checkpoint, options.persona, passes=passes, products=products)

    def _served(self, whole: Interaction, products: torch.dtype | None) -> Interaction:
        self.plan = plan_of(self.config, self._ranks)
        model = rank_of(whole, self.plan, self._rank, self._collectives)
        serve(model.trunk, products, self._collectives.all_reduce)
        return model


def engine_of(
    options: EngineOptions, rank: int, ranks: int, collectives: MeteredCollectives
) -> RankEngine | RankDeviceEngine:
    """The one that the options name; `ValueError` for what cannot be had."""
    if not options.device:
        return RankEngine(options, rank, ranks, collectives)
    from model_server.ranks.device import RankDeviceEngine

    return RankDeviceEngine(options, rank, ranks, collectives)


def do(engine: DigitsEngine, plan: Plan) -> None:
    """What rank 0 told; nobody asks for the result."""
    match plan:
        case Step(batch):
            engine.step(batch)
        case Open(slot, persona):
            engine.open(slot, persona)
        case Close(slot):
            engine.close(slot)
        case Repeat(slot):
            engine.repeat(slot)
        case Warm(calls):
            engine.warm(calls)
        case Age(slot, positions):
            engine.age(slot, positions)
