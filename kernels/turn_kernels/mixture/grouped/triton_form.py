"""The mixture for more rows, in Triton: rows sorted by expert, blocks of one expert's rows times its matrices.

A row and one of its experts, routed or shared, are a *pair*. Blocks are laid out on the device, with shapes that
depend on the number of rows alone: nothing waits for the host, and a graph can be captured. A block that no expert
needs ends at once. Each pair writes its own row, and a row's pairs are added in their order: no atomics.

    P = N * J pairs        J = K + S        L + S experts here, the shared ones last; then those that are elsewhere
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from turn_kernels.builds import Build
from turn_kernels.forms import interpreted
from turn_kernels.mixture.weights import MixtureWeights, Route
from turn_kernels.products import multiplied
from turn_kernels.rounding import rounded

_OUTPUTS, _INPUTS = 64, 64
"""Of a tile of a matrix."""
_FEW, _MANY = 16, 64
"""Rows of a block: the fewest that a tensor core takes, and as many as experts have with hundreds of rows."""


@triton.jit
def _gate_up(
    rows_at,
    matrix,
    f,
    seen,
    D: tl.constexpr,
    F: tl.constexpr,
    BM: tl.constexpr,
    BO: tl.constexpr,
    BI: tl.constexpr,
    CORES: tl.constexpr,
):
    """Inner values `f` of some rows, of a matrix of width F."""
    gate = tl.zeros((BM, BO), tl.float32)
    up = tl.zeros((BM, BO), tl.float32)
    for start in range(0, D, BI):
        d = start + tl.arange(0, BI)
        mask = seen[:, None] & (d < D)[None, :]
        rows = tl.load(rows_at[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)
        at = matrix + f[None, :] * D + d[:, None]
        inside = (f < F)[None, :] & (d < D)[:, None]
        gate = multiplied(rows, tl.load(at, mask=inside, other=0.0), gate, CORES)
        up = multiplied(rows, tl.load(at + F * D, mask=inside, other=0.0), up, CORES)
    return gate * tl.sigmoid(gate) * up


@triton.jit
def gate_up_grouped_kernel(
    x,
    pairs_of_block,
    expert_of_block,
    gate_up,
    shared_gate_up,
    inner,
    P,
    D: tl.constexpr,
    F: tl.constexpr,
    G: tl.constexpr,
    L: tl.constexpr,
    S: tl.constexpr,
    J: tl.constexpr,
    BM: tl.constexpr,
    BO: tl.constexpr,
    BI: tl.constexpr,
    CORES: tl.constexpr,
):
    block = tl.program_id(0)
    expert = tl.load(expert_of_block + block).to(tl.int64)
    if expert < L + S:
        pair = tl.load(pairs_of_block + block * BM + tl.arange(0, BM)).to(tl.int64)
        seen = pair < P
        f = tl.program_id(1) * BO + tl.arange(0, BO)
        rows_at = x + (pair // J) * D
        to = inner + pair[:, None] * F + f[None, :]
        if expert < L:
            value = _gate_up(rows_at, gate_up + expert * (2 * F * D), f, seen, D, F, BM, BO, BI, CORES)
            mask = seen[:, None] & (f < F)[None, :]
            tl.store(to, rounded(value, inner.dtype.element_ty), mask=mask)
        else:
            matrix = shared_gate_up + (expert - L) * (2 * G * D)
            value = _gate_up(rows_at, matrix, f, seen, D, G, BM, BO, BI, CORES)
            mask = seen[:, None] & (f < G)[None, :]
            tl.store(to, rounded(value, inner.dtype.element_ty), mask=mask)


@triton.jit
def _down(
    inner_at,
    matrix,
    d,
    seen,
    D: tl.constexpr,
    F: tl.constexpr,
    BM: tl.constexpr,
    BO: tl.constexpr,
    BI: tl.constexpr,
    CORES: tl.constexpr,
):
    """Outputs `d` of some rows of F inner values."""
    total = tl.zeros((BM, BO), tl.float32)
    for start in range(0, F, BI):
        f = start + tl.arange(0, BI)
        mask = seen[:, None] & (f < F)[None, :]
        rows = tl.load(inner_at[:, None] + f[None, :], mask=mask, other=0.0).to(tl.float32)
        inside = (d < D)[None, :] & (f < F)[:, None]
        tile = tl.load(matrix + d[None, :] * F + f[:, None], mask=inside, other=0.0)
        total = multiplied(rows, tile, total, CORES)
    return total


@triton.jit
def down_grouped_kernel(
    inner,
    pairs_of_block,
    expert_of_block,
    weights,
    down,
    shared_down,
    out,
    P,
    D: tl.constexpr,
    F: tl.constexpr,
    G: tl.constexpr,
    L: tl.constexpr,
    S: tl.constexpr,
    BM: tl.constexpr,
    BO: tl.constexpr,
    BI: tl.constexpr,
    CORES: tl.constexpr,
):
    block = tl.program_id(0)
    expert = tl.load(expert_of_block + block).to(tl.int64)
    if expert < L + S:
        pair = tl.load(pairs_of_block + block * BM + tl.arange(0, BM)).to(tl.int64)
        seen = pair < P
        d = tl.program_id(1) * BO + tl.arange(0, BO)
        weight = tl.load(weights + pair, mask=seen, other=0.0)
        at = out + pair[:, None] * D + d[None, :]
        mask = seen[:, None] & (d < D)[None, :]
        if expert < L:
            total = _down(inner + pair * F, down + expert * (D * F), d, seen, D, F, BM, BO, BI, CORES)
            tl.store(at, total * weight[:, None], mask=mask)
        else:
            matrix = shared_down + (expert - L) * (D * G)
            total = _down(inner + pair * F, matrix, d, seen, D, G, BM, BO, BI, CORES)
            tl.store(at, total * weight[:, None], mask=mask)


def blocks_of(experts_P: Tensor, experts: int, rows: int) -> tuple[Tensor, Tensor]:
    """Pairs by their expert, in blocks of so many rows of one expert each.

    int32 [blocks * rows], P where a place is empty; int32 [blocks], `experts` where a block is not needed.
    """
    pairs = len(experts_P)
    blocks = pairs // rows + min(experts, pairs)
    counts = experts_P.new_zeros(experts).scatter_add_(0, experts_P, torch.ones_like(experts_P))
    needed = (counts + rows - 1) // rows
    ends = needed.cumsum(0)
    order = experts_P.argsort(stable=True)
    expert = experts_P[order]
    within = torch.arange(pairs, device=experts_P.device) - (counts.cumsum(0) - counts)[expert]
    pairs_of_block = torch.full((blocks * rows,), pairs, dtype=torch.int32, device=experts_P.device)
    pairs_of_block[(ends - needed)[expert] * rows + within] = order.int()
    numbers = torch.arange(blocks, device=experts_P.device)
    return pairs_of_block, torch.searchsorted(ends, numbers, right=True).int()


def mixture(x_ND: Tensor, weights: MixtureWeights, by_row: Route) -> Tensor:
    """As `turn_kernels.mixture.mixture`, with at least one row."""
    rows, held, shared = len(x_ND), weights.held, weights.shared
    slots, nobody = weights.chosen + shared, held + shared
    experts_NK = by_row.experts_NK.long() - weights.first
    experts_NK = torch.where((experts_NK >= 0) & (experts_NK < held), experts_NK, nobody)
    last = torch.arange(held, nobody, device=x_ND.device).expand(rows, -1)
    experts_P = torch.cat([experts_NK, last], 1).flatten()
    tile = {
        "BM": _FEW if len(experts_P) <= _FEW * weights.experts else _MANY,
        "BO": _OUTPUTS,
        "BI": _INPUTS,
        "CORES": x_ND.dtype == torch.bfloat16 and not interpreted(),
    }
    widths = {"F": weights.width, "G": weights.shared_width}
    sizes = {"D": weights.hidden, **widths, "L": held, "S": shared}
    pairs_of_block, expert_of_block = blocks_of(experts_P, nobody + 1, tile["BM"])
    inner = x_ND.new_empty(len(experts_P), weights.width)
    parts = torch.empty(rows, slots, weights.hidden, dtype=torch.float32, device=x_ND.device)
    if held < weights.experts:
        parts.zero_()  # of pairs that are elsewhere
    gate_up_grouped_kernel[(len(expert_of_block), triton.cdiv(weights.width, _OUTPUTS))](
        x_ND,
        pairs_of_block,
        expert_of_block,
        weights.gate_up,
        weights.shared_gate_up,
        inner,
        len(experts_P),
        **sizes,
        J=slots,
        **tile,
    )
    down_grouped_kernel[(len(expert_of_block), triton.cdiv(weights.hidden, _OUTPUTS))](
        inner,
        pairs_of_block,
        expert_of_block,
        by_row.weights_NJ,
        weights.down,
        weights.shared_down,
        parts,
        len(experts_P),
        **sizes,
        **tile,
    )
    return parts.sum(1).to(x_ND.dtype)


_SMALL_30B = {"D": 2048, "F": 768, "G": 768, "L": 128, "S": 2, "BO": _OUTPUTS, "BI": _INPUTS, "CORES": True}
_TABLES = {**dict.fromkeys(("pairs_of_block", "expert_of_block"), "*i32"), "P": "i32"}
BUILDS = (
    Build(
        "gate_up, grouped, of small-30b-a3b: few rows an expert",
        gate_up_grouped_kernel,
        {**dict.fromkeys(("x", "gate_up", "shared_gate_up", "inner"), "*bf16"), **_TABLES},
        {**_SMALL_30B, "J": 8, "BM": _FEW},
        instructions=("mma.sync",),
    ),
    Build(
        "down, grouped, of small-30b-a3b: many rows an expert",
        down_grouped_kernel,
        {
            **dict.fromkeys(("inner", "down", "shared_down"), "*bf16"),
            **dict.fromkeys(("weights", "out"), "*fp32"),
            **_TABLES,
        },
        {**_SMALL_30B, "BM": _MANY},
    ),
)
