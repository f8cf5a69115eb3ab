"""What turns sound, pictures and tokens into rows of positions. No pretrained encoder: tables and small stems."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_server.model.config import ModelConfig
from model_server.model.micro_turn import MEL_CHANNELS, MEL_LEVELS, TRUTH_LEVELS
from model_server.model.norm import RMSNorm

TOWER_EPS = 1e-6
"""The family's towers have their own, whatever the trunk's is."""


class NormedEmbedding(nn.Module):
    """A table of rows, normalised."""

    def __init__(self, entries: int, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(entries, width))
        self.norm = RMSNorm(width, eps)

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [...] -> [..., d]."""
        return self.norm(F.embedding(ids, self.weight))


class SoundTower(nn.Module):
    """A bag of embeddings: one entry for each channel and its level, summed over the channels, normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(MEL_CHANNELS * MEL_LEVELS, width))
        """Entry `MEL_LEVELS * channel + level`."""
        self.norm = RMSNorm(width, TOWER_EPS)

    def forward(self, levels: Tensor) -> Tensor:
        """uint8 [N, 80] -> [N, d]."""
        index = levels.long() + torch.arange(MEL_CHANNELS, device=levels.device) * MEL_LEVELS
        return self.norm(F.embedding_bag(index, self.weight, mode="sum"))


class Ears(nn.Module):
    """The row of a `hear` position: the caller, our own speech as it was heard, and how much was made up."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.caller = SoundTower(config.hidden)
        self.own = SoundTower(config.hidden)
        self.truth = nn.Parameter(torch.empty(TRUTH_LEVELS, config.hidden))

    def forward(self, heard: Tensor, own: Tensor, truth: Tensor) -> Tensor:
        """uint8 [N, 80], [N, 80], [N] -> [N, d]."""
        return self.caller(heard) + self.own(own) + F.embedding(truth.long(), self.truth)


class PatchTower(nn.Module):
    """hMLP (Touvron 2022, arXiv 2203.09795): fold neighbours into channels, project, normalise; no attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.folds = config.vision_folds
        widths = (3, *config.vision_widths, config.hidden)
        self.projections = nn.ModuleList(
            nn.Linear(width * pictures * side * side, out, bias=False)
            for (pictures, side), width, out in zip(self.folds, widths[:-1], widths[1:], strict=True)
        )
        self.norms = nn.ModuleList(RMSNorm(width, TOWER_EPS) for width in widths[1:])

    def forward(self, patches: Tensor) -> Tensor:
        """[N, 2, side, side, 3] -> [N, d]."""
        x = patches
        layers = list(zip(self.folds, self.projections, self.norms, strict=True))
        for (pictures, side), projection, norm in layers:
            x = norm(projection(fold(x, pictures, side)))
            if norm is not self.norms[-1]:
                x = F.gelu(x)
        return x.flatten(1)


def fold(x: Tensor, pictures: int, side: int) -> Tensor:
    """[N, t, h, w, c] -> [N, t / pictures, h / side, w / side, c * pictures * side ** 2], colour fastest."""
    count, t, h, w, c = x.shape
    x = x.reshape(count, t // pictures, pictures, h // side, side, w // side, side, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4)
