"""Rows times a matrix, in Triton, where the rows are in memory and the matrix is too wide for one tile.

Products are in the dtype of the matrix, float32 as three TensorFloat-32 ones; sums are in float32. Interpreted, a
bfloat16 operand is its rounded float32: the arithmetic of the interpreter in bfloat16 is garbage.
"""

from __future__ import annotations

import triton
import triton.language as tl

from turn_kernels.rounding import as_stored


@triton.jit
def multiplied(a, b, total, CORES: tl.constexpr):
    """float32 [R, K] times [K, N] of the matrix's dtype, onto float32 [R, N]. CORES: bfloat16, compiled."""
    if CORES:
        return tl.dot(a.to(tl.bfloat16), b, total)
    else:
        rounded_a = as_stored(a, b.dtype)
        return tl.dot(rounded_a, b.to(tl.float32), total, input_precision="tf32x3")


@triton.jit
def rows_times(
    rows,
    stride,
    r,
    seen_rows,
    weight,
    bias,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    CORES: tl.constexpr,
):
    """float32 rows [R, INPUTS] at `rows + r * stride` to weight [OUTPUTS, INPUTS] @ row + bias, float32 [R, N]."""
    n = tl.arange(0, N)
    total = tl.zeros((R, N), tl.float32)
    for start in range(0, INPUTS, K):
        k = start + tl.arange(0, K)
        at = rows + r[:, None] * stride + k[None, :]
        a = tl.load(at, mask=seen_rows[:, None] & (k < INPUTS)[None, :], other=0.0).to(tl.float32)
        seen = (n < OUTPUTS)[None, :] & (k < INPUTS)[:, None]
        b = tl.load(weight + n[None, :] * INPUTS + k[:, None], mask=seen, other=0.0)
        total = multiplied(a, b, total, CORES)
    return total + tl.load(bias + n, mask=n < OUTPUTS, other=0.0).to(tl.float32)[None, :]
