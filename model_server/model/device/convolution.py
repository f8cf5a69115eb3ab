"""The short convolution (`model/convolution.py`) over the rows that sessions keep.

Each pass keeps two places to go on from: behind all of its positions, and before the `speak` positions at its end.
Where a token is written after all, the pass of that token goes on from the second.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model_server.model.convolution import ShortConvolution
from model_server.model.device.passes import Pass
from model_server.model.device.state import KeptRows
from model_server.model.micro_turn import SPEAK_POSITIONS


class DeviceConvolution:
    """k taps a channel, float32."""

    @torch.no_grad()
    def __init__(self, plain: ShortConvolution) -> None:
        self._taps = plain.weight.float().t().contiguous()
        self._taps[-1] += 1  # its own residual

    def __call__(self, y_BTC: Tensor, now: Pass, kept: KeptRows) -> Tensor:
        """T new rows, convolved, in their dtype. The state moves on."""
        taps, longest = self._taps, y_BTC.shape[1]
        past = kept.last.index_select(0, now.rows_B)
        if now.again_B is not None:
            before = kept.before_speech.index_select(0, now.rows_B)
            past = torch.where(now.again_B[:, None, None], before, past)
        rows = torch.cat([past, y_BTC.float()], 1)
        out = rows[:, :longest] * taps[0]
        for tap in range(1, len(taps)):
            out.addcmul_(rows[:, tap : tap + longest], taps[tap])
        without = (now.counts_B - SPEAK_POSITIONS).clamp(min=0)
        for to, counts in ((kept.last, now.counts_B), (kept.before_speech, without)):
            index = counts.long()[:, None] + torch.arange(len(taps) - 1, device=y_BTC.device)
            last = rows.gather(1, index[:, :, None].expand(-1, -1, rows.shape[2]))
            to.index_copy_(0, now.rows_B, last)
        return out.to(y_BTC.dtype)
