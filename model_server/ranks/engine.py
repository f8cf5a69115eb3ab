"""The engine `digits` on one rank: the same engine, whose model holds a part of the matrices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from model_server.engine.digits import DigitsEngine
from model_server.model.interaction import Interaction
from model_server.model.served.layer import serve
from model_server.model.served.products import dtype_of
from model_server.model.sharding.parallel import Collectives, rank_of
from model_server.model.sharding.plan import plan_of
from model_server.ranks.plan import Age, Close, Open, Plan, Repeat, Step, Warm


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


class RankEngine(DigitsEngine):
    """What it does depends on what it is given alone, so ranks that are given the same do the same."""

    def __init__(self, options: EngineOptions, rank: int, ranks: int, collectives: Collectives) -> None:
        """`ValueError` for a checkpoint, a persona or a number of ranks that cannot be."""
        self._rank, self._ranks, self._collectives = rank, ranks, collectives
        passes, products = options.passes or None, dtype_of(options.products)
        super().__init__(options.checkpoint, options.persona, passes=passes, products=products)

    def _served(self, whole: Interaction, products: torch.dtype | None) -> Interaction:
        self.plan = plan_of(self.config, self._ranks)
        model = rank_of(whole, self.plan, self._rank, self._collectives)
        serve(model.trunk, products, self._collectives.all_reduce)
        return model

    def do(self, plan: Plan) -> None:
        """What rank 0 told; nobody asks for the result."""
        match plan:
            case Step(batch):
                self.step(batch)
            case Open(slot, persona):
                self.open(slot, persona)
            case Close(slot):
                self.close(slot)
            case Repeat(slot):
                self.repeat(slot)
            case Warm(calls):
                self.warm(calls)
            case Age(slot, positions):
                self.age(slot, positions)
