"""A mixture of experts in plain torch: `model_server/model/router.py` and `mlp.py`, on bare tensors.

Sums in float32; rows between two products, and the result, are rounded to the dtype of x.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from turn_kernels.mixture.weights import MixtureWeights, Route


def route(x_ND: Tensor, weights: MixtureWeights) -> Route:
    """As `turn_kernels.mixture.route`."""
    logits = x_ND.float() @ weights.router.float().T
    routed, shared = logits[:, : weights.experts], logits[:, weights.experts :]
    experts = torch.topk(routed.sigmoid() + weights.balance, weights.chosen, -1).indices
    scores = F.logsigmoid(torch.cat([routed.gather(1, experts), shared], 1)).softmax(-1)
    return Route(experts.int(), scores * weights.scale)


def mixture(x_ND: Tensor, weights: MixtureWeights) -> Tensor:
    """As `turn_kernels.mixture.mixture`: row by row, expert by expert."""
    by_row = route(x_ND, weights)
    out = torch.zeros(x_ND.shape, dtype=torch.float32, device=x_ND.device)
    for row, x in enumerate(x_ND):
        for slot, weight in enumerate(by_row.weights_NJ[row]):
            shared = slot - weights.chosen
            if shared < 0:
                expert = int(by_row.experts_NK[row, slot]) - weights.first
                if 0 <= expert < weights.held:
                    out[row] += weight * _gated(x, weights.gate_up[expert], weights.down[expert])
            else:
                out[row] += weight * _gated(x, weights.shared_gate_up[shared], weights.shared_down[shared])
    return out.to(x_ND.dtype)


def _gated(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """float32 [d]."""
    gate, up = (gate_up.float() @ x.float()).chunk(2)
    inner = (F.silu(gate) * up).to(x.dtype)
    return down.float() @ inner.float()
