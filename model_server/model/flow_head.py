"""A hidden row to 50 ms of acoustic vectors, by flow matching.

A small residual network with adaptive layer norms, as in the diffusion loss of MAR (Li et al. 2024,
arXiv 2406.11838), learns the straight path from noise (time 0) to the vectors (time 1): rectified flow (Liu et
al. 2022, arXiv 2209.03003). It predicts the vectors themselves, not the velocity: noise of 328 dimensions does not
pass through so narrow a network, speech does (Li and He 2025, arXiv 2511.13720).

Knows nothing of calls or of sound. One rule: all randomness is an argument, so that the same rows give the same
vectors.

Shapes: N positions, d = width of the hidden row, X = 4 sub-frames x 82 features = 328.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from model_server.model.micro_turn import SUBFRAMES
from model_server.model.vocoder import FEATURES

WIDTH, BLOCKS = 144, 3
OUTPUTS = SUBFRAMES * FEATURES
_TIME_FREQUENCIES = 16
_NEAREST = 0.1  # the loss counts what is closer to the end of the path as this far away
_AT_START = 0.25  # share of training rows at time 0, from where a single step goes all the way
_TIME_MEAN, _TIME_SPREAD = -0.8, 0.8  # of the others, before the sigmoid (2511.13720, table 9)


class FlowHead(nn.Module):
    """Condition [N, d] and noise [N, X] to acoustic vectors [N, 4, 82]."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, hidden: int, width: int = WIDTH, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.noisy = nn.Linear(OUTPUTS, width)
        self.condition = nn.Linear(hidden, width)
        self.time = nn.Sequential(nn.Linear(2 * _TIME_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.modulation = nn.Linear(width, 2 * width)
        self.clean = nn.Linear(width, OUTPUTS)
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))
        _zero(self.modulation)
        _zero(self.clean)

    def normalise_by(self, mean: Tensor, deviation: Tensor) -> None:
        """Statistics [82] of the vectors to be learned; they are part of the checkpoint."""
        if mean.shape != self.mean.shape or not bool((deviation > 0).all()):
            raise ValueError(
                f"mean {tuple(mean.shape)}, smallest deviation {deviation.min():g}: expected [82], > 0"
            )
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """What lies at the end of the path, normalised [N, X], from [N, X] at time [N], or [1], on it."""
        given = functional.silu(self.condition(condition) + self.time(_waves(time)))
        x = self.noisy(noisy)
        for block in self.blocks:
            x = block(x, given)
        shift, scale = self.modulation(given).chunk(2, -1)
        clean: Tensor = self.clean(_norm(x) * (1 + scale) + shift)
        return clean

    def time_row(self, time: float) -> Tensor:
        """[W]: what `forward` adds to the condition at that time on the path, 0 .. 1."""
        row: Tensor = self.time(_waves(self.mean.new_tensor([time])))[0]
        return row

    def loss(self, condition: Tensor, vectors: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Squared error of the velocity [N] for vectors [N, 4, 82], noise [N, X] and times [N] in 0 .. 1."""
        clean = ((vectors - self.mean) / self.deviation).flatten(1)
        left = 1 - time[:, None]
        found = self(left * noise + time[:, None] * clean, time, condition)
        return ((found - clean) / left.clamp_min(_NEAREST)).square().mean(1)

    @torch.inference_mode()
    def sample(self, condition: Tensor, noise: Tensor, steps: int) -> Tensor:
        """Vectors [N, 4, 82] after so many Euler steps from noise [N, X]; the last one ends on the prediction."""
        if steps < 1:
            raise ValueError(f"steps = {steps}: expected at least 1")
        x = noise
        for step in range(steps):
            time = x.new_full((1,), step / steps)
            x = torch.lerp(x, self(x, time, condition), 1 / (steps - step))
        return x.unflatten(1, (SUBFRAMES, FEATURES)) * self.deviation + self.mean


class _Block(nn.Module):
    """Residual step whose norm is shifted, scaled and gated by what is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        _zero(self.modulation)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(given).chunk(3, -1)
        inner: Tensor = self.down(functional.silu(self.up(_norm(x) * (1 + scale) + shift)))
        return x + gate * inner


def training_times(count: int, generator: torch.Generator) -> Tensor:
    """Times [N] for `FlowHead.loss`: a quarter at the start of the path, most of the others near it."""
    times = torch.sigmoid(_TIME_MEAN + _TIME_SPREAD * torch.randn(count, generator=generator))
    return times * (torch.rand(count, generator=generator) >= _AT_START)


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6)


def _waves(time: Tensor) -> Tensor:
    """[N, 32]: cosines and sines of times 0 .. 1, half a turn to 50 turns."""
    rates = math.pi * torch.logspace(0, 2, _TIME_FREQUENCIES, device=time.device)
    angles = time[:, None] * rates
    return torch.cat((angles.cos(), angles.sin()), -1)
