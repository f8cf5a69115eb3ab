"""Storing float32 as bfloat16, in Triton.

Under the interpreter a bfloat16 is its 16 bits, and a cast truncates. Here the bits are rounded to nearest even by
hand, so that interpreted and compiled kernels store what torch stores, bit for bit. NaN stays NaN.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def bfloat16_bits(x):
    """float32 to the bits of its bfloat16, uint32 0 .. 65535."""
    bits = x.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(x == x, rounded, 0x7FC0)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """float32 in `dtype`, rounded to nearest even."""
    if dtype == tl.bfloat16:
        return bfloat16_bits(x).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def as_stored(x, dtype: tl.constexpr):
    """float32 as it comes back after being stored in `dtype`."""
    return rounded(x, dtype).to(tl.float32)
