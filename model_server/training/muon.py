"""Muon: momentum whose update of a matrix is made orthogonal, so that no direction of it learns faster than others.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with the scale of
J. Liu et al., "Muon is scalable for LLM training" (arXiv:2502.16982), by which an update is as large as AdamW's and
takes its rate of learning. torch's own (`torch.optim.Muon`) takes no stacks of matrices, which experts are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
ADAM_RMS = 0.2
"""Of AdamW's updates, as they are found in practice."""


class Muon(Optimizer):
    """For matrices [m, n] and stacks of them [E, m, n]: `lr` as AdamW's."""

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of all parameters that have a gradient; the loss is not asked for again."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                mean = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(mean, group["momentum"]))
                scale = ADAM_RMS * max(parameter.shape[-2:]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(
                    update, alpha=-group["lr"] * scale
                )


def orthogonal(matrices: Tensor) -> Tensor:
    """[..., m, n] -> the same with all singular values near 1 (0.7 to 1.2), by Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = (matrices if wide else matrices.mT).float()
    x = x.reshape(-1, *x.shape[-2:])
    x = x / (x.flatten(-2).norm(dim=-1)[:, None, None] + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).reshape(matrices.shape).to(matrices.dtype)
