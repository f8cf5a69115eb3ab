"""One Euler step of the flow head in plain torch: `model_server/model/flow_head.py` on stacked weights."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from turn_kernels.flow_head_step.weights import FlowWeights


def flow_head_step(
    x_NX: Tensor, condition_NW: Tensor, time_W: Tensor, weights: FlowWeights, remaining: int
) -> Tensor:
    """As `turn_kernels.flow_head_step.flow_head_step`."""
    given = F.silu(condition_NW + time_W)
    hidden = _linear(x_NX, weights.noisy, weights.noisy_bias)
    for block in range(weights.blocks):
        modulation = _linear(given, weights.modulations[block], weights.modulation_biases[block])
        shift, scale, gate = modulation.chunk(3, -1)
        inner = F.silu(
            _linear(_norm(hidden) * (1 + scale) + shift, weights.ups[block], weights.up_biases[block])
        )
        hidden = hidden + gate * _linear(inner, weights.downs[block], weights.down_biases[block])
    shift, scale = _linear(given, weights.last, weights.last_bias).chunk(2, -1)
    clean = _linear(_norm(hidden) * (1 + scale) + shift, weights.clean, weights.clean_bias)
    return x_NX + (clean - x_NX) / remaining


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Operands in the dtype of the matrix, sum and result in float32."""
    return F.linear(x.to(weight.dtype).float(), weight.float()) + bias


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)
