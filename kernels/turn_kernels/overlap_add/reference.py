"""Overlap-add in plain torch: the end of `model_server/model/vocoder.py`."""

from __future__ import annotations

import torch
from torch import Tensor

FULL_SCALE = 32767


def overlap_add(pieces_BSN: Tensor, tail_BH: Tensor, out_BP: Tensor) -> tuple[Tensor, Tensor]:
    """As `turn_kernels.overlap_add.overlap_add`."""
    calls, subframes, samples = pieces_BSN.shape
    hop = samples - tail_BH.shape[1]
    sound = torch.cat([tail_BH, tail_BH.new_zeros(calls, subframes * hop)], 1)
    for subframe in range(subframes):  # the oldest first
        sound[:, subframe * hop : subframe * hop + samples] += pieces_BSN[:, subframe]
    cut = subframes * hop
    out_BP.copy_((sound[:, :cut] * FULL_SCALE).round().clamp(-32768, 32767))
    return out_BP, sound[:, cut:].clone()
