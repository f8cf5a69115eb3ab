"""One layer of the trunk for inference on a CPU; of a rank's trunk, with the sum over ranks behind each branch."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from model_server.model.layer import Layer
from model_server.model.mlp import DenseMLP, Experts
from model_server.model.piece import Piece
from model_server.model.served.attention import ServedAttention
from model_server.model.served.compiled.mlp import CompiledDenseMLP, CompiledExperts
from model_server.model.served.compiled.ops import Ops, fits, ops
from model_server.model.served.convolution import ServedConvolution
from model_server.model.served.mlp import ServedDenseMLP, ServedExperts
from model_server.model.served.products import inverse_rms, product_dtype
from model_server.model.state import LayerState
from model_server.model.trunk import Trunk

_Mlp = ServedDenseMLP | ServedExperts | CompiledDenseMLP | CompiledExperts


class ServedLayer(nn.Module):
    """`Layer.append`, with weights of its own in the form that they are used in."""

    @torch.no_grad()
    def __init__(
        self, plain: Layer, dtype: torch.dtype, add: Callable[[Tensor], Tensor] | None, ops: Ops | None
    ) -> None:
        """`add`: see `serve`. `ops`: None is torch."""
        super().__init__()
        self._add, self._ops = add, ops
        self._eps, self._dtype = plain.attention_norm.eps, dtype
        self._attention = ServedAttention(plain.attention, plain.attention_norm.weight, dtype, ops)
        self._attention_convolution = ServedConvolution(plain.attention_convolution, ops)
        self._mlp = _mlp(plain.mlp, plain.mlp_norm.weight.float(), dtype, ops)
        self._mlp_convolution = ServedConvolution(plain.mlp_convolution, ops)

    def append(self, x_BTD: Tensor, piece: Piece, state: LayerState) -> Tensor:
        """New positions of the piece's calls."""
        branch = self._added(self._attention.append(self._normed(x_BTD).to(self._dtype), piece, state))
        x_BTD = self._attention_convolution.onto(x_BTD, branch.view(x_BTD.shape), piece, state.attention_rows)
        branch = self._added(self._mlp(self._normed(x_BTD)))
        return self._mlp_convolution.onto(x_BTD, branch.view(x_BTD.shape), piece, state.mlp_rows)

    def warm(self, rows: int) -> None:
        """Meet all numbers of rows up to this one."""
        self._attention.warm(rows)
        self._mlp.warm(rows)

    def _added(self, branch_ND: Tensor) -> Tensor:
        return branch_ND if self._add is None else self._add(branch_ND)

    def _normed(self, x_BTD: Tensor) -> Tensor:
        """float32 [N, d], without the norm's weight."""
        if self._ops is not None:
            return self._ops.normed(x_BTD.flatten(0, 1).contiguous(), self._eps)
        return (x_BTD * inverse_rms(x_BTD, self._eps)).flatten(0, 1)


def _mlp(plain: DenseMLP | Experts, norm_weight: Tensor, dtype: torch.dtype, ops: Ops | None) -> _Mlp:
    if ops is not None and dtype is torch.float32:
        if isinstance(plain, DenseMLP):
            return CompiledDenseMLP(plain, norm_weight, ops)
        return CompiledExperts(plain, norm_weight, ops)
    if isinstance(plain, DenseMLP):
        return ServedDenseMLP(plain, norm_weight, dtype)
    return ServedExperts(plain, norm_weight, dtype)


def warm(trunk: Trunk, rows: int) -> None:
    """Have all code made that passes of up to so many rows need, before a call waits for it."""
    for layer in trunk.layers:
        if isinstance(layer, ServedLayer):
            layer.warm(rows)


def serve(
    trunk: Trunk,
    dtype: torch.dtype | None = None,
    add: Callable[[Tensor], Tensor] | None = None,
    *,
    compiled: bool = True,
) -> None:
    """Put layers for inference in place of the trunk's own; None: products in what this CPU is fastest in.

    `add`: for the trunk of one rank, the sum over all ranks of a tensor that it may overwrite. `compiled` False:
    what lies between products is computed in torch, as where there is no compiler.
    """
    chosen = ops() if compiled and fits(cast("Layer", trunk.layers[0]).attention.config) else None
    trunk.keys_by_channel = chosen is not None
    for place, layer in enumerate(trunk.layers):
        trunk.layers[place] = ServedLayer(cast("Layer", layer), dtype or product_dtype(), add, chosen)
