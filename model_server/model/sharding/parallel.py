"""The plain model at the size of one rank: its modules, and a sum over ranks behind each attention and each MLP.

A rank has some heads, some experts and a part of each wide matrix; what it gives is a part of a sum. The short
convolutions and the residual come after the sum, on rows that are the same everywhere. For inference only.

    N d   rows, hidden        E K   experts, how many a row is sent to
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from model_server.model.attention import Attention
from model_server.model.config import ModelConfig
from model_server.model.interaction import Interaction
from model_server.model.layer import Layer
from model_server.model.mlp import DenseMLP, Experts, gated
from model_server.model.piece import Piece
from model_server.model.router import Route
from model_server.model.sharding.cutting import state_of_rank
from model_server.model.sharding.plan import ShardingPlan
from model_server.model.state import LayerState


class Collectives(Protocol):
    """What ranks do together. All of them call the same, in the same order, with the same shapes."""

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over ranks, the same bits on each; x may be overwritten."""
        ...

    def all_gather(self, x: Tensor) -> Tensor:
        """[ranks, *x.shape]."""
        ...


class RankAttention(Attention):
    """Some of the heads."""

    def __init__(self, config: ModelConfig, layer: int, collectives: Collectives) -> None:
        """`config`: `ShardingPlan.rank_config`."""
        super().__init__(config, layer)
        self._collectives = collectives

    def append(self, x_BTD: Tensor, piece: Piece, state: LayerState) -> Tensor:
        """As `Attention.append`, of all heads; the keys and values of its own are added to the state."""
        return self._collectives.all_reduce(super().append(x_BTD, piece, state))

    def whole(self, x_BTD: Tensor) -> Tensor:
        """As `Attention.whole`, without a gradient."""
        return self._collectives.all_reduce(super().whole(x_BTD))


class RankDenseMLP(DenseMLP):
    """A part of the width."""

    def __init__(self, config: ModelConfig, collectives: Collectives) -> None:
        """`config`: `ShardingPlan.rank_config`."""
        super().__init__(config)
        self._collectives = collectives

    def forward(self, x_BTD: Tensor, chosen: list[Tensor] | None = None) -> Tensor:
        """As `DenseMLP`."""
        return self._collectives.all_reduce(super().forward(x_BTD, chosen))


class RankExperts(Experts):
    """Some of the routed experts, and a part of the width of each shared one."""

    def __init__(self, plan: ShardingPlan, rank: int, collectives: Collectives) -> None:
        super().__init__(plan.config)
        config, self.local = plan.config, plan.experts_of(rank)
        width, hidden = config.expert_width, config.hidden
        part = width // plan.ranks
        self.gate_up = nn.Parameter(torch.empty(len(self.local), 2 * width, hidden))
        self.down = nn.Parameter(torch.empty(len(self.local), hidden, width))
        self.shared_gate_up = nn.Parameter(torch.empty(config.shared_experts, 2 * part, hidden))
        self.shared_down = nn.Parameter(torch.empty(config.shared_experts, hidden, part))
        self._collectives = collectives

    def forward(self, x_BTD: Tensor, chosen: list[Tensor] | None = None) -> Tensor:
        """As `Experts`. Rows stay where they are: with few of them one sum costs less than sending them about."""
        x_ND = x_BTD.flatten(0, 1)
        route = self.router(x_ND)
        if chosen is not None:
            chosen.append(route.experts_NK)

        def expert(index: int, rows: Tensor) -> Tensor:
            return gated(rows, self.gate_up[index], self.down[index])

        out = of_local(x_ND, route, self.local, expert) + self._shared(x_ND, route.shared_NS)
        return self._collectives.all_reduce(out).view(x_BTD.shape)


def of_local(x_ND: Tensor, route: Route, local: range, expert: Callable[[int, Tensor], Tensor]) -> Tensor:
    """[N, d]: what the experts of a rank add, of which `expert` computes the one at an index of `local`.

    Zeros in rows that chose none of them.
    """
    flat = route.experts_NK.flatten() - local.start
    here = ((flat >= 0) & (flat < len(local))).nonzero()[:, 0]
    order = here[flat[here].argsort(stable=True)]
    rows = order // route.experts_NK.shape[1]
    counts = torch.bincount(flat[here], minlength=len(local)).tolist()
    parts = [
        expert(index, part)
        for index, part in enumerate(x_ND.index_select(0, rows).split(counts))
        if len(part)
    ]
    out = torch.zeros_like(x_ND)
    if parts:
        out.index_add_(0, rows, torch.cat(parts).to(out.dtype) * route.weights_NK.flatten()[order, None])
    return out


class GatheredUnembedding(nn.Linear):
    """Logits of some tokens, gathered from all ranks: every rank then chooses among the same bits."""

    def __init__(self, plan: ShardingPlan, collectives: Collectives) -> None:
        super().__init__(plan.config.hidden, plan.config.vocabulary // plan.ranks, bias=False)
        self._collectives = collectives

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., d] -> [..., V]."""
        return self._collectives.all_gather(super().forward(hidden)).movedim(0, -2).flatten(-2)


def empty_rank(plan: ShardingPlan, rank: int, collectives: Collectives) -> Interaction:
    """The model of one rank with weights that are not set; on the meta device it takes no memory."""
    if plan.ranks == 1:
        return Interaction(plan.config)
    config = plan.rank_config
    model = Interaction(config)
    for index, each in enumerate(model.trunk.layers):
        layer = cast("Layer", each)
        layer.attention = RankAttention(config, index, collectives)
        layer.mlp = (
            RankDenseMLP(config, collectives)
            if config.is_dense(index)
            else RankExperts(plan, rank, collectives)
        )
    model.unembedding = GatheredUnembedding(plan, collectives)
    return model


def rank_of(whole: Interaction, plan: ShardingPlan, rank: int, collectives: Collectives) -> Interaction:
    """The part of a model that is here whole; in its dtypes, ready for inference."""
    model = empty_rank(plan, rank, collectives)
    model.load_state_dict(state_of_rank(whole.state_dict(), plan, rank), assign=True)
    return model.eval().requires_grad_(False)
