"""The library's functions as functions of tensors, all float32. Legends of shapes: `attention.py`, `mlp.py`."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import structlog
import torch
import torch.nn.functional as F
from torch import Tensor

from model_server.model.config import ModelConfig
from model_server.model.piece import Piece, Reach
from model_server.model.served.compiled.build import CannotCompile, library
from model_server.model.state import AttendedRows, ConvolutionRows

LANES = 16
"""What widths are multiples of."""
MOST_ROWS = 8
"""Of a block, or more."""

SIZE, NUMBER, AT = ctypes.c_long, ctypes.c_float, ctypes.c_void_p

log = structlog.get_logger()


class _Gated(ctypes.Structure):
    _fields_ = [("width", SIZE), ("gate_up", AT), ("down", AT)]


class _Sizes(ctypes.Structure):
    _fields_ = [
        (name, SIZE) for name in ("longest", "heads", "kv_heads", "width", "profiles", "first", "places")
    ]


_ARGUMENTS: dict[str, tuple[type, ...]] = {
    "normed": (SIZE, SIZE, NUMBER, AT, AT),
    "product": (*[SIZE] * 3, *[AT] * 4),
    "route": (*[SIZE] * 5, NUMBER, *[AT] * 4),
    "dense": (SIZE, SIZE, *[AT] * 4),
    "mixture": (*[SIZE] * 5, *[AT] * 6),
    "convolved": (*[SIZE] * 4, AT, AT, SIZE, *[AT] * 6),
    "keep": (*[SIZE] * 6, NUMBER, *[AT] * 7),
    "attend": (SIZE, AT, AT, SIZE, SIZE, AT, NUMBER, AT, SIZE, *[AT] * 7),
    "mlp_floats": (SIZE, SIZE),
    "workspace_floats": (AT,),
}


class Ops:
    """Bound to a library."""

    def __init__(self, made: ctypes.CDLL) -> None:
        for name, arguments in _ARGUMENTS.items():
            function = getattr(made, name)
            function.argtypes, function.restype = arguments, SIZE if name.endswith("_floats") else None
        self._made = made

    def normed(self, x_ND: Tensor, eps: float) -> Tensor:
        """Each row divided by its root mean square."""
        out = torch.empty_like(x_ND)
        self._made.normed(*x_ND.shape, eps, _at(x_ND), _at(out))
        return out

    def product(self, x_ND: Tensor, matrix_DC: Tensor) -> Tensor:
        """[N, C]; the matrix is `lined_up`."""
        (count, depth), width = x_ND.shape, matrix_DC.shape[1]
        out, memory = x_ND.new_empty(count, width), x_ND.new_empty(MOST_ROWS * (depth + width))
        self._made.product(count, depth, width, _at(matrix_DC), _at(x_ND), _at(memory), _at(out))
        return out

    def route(
        self, logits_NC: Tensor, balance_E: Tensor, choices: int, shared: int, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Of each row which experts, int64 [N, K + S], and their weights: shared ones follow the E routed ones."""
        count, row = logits_NC.shape
        chosen = torch.empty(count, choices + shared, dtype=torch.int64)
        weights = torch.empty(count, choices + shared)
        self._made.route(
            *(count, len(balance_E), choices, shared, row, scale),
            *(_at(balance_E), _at(logits_NC), _at(chosen), _at(weights)),
        )
        return chosen, weights

    def convolved(
        self, taps_KC: Tensor, y_BTC: Tensor, x_BTC: Tensor | None, piece: Piece, state: ConvolutionRows
    ) -> Tensor:
        """x plus the convolution of y, whose rows may lie apart; the state moves on."""
        batch, count, channels = y_BTC.shape
        assert y_BTC.stride(0) == count * y_BTC.stride(1) and y_BTC.stride(2) == 1, y_BTC.stride()
        kept = state.rows.shape[1]
        state.of_pass = y_BTC.new_empty(batch, kept + count, channels)
        out = y_BTC.new_empty(batch, count, channels)
        self._made.convolved(
            *(batch, count, channels, kept, _at(taps_KC), y_BTC.data_ptr(), y_BTC.stride(1), _at(x_BTC)),
            *(_at(piece.rows_B), _at(piece.counts_B), _at(state.rows), _at(state.of_pass), _at(out)),
        )
        return out

    def keep(
        self, kv_BTC: Tensor, scale_D: Tensor, eps: float, piece: Piece, reach: Reach, state: AttendedRows
    ) -> None:
        """Keys, which are normalised and scaled, and values, to their places."""
        batch, count, _ = kv_BTC.shape
        _, heads, places, width = state.values.shape
        self._made.keep(
            *(batch, count, heads, width, reach.places.first, places, eps, _at(scale_D), _at(kv_BTC)),
            *(_at(piece.rows_B), _at(piece.positions_BT), _at(piece.counts_B)),
            *(_at(state.keys.mT), _at(state.values)),
        )

    def attend(
        self,
        inputs_NC: Tensor,
        rho_at: int,
        heads: int,
        profiles: Tensor,
        tau_BT: Tensor | None,
        eps: float,
        piece: Piece,
        reach: Reach,
        state: AttendedRows,
    ) -> Tensor:
        """Heads [N, H * D] of rows that begin with queries and have rho at that column; profiles by column."""
        batch, count = piece.positions_BT.shape
        _, kv_heads, places, width = state.values.shape
        sizes = ctypes.byref(_Sizes(count, heads, kv_heads, width, len(profiles), reach.places.first, places))
        memory = inputs_NC.new_empty(self._made.workspace_floats(sizes))
        out = inputs_NC.new_empty(len(inputs_NC), heads * width)
        self._made.attend(
            *(batch, sizes, _at(inputs_NC), inputs_NC.shape[1], rho_at, _at(tau_BT), eps),
            *(_at(profiles), profiles.shape[1], _at(reach.starts_B), _at(reach.first_BTF)),
            *(_at(piece.rows_B), _at(state.keys.mT), _at(state.values), _at(memory), _at(out)),
        )
        return out

    def mlps(self, weights: Sequence[tuple[Tensor, Tensor] | None]) -> Mlps:
        """Of each gate and up [2f, d], the gate's rows first, and down [d, f]; None: it is elsewhere."""
        return Mlps(self._made, weights)


