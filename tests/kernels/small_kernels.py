"""Kernels of one line, around helpers that are only parts of kernels."""

from __future__ import annotations

import triton
import triton.language as tl

from turn_kernels.all_reduce_norm.triton_form import unpacked
from turn_kernels.rounding import rounded


@triton.jit
def store_rounded(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, rounded(tl.load(x + i), out.dtype.element_ty))


@triton.jit
def unpack_words(words, out, UNITS: tl.constexpr):
    unit = tl.arange(0, UNITS) * 4
    a = tl.load(words + unit).to(tl.uint32, bitcast=True)
    b = tl.load(words + unit + 1).to(tl.uint32, bitcast=True)
    c = tl.load(words + unit + 2).to(tl.uint32, bitcast=True)
    d = tl.load(words + unit + 3).to(tl.uint32, bitcast=True)
    tl.store(out + tl.arange(0, UNITS * 8), unpacked(a, b, c, d, UNITS * 8))
