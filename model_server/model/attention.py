"""Attention of one layer: grouped heads, normalised queries and keys, a bias learned against distance.

    B T S   calls, new positions, keys          d     hidden
    H G D   query heads, KV heads, head width   r R'  profiles of bias, distances that have one

    score[h, t, s] = (q[t, h] . k[s, g]) / D + bias[t, h, t - s]          g = h // (H / G)
    bias[t, h, e]  = sum over j of rho[t, h, j] * profiles[j, e]          for e < R', else 0
    global layers:   both are multiplied by tau(t) = 1 + alpha * ln(max(1, (t + 1) / floor))

There is no rotary position, and the scale is 1 / D, not 1 / sqrt(D).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_server.model.band import blocks
from model_server.model.config import ModelConfig
from model_server.model.convolution import ShortConvolution
from model_server.model.matrix import lowered, times
from model_server.model.norm import RMSNorm
from model_server.model.piece import Part, Piece, Reach
from model_server.model.state import LayerState


class Attention(nn.Module):
    """Of layer `layer`; what it sees is decided by the kind of the layer."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config, self.is_global = config, config.is_global(layer)
        self.heads, self.kv_heads, self.width = config.heads, config.kv_heads_of(layer), config.head_dim
        self.extent = config.bias_extent_of(layer)
        kv = 2 * self.kv_heads * self.width
        self.sizes = [self.heads * self.width, kv, self.heads * config.bias_rank]
        self.inputs = nn.Linear(config.hidden, sum(self.sizes), bias=False)
        """Queries, keys, values and rho, in this order."""
        self.kv_convolution = ShortConvolution(kv, config.conv_kernel)
        """Over the keys' channels, then the values'."""
        self.q_norm = RMSNorm(self.width, config.norm_eps)
        self.k_norm = RMSNorm(self.width, config.norm_eps)
        self.profiles = nn.Parameter(torch.empty(config.bias_rank, self.extent))
        self.output = nn.Linear(self.heads * self.width, config.hidden, bias=False)

    def append(self, x_BTD: Tensor, piece: Piece, state: LayerState) -> Tensor:
        """T new positions of the piece's calls, whose keys and values are added to their state."""
        past = state.kv_rows.read(piece)
        floor = self.config.log_floor
        scaled = floor is not None and piece.most_positions > floor
        q, k, v, rho, rows = self._project(x_BTD, past, piece.positions_BT if scaled else None)
        state.kv_rows.write(piece, rows)
        state.attended.write(piece, k, v)
        reach, profiles = piece.reach_of(self.is_global), self._profiles_by_column(piece)
        out = torch.cat(
            [
                self._heads(q[part.calls], rho[part.calls], profiles, state, part, reach)
                for part in piece.parts
            ]
        )
        return times(self.output.weight, out)

    def whole(self, x_BTD: Tensor) -> Tensor:
        """Conversations from their first position on, [B, T, d] -> [B, T, d]; differentiable."""
        positions = torch.arange(x_BTD.shape[1], device=x_BTD.device)[None]
        q, k, v, rho, _ = self._project(x_BTD, None, positions)
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        q, k, v = (lowered(each) for each in (q, self._repeated(k), self._repeated(v)))
        window = None if self.is_global else self.config.window
        out = []
        for block in blocks(x_BTD.shape[1], window, self.config.global_first, self.config.global_budget):
            bias = block.bias(rho[:, :, block.queries], self.profiles).flatten(0, 1)
            queries, keys = q[:, :, block.queries].flatten(0, 1), k[:, :, block.keys].flatten(0, 1)
            scores = torch.baddbmm(bias, queries, keys.mT, alpha=1 / self.width)
            out.append(scores.softmax(-1) @ v[:, :, block.keys].flatten(0, 1))
        heads = torch.cat(out, 1).unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)
        return times(self.output.weight, heads.to(x_BTD.dtype))

    def _repeated(self, x_BGTD: Tensor) -> Tensor:
        """[B, G, T, D] to [B, H, T, D]: the keys or values of each query head."""
        return x_BGTD.repeat_interleave(self.heads // self.kv_heads, 1)

    def _project(
        self, x_BTD: Tensor, past: Tensor | None, positions_BT: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Queries [B, H, T, D], keys and values [B, T, G, D], rho [B, H, T, r], rows of the convolution.

        `positions` None: all of them are below the floor, where tau is 1.
        """
        queries, kv, rho = times(self.inputs.weight, x_BTD).split(self.sizes, -1)
        kv, rows = self.kv_convolution(kv, past)
        k, v = kv.unflatten(-1, (2, self.kv_heads, self.width)).unbind(2)
        q = self.q_norm(queries.unflatten(-1, (self.heads, self.width))).transpose(1, 2)
        rho = rho.unflatten(-1, (self.heads, self.config.bias_rank)).transpose(1, 2)
        if self.is_global and self.config.log_floor is not None and positions_BT is not None:
            reach = (positions_BT + 1).float() / self.config.log_floor
            tau = (1 + self.config.log_alpha * reach.clamp(min=1).log())[:, None, :, None]
            q, rho = (q.float() * tau).to(q.dtype), (rho.float() * tau).to(rho.dtype)
        return q, self.k_norm(k), v, rho, rows

    def _profiles_by_column(self, piece: Piece) -> Tensor:
        """[r, columns of the tape]."""
        tape = piece.reach_of(self.is_global).tape
        return F.pad(self.profiles, (0, 1)).index_select(1, tape.columns)

    def _heads(
        self, q_BHTD: Tensor, rho_BHTr: Tensor, profiles: Tensor, state: LayerState, part: Part, reach: Reach
    ) -> Tensor:
        """Some calls of the pass, [B, T, H * D]. The query heads of a KV head become rows of one attention."""
        batch, heads, count, width = q_BHTD.shape
        group = (batch, self.kv_heads, heads // self.kv_heads * count)
        out = F.scaled_dot_product_attention(
            q_BHTD.reshape(*group, width),
            part.read(state.attended.keys),
            part.read(state.attended.values),
            attn_mask=self._bias(rho_BHTr, profiles, part, reach).view(*group, -1),
            scale=1 / width,
        )
        return out.view(batch, heads, count, width).transpose(1, 2).flatten(2)

    def _bias(self, rho_BHTr: Tensor, profiles: Tensor, part: Part, reach: Reach) -> Tensor:
        """[B, H, T, S], -inf where a place is not seen."""
        batch, heads, count, _ = rho_BHTr.shape
        tape, first = reach.tape, reach.places.first
        slices = tape.slices(profiles, reach.starts_B[part.calls], count)
        by_column = (rho_BHTr.flatten(1, 2) @ slices).unflatten(1, (heads, count))
        bias = rho_BHTr.new_empty(batch, heads, count, reach.places.count)
        bias[..., :first] = 0.0 if reach.first_BTF is None else reach.first_BTF[part.calls, None]
        torch.add(
            tape.by_place(by_column), tape.by_place(reach.hidden_B1TW[part.calls]), out=bias[..., first:]
        )
        return bias
