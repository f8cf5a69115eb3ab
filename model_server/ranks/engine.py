"""The engine `digits` on one rank: the same engine, whose model holds a part of the matrices.

Its layers are the plain ones, in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model_server.engine.digits import DigitsEngine
from model_server.model import checkpoint
from model_server.model.interaction import Interaction
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


class RankEngine(DigitsEngine):
    """What it does depends on what it is given alone, so ranks that are given the same do the same."""

    def __init__(self, options: EngineOptions, rank: int, ranks: int, collectives: Collectives) -> None:
        """`ValueError` for a checkpoint, a persona or a number of ranks that cannot be."""
        super().__init__(options.checkpoint, options.persona, passes=options.passes or None)
        self.plan = plan_of(self.config, ranks)
        loaded, whole = checkpoint.load(options.checkpoint), Interaction(self.config)
        loaded.into("interaction", whole)
        self._model = rank_of(whole, self.plan, rank, collectives)

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
