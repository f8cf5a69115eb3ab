"""dMel in Triton, around the library's FFT: frames are cut and windowed in one launch, levels made in another."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from turn_kernels.builds import Build
from turn_kernels.dmel.tables import DmelTables
from turn_kernels.products import multiplied

_SAMPLES = 1024
_FRAMES, _BINS = 16, 16


@triton.jit
def frames_kernel(
    pcm,
    carried,
    window,
    frames,
    per_call,
    scale,
    W: tl.constexpr,
    HOP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    frame = tl.program_id(0).to(tl.int64)
    call, at = frame // per_call, (frame % per_call) * HOP
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    sample = at + i - (W - HOP)
    inside = i < W
    before = tl.load(carried + call * (W - HOP) + at + i, mask=inside & (sample < 0), other=0)
    new = tl.load(pcm + call * per_call * HOP + sample, mask=inside & (sample >= 0), other=0)
    value = (before + new).to(tl.float32) * scale
    tl.store(frames + frame * W + i, value * tl.load(window + i, mask=inside, other=0.0), mask=inside)


@triton.jit
def levels_kernel(
    spectrum,
    filters,
    borders,
    levels,
    N,
    floor,
    BINS: tl.constexpr,
    M: tl.constexpr,
    BORDERS: tl.constexpr,
    R: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
):
    frame = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    m = tl.arange(0, BM)
    total = tl.zeros((R, BM), tl.float32)
    for start in range(0, BINS, BK):
        k = start + tl.arange(0, BK)
        seen = (frame < N)[:, None] & (k < BINS)[None, :]
        at = spectrum + (frame[:, None] * BINS + k[None, :]) * 2
        real = tl.load(at, mask=seen, other=0.0)
        imaginary = tl.load(at + 1, mask=seen, other=0.0)
        magnitude = tl.sqrt(tl.maximum(real * real + imaginary * imaginary, floor))
        inside = (k < BINS)[:, None] & (m < M)[None, :]
        tile = tl.load(filters + k[:, None] * M + m[None, :], mask=inside, other=0.0)
        total = multiplied(magnitude, tile, total, False)
    mel = tl.log2(tl.maximum(total, floor)) * 0.30102999566398120  # log10 2
    level = tl.zeros((R, BM), tl.int32)
    for border in tl.static_range(BORDERS):
        level += (mel > tl.load(borders + border)).to(tl.int32)
    here = (frame < N)[:, None] & (m < M)[None, :]
    tl.store(levels + frame[:, None] * M + m[None, :], level.to(tl.uint8), mask=here)


def dmel(pcm_BS: Tensor, carried_BC: Tensor, tables: DmelTables) -> tuple[Tensor, Tensor]:
    """As `turn_kernels.dmel.dmel`, which has checked the arguments."""
    calls, per_call = len(pcm_BS), pcm_BS.shape[1] // tables.hop
    count, window, channels = calls * per_call, tables.samples, tables.channels
    levels = torch.empty(calls, per_call, channels, dtype=torch.uint8, device=pcm_BS.device)
    frames = torch.empty(count, window, dtype=torch.float32, device=pcm_BS.device)
    frames_kernel[(count, triton.cdiv(window, _SAMPLES))](
        pcm_BS,
        carried_BC,
        tables.window,
        frames,
        per_call,
        1 / tables.full_scale,
        W=window,
        HOP=tables.hop,
        BLOCK=_SAMPLES,
    )
    levels_kernel[(triton.cdiv(count, _FRAMES),)](
        torch.view_as_real(torch.fft.rfft(frames)),
        tables.filters,
        tables.borders,
        levels,
        count,
        tables.floor,
        BINS=window // 2 + 1,
        M=channels,
        BORDERS=len(tables.borders),
        R=_FRAMES,
        BM=max(16, triton.next_power_of_2(channels)),
        BK=_BINS,
    )
    return levels, torch.cat([carried_BC, pcm_BS], 1)[:, pcm_BS.shape[1] :].clone()


BUILDS = (
    Build(
        "frames of dMel",
        frames_kernel,
        {
            **dict.fromkeys(("pcm", "carried"), "*i16"),
            **dict.fromkeys(("window", "frames"), "*fp32"),
            "per_call": "i32",
            "scale": "fp32",
        },
        {"W": 1600, "HOP": 800, "BLOCK": _SAMPLES},
    ),
    Build(
        "levels of dMel",
        levels_kernel,
        {
            **dict.fromkeys(("spectrum", "filters", "borders"), "*fp32"),
            "levels": "*u8",
            "N": "i32",
            "floor": "fp32",
        },
        {"BINS": 801, "M": 80, "BORDERS": 15, "R": _FRAMES, "BM": 128, "BK": _BINS},
        instructions=("mma.sync",),
    ),
)
