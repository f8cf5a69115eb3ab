"""The trunk: rows of positions in, hidden rows out; turn by turn with a state, or whole conversations at once.

Both give the same rows. Architecture of the open Inkling family (transformers 5.23.0, `models/inkling`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from model_server.model.config import ModelConfig
from model_server.model.layer import Layer
from model_server.model.norm import RMSNorm
from model_server.model.state import TrunkState


class Trunk(nn.Module):
    """All layers and the last norm."""

    keys_by_channel = False
    """How its states keep keys: see `AttendedRows`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.norm_eps)

    @property
    def _layers(self) -> Iterable[Layer]:
        return cast("Iterable[Layer]", self.layers)

    def append(
        self, x_BTD: Tensor, state: TrunkState, rows: Sequence[int], counts: Sequence[int] | None = None
    ) -> Tensor:
        """Append T positions to the calls in `rows` of the state, or `counts` of them each (at least one).

        Returns hidden rows [B, T, d]; those beyond a call's own count are meaningless. A run longer than the
        state's `piece_limit` goes in several passes.
        """
        assert counts is None or max(counts) == x_BTD.shape[1], (counts, x_BTD.shape)
        if counts is not None and min(counts) == x_BTD.shape[1]:
            counts = None
        if x_BTD.shape[1] <= state.piece_limit:
            return self._pass(x_BTD, state, rows, counts)
        out = torch.zeros_like(x_BTD)
        for start in range(0, x_BTD.shape[1], state.piece_limit):
            part = x_BTD[:, start : start + state.piece_limit]
            left = [
                part.shape[1] if counts is None else min(count - start, part.shape[1])
                for count in counts or rows
            ]
            going = [b for b, count in enumerate(left) if count > 0]
            longest = max(left)
            out[going, start : start + longest] = self._pass(
                part[going, :longest], state, [rows[b] for b in going], [left[b] for b in going]
            )
        return out

    def _pass(
        self, x_BTD: Tensor, state: TrunkState, rows: Sequence[int], counts: Sequence[int] | None
    ) -> Tensor:
        piece = state.piece(rows, x_BTD.shape[1], counts)
        for layer, kept in zip(self._layers, state.layers, strict=True):
            x_BTD = layer.append(x_BTD, piece, kept)
        state.advance(rows, x_BTD.shape[1] if counts is None else counts)
        return self.norm(x_BTD)

    def halve(self) -> None:
        """Keep the large matrices as bfloat16, for inference on a CPU that computes in it; see `matrix`."""
        large = ("inputs.weight", "output.weight", "gate_up", "down")
        for name, parameter in self.named_parameters():
            if name.endswith(large):
                parameter.data = parameter.data.bfloat16()

    def whole(self, x_BTD: Tensor, chosen: list[Tensor] | None = None) -> Tensor:
        """Hidden rows of conversations from their first position on, [B, T, d]; differentiable.

        Shorter conversations are filled up at their end. The experts that rows chose, int64 [B * T, K] a layer
        with experts, are added to `chosen`.
        """
        for layer in self._layers:
            x_BTD = layer.whole(x_BTD, chosen)
        return self.norm(x_BTD)
