"""Matrices times rows for inference on a CPU.

Whether a product is faster in bfloat16 or in float32 depends on the CPU and on nothing that it says of itself: of
two with AVX512-BF16 one took half the time (200 against 90 GF/s), one nearly twice (80 against 140). So both are
timed; sums are float32 all the same. oneDNN computes SiLU, or a product with another tensor, on the sums before
they are rounded. torch keeps these operations for its own compiler (`torch.ops.mkldnn`, torch 2.13); without them,
and in float32, the same goes in steps.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model_server.model.served.compiled.ops import Ops, lined_up

FUSED = "_linear_pointwise"
"""Of `torch.ops.mkldnn`."""


_STEPS = 4
"""Buckets from one power of two to the next: a fifth is padded at most, a tenth on average."""
_LEAST = 8
_TIMED_ROWS, _TIMED_WIDTH, _TIMES = 128, 384, 8
_CLEARLY = 0.8
"""Of the time in float32: what bfloat16 may take to be worth its rounding."""


def bucket(rows: int) -> int:
    """So many rows or a few more, which products are given: oneDNN makes code anew for each number of rows that it
    has not met, which takes tens of ms."""
    power = max(rows - 1, 1).bit_length() - 1
    step = max(_LEAST, (1 << power) // _STEPS)
    return -(-rows // step) * step


def buckets(rows: int) -> Iterator[int]:
    """All, up to that of so many rows."""
    found = _LEAST
    while found < bucket(rows):
        yield found
        found = bucket(found + 1)
    yield found


def filled_up(x_ND: Tensor) -> Tensor:
    """With rows of zeros, to the size of a bucket; as it is in float32, whose products are not oneDNN's."""
    rows = bucket(len(x_ND)) if x_ND.dtype is torch.bfloat16 else len(x_ND)
    return x_ND if rows == len(x_ND) else F.pad(x_ND, (0, 0, 0, rows - len(x_ND)))


class Matrix:
    """A weight [out, in]; times rows of its dtype it gives rows."""

    def __init__(self, weight: Tensor, dtype: torch.dtype, ops: Ops | None) -> None:
        """`ops`: what is float32 is multiplied by them."""
        self.weight, self._ops = weight.to(dtype), ops if dtype is torch.float32 else None
        if self._ops is not None:
            self.weight = lined_up(self.weight.t())

    def warm(self, rows: int) -> None:
        """Meet all numbers of rows up to this one."""
        for count in buckets(rows) if self._ops is None else ():
            self(self.weight.new_zeros(count, self.weight.shape[1]))

    def __call__(self, x_ND: Tensor) -> Tensor:
        """[N, in] -> [N, out]; there may be columns of zeros behind them."""
        if self._ops is not None:
            return self._ops.product(x_ND, self.weight)
        return F.linear(filled_up(x_ND), self.weight)[: len(x_ND)]


@functools.cache
def product_dtype() -> torch.dtype:
    """What products are computed in on this CPU: bfloat16 where that is clearly faster. Takes some 10 ms, once."""
    if not torch.cpu._is_avx512_bf16_supported():
        return torch.float32
    halved, exact = (_fastest_ns(dtype) for dtype in (torch.bfloat16, torch.float32))
    return torch.bfloat16 if halved < _CLEARLY * exact else torch.float32


def dtype_of(name: str) -> torch.dtype:
    """`bfloat16`, `float32`, or `auto`: what this CPU is fastest in."""
    named = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    return product_dtype() if name == "auto" else named[name]


@torch.inference_mode()
def _fastest_ns(dtype: torch.dtype) -> int:
    weight, x = (
        torch.ones(_TIMED_WIDTH, _TIMED_WIDTH, dtype=dtype),
        torch.ones(_TIMED_ROWS, _TIMED_WIDTH, dtype=dtype),
    )
    taken = []
    for _ in range(_TIMES):
        begun_ns = time.thread_time_ns()
        F.linear(x, weight)
        taken.append(time.thread_time_ns() - begun_ns)
    return min(taken[1:])


def is_fused(dtype: torch.dtype) -> bool:
    """Whether oneDNN's fused products are here, and pay."""
    return dtype is torch.bfloat16 and hasattr(torch.ops.mkldnn, FUSED)


class Gated:
    """`down (SiLU(gate x) * up x)`: weights gate_up [2f, d] with the gate's rows first, down [d, f]."""

    def __init__(self, gate_up: Tensor, down: Tensor, dtype: torch.dtype) -> None:
        self.gate, self.up = (part.to(dtype).contiguous() for part in gate_up.chunk(2))
        self.down = down.to(dtype).contiguous()

    def warm(self, rows: int) -> None:
        """Meet all numbers of rows up to this one."""
        for count in buckets(rows):
            self(self.gate.new_zeros(count, self.gate.shape[1]))

    def __call__(self, x_ND: Tensor) -> Tensor:
        """[N, d] -> [N, d] in the dtype of the weights, which is that of x."""
        return F.linear(_inner(filled_up(x_ND), self.gate, self.up), self.down)[: len(x_ND)]


class AllExperts:
    """X of them at once, each with a weight for each row: the sum of what they give."""

    def __init__(self, experts: Sequence[Gated]) -> None:
        self._gate, self._up = (torch.cat(of) for of in zip(*((e.gate, e.up) for e in experts), strict=True))
        self._down = torch.cat([expert.down for expert in experts], 1)
        widths = torch.tensor([expert.gate.shape[0] for expert in experts])
        self._expert_of = torch.arange(len(experts)).repeat_interleave(widths)
        """Of each column between the products: the widths may differ."""

    def warm(self, rows: int) -> None:
        """Meet all numbers of rows up to this one."""
        for count in buckets(rows):
            self(self._gate.new_zeros(count, self._gate.shape[1]), torch.zeros(count, self._gate.shape[0]))

    def __call__(self, x_ND: Tensor, weights_NX: Tensor) -> Tensor:
        """[N, d] -> [N, d] in the dtype of the experts, which is that of x."""
        inner = _inner(filled_up(x_ND), self._gate, self._up)
        inner[: len(x_ND)].mul_(weights_NX.index_select(1, self._expert_of))
        return F.linear(inner, self._down)[: len(x_ND)]


def _inner(x_ND: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """`SiLU(gate x) * up x`."""
    if not is_fused(x_ND.dtype):
        return F.silu(F.linear(x_ND, gate), inplace=True).mul_(F.linear(x_ND, up))
    fused = torch.ops.mkldnn._linear_pointwise
    gated = fused(x_ND, gate, None, "swish", [], "")
    inner: Tensor = fused.binary(x_ND, gated, up, None, "mul")
    return inner


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """`1 / sqrt(mean(x^2) + eps)` over the last dimension, which is kept with length 1; x is float32."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