class Mlps:
    """Gated MLPs whose weights lie as the library reads them."""

    def __init__(self, made: ctypes.CDLL, weights: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        """See `Ops.mlps`."""
        self._made = made
        self._kept = [
            None if each is None else (lined_up(each[0].t()), lined_up(each[1].t())) for each in weights
        ]
        rows = [(0, None, None) if w is None else (len(w[1]), _at(w[0]), _at(w[1])) for w in self._kept]
        self._table = (_Gated * len(rows))(*(_Gated(*row) for row in rows))
        self._widest = max(width for width, _, _ in rows)

    def dense(self, x_ND: Tensor) -> Tensor:
        """[N, d] through the only one."""
        out, memory = torch.empty_like(x_ND), self._memory(x_ND)
        self._made.dense(*x_ND.shape, self._table, _at(x_ND), _at(memory), _at(out))
        return out

    def mixture(self, x_ND: Tensor, chosen_NK: Tensor, weights_NK: Tensor) -> Tensor:
        """[N, d] through those that are chosen, weighted."""
        out, memory = torch.empty_like(x_ND), self._memory(x_ND)
        self._made.mixture(
            *(*x_ND.shape, len(self._table), chosen_NK.shape[1], self._widest, self._table),
            *(_at(chosen_NK), _at(weights_NK), _at(x_ND), _at(memory), _at(out)),
        )
        return out

    def _memory(self, x_ND: Tensor) -> Tensor:
        return x_ND.new_empty(self._made.mlp_floats(x_ND.shape[1], self._widest))


@functools.cache
def ops() -> Ops | None:
    """None, which is logged, where they cannot be compiled."""
    try:
        return Ops(library())
    except CannotCompile as why:
        log.info("layers in torch, which takes more time: they cannot be compiled", reason=str(why))
        return None


def fits(config: ModelConfig) -> bool:
    """Whether widths are whole numbers of lanes; those of the MLPs of each of two ranks, too."""
    widths = (config.head_dim, config.hidden, config.dense_width // 2, config.expert_width // 2)
    return not any(width % LANES for width in widths)


def lined_up(matrix_DC: Tensor) -> Tensor:
    """Contiguous float32, with columns of zeros to a whole number of lanes."""
    return F.pad(matrix_DC.float(), (0, -matrix_DC.shape[1] % LANES)).contiguous()


def _at(tensor: Any) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous(), tensor.stride()
    return int(tensor.data_ptr())
