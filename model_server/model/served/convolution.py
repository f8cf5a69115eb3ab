"""The short convolution for inference: its residual is part of the newest tap, and it adds to what it is given."""

from __future__ import annotations

import torch
from torch import Tensor

from model_server.model.convolution import ShortConvolution
from model_server.model.piece import Piece
from model_server.model.served.compiled.ops import Ops
from model_server.model.state import ConvolutionRows


class ServedConvolution:
    """k taps a channel, float32."""

    def __init__(self, plain: ShortConvolution, ops: Ops | None) -> None:
        self._taps = plain.weight.detach().float().t().contiguous()
        self._taps[-1] += 1
        self._ops = ops

    def __call__(self, y_BTC: Tensor, piece: Piece, state: ConvolutionRows) -> Tensor:
        """T new rows, convolved: float32 [B, T, C]. The state moves on."""
        if self._ops is not None:
            return self._ops.convolved(self._taps, y_BTC.float(), None, piece, state)
        rows = self._rows(y_BTC, piece, state)
        out = rows[:, len(self._taps) - 1 :] * self._taps[-1]
        return self._older(out, rows)

    def onto(self, x_BTC: Tensor, y_BTC: Tensor, piece: Piece, state: ConvolutionRows) -> Tensor:
        """x plus T new rows, convolved; x is left as it is."""
        if self._ops is not None:
            return self._ops.convolved(self._taps, y_BTC.float(), x_BTC.contiguous(), piece, state)
        rows = self._rows(y_BTC, piece, state)
        return self._older(torch.addcmul(x_BTC, rows[:, len(self._taps) - 1 :], self._taps[-1]), rows)

    def _rows(self, y_BTC: Tensor, piece: Piece, state: ConvolutionRows) -> Tensor:
        """The rows before the new ones, and these: float32 [B, k - 1 + T, C]."""
        batch, count, channels = y_BTC.shape
        kept = len(self._taps) - 1
        rows = torch.empty(batch, kept + count, channels)
        rows[:, :kept] = state.read(piece)
        rows[:, kept:] = y_BTC
        state.write(piece, rows)
        return rows

    def _older(self, out: Tensor, rows: Tensor) -> Tensor:
        for tap in range(len(self._taps) - 1):
            out.addcmul_(rows[:, tap : tap + out.shape[1]], self._taps[tap])
        return out
