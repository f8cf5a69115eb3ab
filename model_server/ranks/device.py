"""The engine on a device, on one rank: the step that a GPU repeats, with a part of the matrices."""

from __future__ import annotations

import torch

from model_server.engine.device import DeviceEngine
from model_server.model.interaction import Interaction
from model_server.model.served.products import dtype_of
from model_server.model.sharding.parallel import rank_of
from model_server.model.sharding.plan import plan_of
from model_server.ranks.collectives import MeteredCollectives
from model_server.ranks.engine import EngineOptions


class RankDeviceEngine(DeviceEngine):
    """See `RankEngine`. On GPUs the sums are captured with the passes, on every rank in the same order."""

    def __init__(
        self, options: EngineOptions, rank: int, ranks: int, collectives: MeteredCollectives
    ) -> None:
        """`ValueError` for a checkpoint, a persona, a GPU or a number of ranks that cannot be."""
        self._rank, self._ranks, self._collectives = rank, ranks, collectives
        self._add, self._tally = collectives.all_reduce, collectives.meter
        super().__init__(
            options.checkpoint,
            options.persona,
            device=options.device_of(rank),
            calls=options.calls,
            products=dtype_of(options.products),
            passes=options.passes or None,
        )

    def _served(self, whole: Interaction, products: torch.dtype | None) -> Interaction:
        self.plan = plan_of(self.config, self._ranks)
        return super()._served(rank_of(whole, self.plan, self._rank, self._collectives), products)
