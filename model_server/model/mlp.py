"""Gated MLPs: the dense one, and the experts of a mixture with their router.

B T   calls, positions          N   B * T rows
d     hidden                    f   width of the MLP or of one expert
E K S routed experts, how many of them a row is sent to, shared experts
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_server.model.config import ModelConfig
from model_server.model.matrix import times
from model_server.model.router import Router


def gated(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """`down (SiLU(gate x) * up x)`; x [..., d], gate_up [2f, d] with the gate's rows first, down [d, f]."""
    gate, up = times(gate_up, x).chunk(2, -1)
    return times(down, F.silu(gate) * up)


class DenseMLP(nn.Module):
    """One MLP for every row, with a learned scale."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(2 * config.dense_width, config.hidden))
        self.down = nn.Parameter(torch.empty(config.hidden, config.dense_width))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x_BTD: Tensor, chosen: list[Tensor] | None = None) -> Tensor:
        """[B, T, d] -> [B, T, d]. There is nothing to choose."""
        return gated(x_BTD, self.gate_up, self.down) * self.scale


class Experts(nn.Module):
    """A row goes to K of E experts and to all S shared ones; the router weighs them together."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, hidden = config.expert_width, config.hidden
        self.router = Router(config)
        self.local = range(config.experts)
        """The routed ones that are here; a rank has some of them."""
        self.gate_up = nn.Parameter(torch.empty(config.experts, 2 * width, hidden))
        self.down = nn.Parameter(torch.empty(config.experts, hidden, width))
        self.shared_gate_up = nn.Parameter(torch.empty(config.shared_experts, 2 * width, hidden))
        self.shared_down = nn.Parameter(torch.empty(config.shared_experts, hidden, width))

    def forward(self, x_BTD: Tensor, chosen: list[Tensor] | None = None) -> Tensor:
        """[B, T, d] -> [B, T, d]; the experts chosen, int64 [N, K], are added to `chosen`."""
        x_ND = x_BTD.flatten(0, 1)
        route = self.router(x_ND)
        if chosen is not None:
            chosen.append(route.experts_NK)
        out = self._routed(x_ND, route.experts_NK, route.weights_NK) + self._shared(x_ND, route.shared_NS)
        return out.view(x_BTD.shape)

    def _routed(self, x_ND: Tensor, experts_NK: Tensor, weights_NK: Tensor) -> Tensor:
        """Rows sorted by expert, then one MLP for each expert that has any."""
        flat = experts_NK.flatten()
        order = flat.argsort()
        rows = order // experts_NK.shape[1]
        counts = torch.bincount(flat, minlength=len(self.gate_up)).tolist()
        parts = [
            gated(part, self.gate_up[expert], self.down[expert])
            for expert, part in enumerate(x_ND.index_select(0, rows).split(counts))
            if len(part)
        ]
        weighted = torch.cat(parts) * weights_NK.flatten().index_select(0, order)[:, None]
        return torch.zeros_like(x_ND).index_add(0, rows, weighted)

    def _shared(self, x_ND: Tensor, weights_NS: Tensor) -> Tensor:
        """Summed in float32."""
        parts = [
            (gated(x_ND, self.shared_gate_up[shared], self.shared_down[shared]) * weight[:, None]).float()
            for shared, weight in enumerate(weights_NS.unbind(1))
        ]
        return functools.reduce(torch.add, parts).to(x_ND.dtype)
