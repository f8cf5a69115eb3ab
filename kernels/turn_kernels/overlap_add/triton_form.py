"""Overlap-add in Triton: a program makes some samples of one call, each from the pieces that cover it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from turn_kernels.builds import Build
from turn_kernels.overlap_add.reference import FULL_SCALE

_SAMPLES = 512


@triton.jit
def overlap_add_kernel(
    pieces,
    tail,
    out,
    next_tail,
    out_stride,
    subframes,
    N: tl.constexpr,
    HOP: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    call = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    cut = subframes * HOP
    total = tl.load(tail + call * (N - HOP) + i, mask=i < N - HOP, other=0.0)
    for back in tl.static_range(N // HOP):
        subframe = i // HOP - (N // HOP - 1 - back)  # the oldest that covers it first
        seen = (subframe >= 0) & (subframe < subframes)
        at = (call * subframes + subframe) * N + i - subframe * HOP
        piece = tl.load(pieces + at, mask=seen, other=0.0)
        total = tl.where(seen, total + piece, total)
    loud = tl.minimum(tl.maximum(total * SCALE, -32768.0), 32767.0)
    # To the nearest whole number, ties to even: beyond 2^23 a float32 has no others.
    whole = (loud + 12582912.0) - 12582912.0
    tl.store(out + call * out_stride + i, whole.to(tl.int16), mask=i < cut)
    kept = (i >= cut) & (i < cut + N - HOP)
    tl.store(next_tail + call * (N - HOP) + i - cut, total, mask=kept)


def overlap_add(pieces_BSN: Tensor, tail_BH: Tensor, out_BP: Tensor) -> tuple[Tensor, Tensor]:
    """As `turn_kernels.overlap_add.overlap_add`, which has checked the arguments."""
    calls, subframes, samples = pieces_BSN.shape
    hop = samples - tail_BH.shape[1]
    next_tail = torch.empty_like(tail_BH)
    programs = (calls, triton.cdiv(subframes * hop + samples - hop, _SAMPLES))
    if calls and programs[1]:
        overlap_add_kernel[programs](
            pieces_BSN,
            tail_BH,
            out_BP,
            next_tail,
            out_BP.stride(0),
            subframes,
            N=samples,
            HOP=hop,
            SCALE=FULL_SCALE,
            BLOCK=_SAMPLES,
        )
    return out_BP, next_tail


BUILDS = (
    Build(
        "overlap_add of the vocoder",
        overlap_add_kernel,
        {
            **dict.fromkeys(("pieces", "tail", "next_tail"), "*fp32"),
            "out": "*i16",
            "out_stride": "i32",
            "subframes": "i32",
        },
        {"N": 800, "HOP": 200, "SCALE": FULL_SCALE, "BLOCK": _SAMPLES},
    ),
)
