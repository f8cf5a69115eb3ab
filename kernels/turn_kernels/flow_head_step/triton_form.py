"""The step in Triton: a program takes 16 rows through the whole network, the weights pass by from the L2 cache.

A tile in registers cannot be cut into the pieces that a product wants, so what is multiplied next goes through a
scratch row that only this program touches; a barrier stands before and after each such store.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from turn_kernels.builds import Build
from turn_kernels.flow_head_step.weights import FlowWeights
from turn_kernels.forms import interpreted
from turn_kernels.products import rows_times

ROWS = 16
_INPUTS_AT_ONCE = 32
_WARPS = 8


@triton.jit
def _put(scratch, r, n, value, W: tl.constexpr):
    tl.debug_barrier()  # nobody reads what was there
    tl.store(scratch + r[:, None] * W + n[None, :], value, mask=(n < W)[None, :])
    tl.debug_barrier()  # everybody sees what is there


@triton.jit
def _normed(x, n, W: tl.constexpr):
    """Layer norm over the first W columns; the others are 0."""
    mean = tl.sum(x, axis=1) / W
    centred = tl.where((n < W)[None, :], x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / W
    return centred / tl.sqrt(variance + 1e-6)[:, None]


@triton.jit
def flow_head_step_kernel(
    x,
    condition,
    time,
    noisy,
    noisy_bias,
    modulations,
    modulation_biases,
    ups,
    up_biases,
    downs,
    down_biases,
    last,
    last_bias,
    clean,
    clean_bias,
    scratch,
    out,
    N,
    remaining,
    X: tl.constexpr,
    W: tl.constexpr,
    BLOCKS: tl.constexpr,
    R: tl.constexpr,
    NW: tl.constexpr,
    NX: tl.constexpr,
    K: tl.constexpr,
    CORES: tl.constexpr,
):
    local = tl.arange(0, R)
    r = tl.program_id(0) * R + local
    seen = r < N
    all_rows = local < R
    n = tl.arange(0, NW)
    given_at = scratch + tl.program_id(0) * 2 * R * W
    inner_at = given_at + R * W
    seen_w = seen[:, None] & (n < W)[None, :]
    given = tl.load(condition + r[:, None] * W + n[None, :], mask=seen_w, other=0.0)
    given += tl.load(time + n, mask=n < W, other=0.0)[None, :]
    _put(given_at, local, n, given * tl.sigmoid(given), W)
    hidden = rows_times(x, X, r, seen, noisy, noisy_bias, X, W, R, NW, K, CORES)
    for block in range(BLOCKS):
        w = modulations + block * 3 * W * W
        b = modulation_biases + block * 3 * W
        shift = rows_times(given_at, W, local, all_rows, w, b, W, W, R, NW, K, CORES)
        scale = rows_times(given_at, W, local, all_rows, w + W * W, b + W, W, W, R, NW, K, CORES)
        _put(inner_at, local, n, _normed(hidden, n, W) * (1 + scale) + shift, W)
        up = rows_times(
            inner_at, W, local, all_rows, ups + block * W * W, up_biases + block * W, W, W, R, NW, K, CORES
        )
        _put(inner_at, local, n, up * tl.sigmoid(up), W)
        down = rows_times(
            inner_at,
            W,
            local,
            all_rows,
            downs + block * W * W,
            down_biases + block * W,
            W,
            W,
            R,
            NW,
            K,
            CORES,
        )
        gate = rows_times(given_at, W, local, all_rows, w + 2 * W * W, b + 2 * W, W, W, R, NW, K, CORES)
        hidden += gate * down
    shift = rows_times(given_at, W, local, all_rows, last, last_bias, W, W, R, NW, K, CORES)
    scale = rows_times(given_at, W, local, all_rows, last + W * W, last_bias + W, W, W, R, NW, K, CORES)
    _put(inner_at, local, n, _normed(hidden, n, W) * (1 + scale) + shift, W)
    target = rows_times(inner_at, W, local, all_rows, clean, clean_bias, W, X, R, NX, K, CORES)
    c = tl.arange(0, NX)
    seen_x = seen[:, None] & (c < X)[None, :]
    at = r[:, None] * X + c[None, :]
    old = tl.load(x + at, mask=seen_x, other=0.0)
    tl.store(out + at, old + (target - old) / remaining, mask=seen_x)


def flow_head_step(
    x_NX: Tensor, condition_NW: Tensor, time_W: Tensor, weights: FlowWeights, remaining: int
) -> Tensor:
    """As `turn_kernels.flow_head_step.flow_head_step`, which has checked the arguments."""
    programs = triton.cdiv(len(x_NX), ROWS)
    out = torch.empty_like(x_NX)
    if not programs:
        return out
    flow_head_step_kernel[(programs,)](
        x_NX,
        condition_NW,
        time_W,
        *(getattr(weights, name) for name in weights.__slots__),
        x_NX.new_empty(programs * 2 * ROWS * weights.width),
        out,
        len(x_NX),
        float(remaining),
        X=weights.features,
        W=weights.width,
        BLOCKS=weights.blocks,
        R=ROWS,
        NW=triton.next_power_of_2(weights.width),
        NX=triton.next_power_of_2(weights.features),
        K=_INPUTS_AT_ONCE,
        CORES=weights.noisy.dtype == torch.bfloat16 and not interpreted(),
        num_warps=_WARPS,
    )
    return out


def _arguments(matrix: str) -> dict[str, str]:
    names = tuple(FlowWeights.__slots__)
    kinds = {name: "*fp32" if name.endswith(("bias", "biases")) else matrix for name in names}
    rows = dict.fromkeys(("x", "condition", "time", "scratch", "out"), "*fp32")
    return {**rows, **kinds, "N": "i32", "remaining": "fp32"}


_SIZES = {"X": 328, "W": 144, "BLOCKS": 3, "R": ROWS, "NW": 256, "NX": 512, "K": _INPUTS_AT_ONCE}
BUILDS = (
    Build(
        "flow_head_step float32, narrow",
        flow_head_step_kernel,
        _arguments("*fp32"),
        {**_SIZES, "X": 41, "W": 37, "NX": 64, "NW": 64, "CORES": False},
        warps=_WARPS,
    ),
    Build(
        "flow_head_step bfloat16",
        flow_head_step_kernel,
        _arguments("*bf16"),
        {**_SIZES, "CORES": True},
        warps=_WARPS,
        instructions=("mma.sync",),
    ),
)
