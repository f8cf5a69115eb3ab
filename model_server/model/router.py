"""Which experts a row is sent to, and how much each of them counts.

Float32 throughout. The balance bias decides the choice only; the weights are sigmoids normalised over the chosen
and the shared experts together, so that a row can move mass from the routed experts to the shared ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_server.model.config import ModelConfig


class Route(NamedTuple):
    """Of N rows."""

    experts_NK: Tensor
    """int64: the experts chosen."""
    weights_NK: Tensor
    """Their weights."""
    shared_NS: Tensor
    """Weights of the shared experts."""


class Router(nn.Module):
    """Rows 0 .. E - 1 of the weight belong to the routed experts, the S others to the shared ones."""

    balance: Tensor
    """float32 [E]: added to the scores for the choice; moved by `rebalance`, never by a gradient."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.experts, self.chosen = config.experts, config.experts_chosen
        self.route_scale = config.route_scale
        self.weight = nn.Parameter(torch.empty(config.experts + config.shared_experts, config.hidden))
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("balance", torch.zeros(config.experts))

    def forward(self, x_ND: Tensor) -> Route:
        """Choose for each row; weights are in the dtype of the rows."""
        logits = F.linear(x_ND.float(), self.weight.float())
        routed, shared = logits.split([self.experts, logits.shape[1] - self.experts], 1)
        experts = torch.topk(routed.sigmoid() + self.balance.float(), self.chosen, -1, sorted=False).indices
        # In logarithms, so that very negative logits do not underflow before they are normalised.
        log_scores = F.logsigmoid(torch.cat([routed.gather(1, experts), shared], 1))
        weights = log_scores.softmax(-1) * (self.route_scale * self.scale.float())
        weights = weights.to(x_ND.dtype)
        return Route(experts, weights[:, : self.chosen], weights[:, self.chosen :])

    @torch.no_grad()
    def rebalance(self, experts_NK: Tensor, rate: float) -> None:
        """Make experts that got less than their share of these rows likelier, the others less likely, by `rate`.

        Loss-free balancing, arXiv 2408.15664. In place of an auxiliary loss, once a training step.
        """
        load = torch.bincount(experts_NK.flatten(), minlength=self.experts).float()
        self.balance += rate * torch.sign(load.mean() - load)
