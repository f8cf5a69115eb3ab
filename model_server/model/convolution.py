"""The short convolution: depthwise, causal, with its own residual, in float32.

    out[t] = y[t] + sum over j of weight[:, j] * y[t - (k - 1) + j]        rows before the start are zero

State of a call: the last k - 1 rows of its input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShortConvolution(nn.Module):
    """k taps a channel; tap k - 1 weighs the current row."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.taps = taps
        self.weight = nn.Parameter(torch.empty(channels, taps))

    def forward(self, y_BTC: Tensor, past_BKC: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve T new rows; `past` has the k - 1 rows before them (zeros when None).

        Returns the rows, in their dtype, and past and new rows in one float32 [B, k - 1 + T, C], of which the
        caller keeps what it needs.
        """
        y = y_BTC.float()
        if past_BKC is None:
            past_BKC = y.new_zeros(y.shape[0], self.taps - 1, y.shape[2])
        rows = torch.cat([past_BKC, y], 1)
        taps = self.weight.float().t().contiguous()
        out = torch.addcmul(y, rows[:, : y.shape[1]], taps[0])
        for tap in range(1, self.taps):
            out.addcmul_(rows[:, tap : tap + y.shape[1]], taps[tap])
        return out.to(y_BTC.dtype), rows
