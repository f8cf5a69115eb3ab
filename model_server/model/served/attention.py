"""Attention of one layer for inference on a CPU: the same as `model/attention.py`, in fewer passes over memory.

    B T S   calls, new positions, places of a ring and of the first positions     N   B * T
    H G D   query heads, KV heads, head width        r   profiles of bias         W   columns of a slice of the tape

The weights of the norms of queries and keys, and the scale, are folded into the keys that the ring keeps. What is
hidden is one profile more, of 0 and `HIDDEN`, that every query has once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model_server.model.attention import Attention
from model_server.model.band import HIDDEN
from model_server.model.piece import Part, Piece, Reach
from model_server.model.served.compiled.ops import Ops
from model_server.model.served.convolution import ServedConvolution
from model_server.model.served.products import Matrix, inverse_rms
from model_server.model.state import LayerState
from model_server.model.tape import Tape


class ServedAttention:
    """Made of a plain one, whose parameters may change no more."""

    def __init__(self, plain: Attention, norm_weight: Tensor, dtype: torch.dtype, ops: Ops | None) -> None:
        """`norm_weight`: of the norm in front of it."""
        self._ops = ops
        self._config, self._is_global = plain.config, plain.is_global
        self._heads, self._kv_heads, self._width = plain.heads, plain.kv_heads, plain.width
        self._sizes, self._eps = plain.sizes, plain.q_norm.eps
        self._inputs = Matrix(plain.inputs.weight.float() * norm_weight.float(), dtype, ops)
        self._output = Matrix(plain.output.weight, dtype, ops)
        self._key_scale = plain.q_norm.weight.float() * plain.k_norm.weight.float() / self._width
        self._kv_convolution = ServedConvolution(plain.kv_convolution, ops)
        self._profiles = plain.profiles.detach().float()
        self._by_column: tuple[Tape, Tensor] | None = None

    def warm(self, rows: int) -> None:
        """Meet all numbers of rows up to this one."""
        for matrix in (self._inputs, self._output):
            matrix.warm(rows)

    def append(self, x_ND: Tensor, piece: Piece, state: LayerState) -> Tensor:
        """New positions of the piece's calls, normalised rows in the dtype of products; the same comes out."""
        inputs = self._inputs(x_ND)
        attend = self._in_torch if self._ops is None else self._compiled
        return self._output(attend(inputs, piece, state).to(x_ND.dtype))

    def _compiled(self, inputs_NC: Tensor, piece: Piece, state: LayerState) -> Tensor:
        """As `_in_torch`."""
        assert self._ops is not None
        inputs, reach = inputs_NC.float(), piece.reach_of(self._is_global)
        _, kv, _ = self._parts(inputs, piece)
        kv = self._kv_convolution(kv, piece, state.kv_rows)
        self._ops.keep(kv, self._key_scale, self._eps, piece, reach, state.attended)
        tau, profiles = self._far(piece), self._profiles_by_column(reach.tape)
        return self._ops.attend(
            *(
                inputs,
                sum(self._sizes[:2]),
                self._heads,
                profiles,
                tau,
                self._eps,
                piece,
                reach,
                state.attended,
            )
        )

    def _in_torch(self, inputs_NC: Tensor, piece: Piece, state: LayerState) -> Tensor:
        """Heads [N, H * D] of queries, keys, values and rho."""
        batch, count = piece.positions_BT.shape
        queries, kv, rho = self._parts(inputs_NC, piece)
        q, profile_weights = self._queries(queries), self._profile_weights(rho)
        if (tau := self._far(piece)) is not None:
            q *= tau[:, None, :, None]
            profile_weights[..., :-1] *= tau[:, None, :, None]
        self._keep(self._kv_convolution(kv, piece, state.kv_rows), piece, state)
        heads = q.new_empty(batch, count, self._heads, self._width)
        reach = piece.reach_of(self._is_global)
        profiles = self._profiles_by_column(reach.tape)
        for part in piece.parts:
            bias = self._bias(profile_weights[part.calls], profiles, part, reach)
            heads[part.calls] = self._attend(q[part.calls], bias, part, state).transpose(1, 2)
        return heads.view(len(inputs_NC), -1)

    def _parts(self, inputs_NC: Tensor, piece: Piece) -> tuple[Tensor, ...]:
        """[B, T, .] each."""
        return inputs_NC[:, : sum(self._sizes)].unflatten(0, piece.positions_BT.shape).split(self._sizes, -1)

    def _queries(self, queries_BTC: Tensor) -> Tensor:
        """float32 [B, H, T, D], normalised."""
        q = queries_BTC.float().unflatten(-1, (self._heads, self._width))
        out = q.new_empty(q.shape[0], self._heads, q.shape[1], self._width)
        return torch.mul(q.transpose(1, 2), inverse_rms(q, self._eps).transpose(1, 2), out=out)

    def _profile_weights(self, rho_BTC: Tensor) -> Tensor:
        """float32 [B, H, T, r + 1]: rho, and 1 for what is hidden."""
        rho = rho_BTC.unflatten(-1, (self._heads, -1)).transpose(1, 2)
        out = torch.ones(*rho.shape[:-1], rho.shape[-1] + 1)
        out[..., :-1] = rho
        return out

    def _far(self, piece: Piece) -> Tensor | None:
        """tau [B, T], in global layers of calls that have gone beyond the floor; else it is 1."""
        floor = self._config.log_floor
        if not self._is_global or floor is None or piece.most_positions <= floor:
            return None
        reach = (piece.positions_BT + 1).float() / floor
        return 1 + self._config.log_alpha * reach.clamp(min=1).log()

    def _keep(self, kv_BTC: Tensor, piece: Piece, state: LayerState) -> None:
        k, v = kv_BTC.unflatten(-1, (2, self._kv_heads, self._width)).unbind(2)
        state.attended.write(piece, k * inverse_rms(k, self._eps) * self._key_scale, v)

    def _profiles_by_column(self, tape: Tape) -> Tensor:
        """[r + 1, columns of the tape]; the same for every pass over one state."""
        if self._by_column is None or self._by_column[0] is not tape:
            profiles = F.pad(self._profiles, (0, 1)).index_select(1, tape.columns)
            hidden = tape.hidden.clamp(min=HIDDEN)[None]
            self._by_column = tape, torch.cat([profiles, hidden])
        return self._by_column[1]

    def _bias(self, weights_BHTr: Tensor, profiles: Tensor, part: Part, reach: Reach) -> Tensor:
        """[B, H, T, S]."""
        batch, heads, count, _ = weights_BHTr.shape
        tape, first = reach.tape, reach.places.first
        slices = tape.slices(profiles, reach.starts_B[part.calls], count)
        by_column = torch.bmm(weights_BHTr.flatten(1, 2), slices).unflatten(1, (heads, count))
        bias = by_column.new_empty(batch, heads, count, reach.places.count)
        if first:
            bias[..., :first] = 0.0 if reach.first_BTF is None else reach.first_BTF[part.calls, None]
        bias[..., first:] = tape.by_place(by_column)
        return bias

    def _attend(self, q_BHTD: Tensor, bias_BHTS: Tensor, part: Part, state: LayerState) -> Tensor:
        """[B, H, T, D]. The query heads of a KV head become rows of one attention."""
        batch, heads, count, width = q_BHTD.shape
        group = (batch, self._kv_heads, heads // self._kv_heads * count)
        keys, values = part.read(state.attended.keys), part.read(state.attended.values)
        out = F.scaled_dot_product_attention(
            q_BHTD.view(*group, width), keys, values, attn_mask=bias_BHTS.view(*group, -1), scale=1.0
        )
        return out.view(batch, heads, count, width)
