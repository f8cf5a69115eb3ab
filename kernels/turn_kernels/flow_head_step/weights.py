"""The flow head's matrices as its step wants them: blocks stacked, biases float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class FlowWeights:
    """W: width, X: features of a position, L: blocks. Matrices are [outputs, inputs], of one dtype."""

    noisy: Tensor  # [W, X]
    noisy_bias: Tensor
    modulations: Tensor  # [L, 3 W, W]: shift, scale, gate
    modulation_biases: Tensor
    ups: Tensor  # [L, W, W]
    up_biases: Tensor
    downs: Tensor  # [L, W, W]
    down_biases: Tensor
    last: Tensor  # [2 W, W]: shift, scale
    last_bias: Tensor
    clean: Tensor  # [X, W]
    clean_bias: Tensor

    @property
    def width(self) -> int:
        """W."""
        return len(self.noisy)

    @property
    def features(self) -> int:
        """X."""
        return len(self.clean)

    @property
    def blocks(self) -> int:
        """L."""
        return len(self.ups)


def weights_of(parameters: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> FlowWeights:
    """From the names of `model_server/model/flow_head.py`'s state, on the device that they are on."""
    blocks = sorted({int(name.split(".")[1]) for name in parameters if name.startswith("blocks.")})

    def stacked(name: str, kind: torch.dtype) -> Tensor:
        return torch.stack([parameters[f"blocks.{block}.{name}"] for block in blocks]).to(kind).contiguous()

    def one(name: str, kind: torch.dtype) -> Tensor:
        return parameters[name].to(kind).contiguous()

    return FlowWeights(
        one("noisy.weight", dtype),
        one("noisy.bias", torch.float32),
        stacked("modulation.weight", dtype),
        stacked("modulation.bias", torch.float32),
        stacked("up.weight", dtype),
        stacked("up.bias", torch.float32),
        stacked("down.weight", dtype),
        stacked("down.bias", torch.float32),
        one("modulation.weight", dtype),
        one("modulation.bias", torch.float32),
        one("clean.weight", dtype),
        one("clean.bias", torch.float32),
    )
