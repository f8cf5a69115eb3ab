"""dMel in plain torch: `model_server/model/dmel.py`, on bare tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from turn_kernels.dmel.tables import DmelTables


def dmel(pcm_BS: Tensor, carried_BC: Tensor, tables: DmelTables) -> tuple[Tensor, Tensor]:
    """As `turn_kernels.dmel.dmel`."""
    samples = torch.cat([carried_BC, pcm_BS], 1)
    mel = channels_of(samples.float() / tables.full_scale, tables)
    return torch.bucketize(mel, tables.borders).to(torch.uint8), samples[:, pcm_BS.shape[1] :].clone()


def channels_of(samples_BS: Tensor, tables: DmelTables) -> Tensor:
    """float32 [B, W - hop + n * hop] in -1 .. 1 to log10 of the channels, [B, n, M]."""
    frames = samples_BS.unfold(1, tables.samples, tables.hop) * tables.window
    spectrum = torch.view_as_real(torch.fft.rfft(frames))
    magnitudes = spectrum.square().sum(-1).clamp_min(tables.floor).sqrt()
    return (magnitudes @ tables.filters).clamp_min(tables.floor).log10()
