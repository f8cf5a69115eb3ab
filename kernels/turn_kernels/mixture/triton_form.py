"""The mixture for few rows, in Triton, three launches: route, gate and up, down. No atomics: sums have one order.

A row's slots are its K chosen experts, then the S shared ones. A program of the second launch makes some inner
values of one slot, one of the third some outputs of one row over all its slots.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from turn_kernels.builds import Build
from turn_kernels.mixture.grouped.triton_form import BUILDS as GROUPED_BUILDS
from turn_kernels.mixture.weights import MixtureWeights, Route
from turn_kernels.rounding import rounded

_OUTPUTS, _INPUTS = 16, 256
"""Of a tile of a matrix."""
_ROUTE_INPUTS = 32


@triton.jit
def _log_sigmoid(x):
    return tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def route_kernel(
    x,
    router,
    balance,
    experts,
    weights,
    scale,
    D: tl.constexpr,
    E: tl.constexpr,
    S: tl.constexpr,
    K: tl.constexpr,
    ALL: tl.constexpr,
    SLOTS: tl.constexpr,
    BD: tl.constexpr,
):
    row = tl.program_id(0)
    e = tl.arange(0, ALL)
    logits = tl.zeros((ALL,), tl.float32)
    for start in range(0, D, BD):
        d = start + tl.arange(0, BD)
        part = tl.load(x + row * D + d, mask=d < D, other=0.0).to(tl.float32)
        seen = (e < E + S)[:, None] & (d < D)[None, :]
        tile = tl.load(router + e[:, None] * D + d[None, :], mask=seen, other=0.0).to(tl.float32)
        logits += tl.sum(tile * part[None, :], axis=1)
    pull = tl.load(balance + e, mask=e < E, other=0.0)
    scores = tl.where(e < E, tl.sigmoid(logits) + pull, float("-inf"))
    slot = tl.arange(0, SLOTS)
    chosen = tl.full((SLOTS,), float("-inf"), tl.float32)
    for k in range(K):
        best = tl.argmax(scores, axis=0)
        tl.store(experts + row * K + k, best.to(tl.int32))
        value = tl.sum(tl.where(e == best, logits, 0.0), axis=0)
        chosen = tl.where(slot == k, value, chosen)
        scores = tl.where(e == best, float("-inf"), scores)
    for s in range(S):
        value = tl.sum(tl.where(e == E + s, logits, 0.0), axis=0)
        chosen = tl.where(slot == K + s, value, chosen)
    used = slot < K + S
    log_scores = tl.where(used, _log_sigmoid(tl.where(used, chosen, 0.0)), float("-inf"))
    shares = tl.exp(log_scores - tl.max(log_scores, axis=0))
    tl.store(weights + row * (K + S) + slot, shares / tl.sum(shares, axis=0) * scale, mask=used)


@triton.jit
def _gate_up(x, matrix, f, D: tl.constexpr, F: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr):
    """Inner values `f` of a row, of a matrix of width F."""
    gate = tl.zeros((BO,), tl.float32)
    up = tl.zeros((BO,), tl.float32)
    for start in range(0, D, BI):
        d = start + tl.arange(0, BI)
        part = tl.load(x + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
        at = matrix + f[:, None] * D + d[None, :]
        seen = (f < F)[:, None] & (d < D)[None, :]
        gate += tl.sum(tl.load(at, mask=seen, other=0.0).to(tl.float32) * part, axis=1)
        up += tl.sum(tl.load(at + F * D, mask=seen, other=0.0).to(tl.float32) * part, axis=1)
    return gate * tl.sigmoid(gate) * up


@triton.jit
def gate_up_kernel(
    x,
    experts,
    gate_up,
    shared_gate_up,
    inner,
    first,
    D: tl.constexpr,
    F: tl.constexpr,
    G: tl.constexpr,
    L: tl.constexpr,
    S: tl.constexpr,
    K: tl.constexpr,
    BO: tl.constexpr,
    BI: tl.constexpr,
):
    row = tl.program_id(0)
    slot = tl.program_id(1)
    f = tl.program_id(2) * BO + tl.arange(0, BO)
    to = inner + (row * (K + S) + slot) * F + f
    if slot < K:
        expert = tl.load(experts + row * K + slot).to(tl.int64) - first
        if (expert >= 0) & (expert < L):
            value = _gate_up(x + row * D, gate_up + expert * (2 * F * D), f, D, F, BO, BI)
            tl.store(to, rounded(value, inner.dtype.element_ty), mask=f < F)
    else:
        value = _gate_up(x + row * D, shared_gate_up + (slot - K) * (2 * G * D), f, D, G, BO, BI)
        tl.store(to, rounded(value, inner.dtype.element_ty), mask=f < G)


@triton.jit
def _down(inner, matrix, d, D: tl.constexpr, F: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr):
    """Outputs `d` of F inner values."""
    part = tl.zeros((BO,), tl.float32)
    for start in range(0, F, BI):
        f = start + tl.arange(0, BI)
        values = tl.load(inner + f, mask=f < F, other=0.0).to(tl.float32)[None, :]
        seen = (d < D)[:, None] & (f < F)[None, :]
        tile = tl.load(matrix + d[:, None] * F + f[None, :], mask=seen, other=0.0).to(tl.float32)
        part += tl.sum(tile * values, axis=1)
    return part


@triton.jit
def down_kernel(
    inner,
    experts,
    weights,
    down,
    shared_down,
    out,
    first,
    D: tl.constexpr,
    F: tl.constexpr,
    G: tl.constexpr,
    L: tl.constexpr,
    S: tl.constexpr,
    K: tl.constexpr,
    BO: tl.constexpr,
    BI: tl.constexpr,
):
    row = tl.program_id(0)
    d = tl.program_id(1) * BO + tl.arange(0, BO)
    total = tl.zeros((BO,), tl.float32)
    for slot in range(K):
        expert = tl.load(experts + row * K + slot).to(tl.int64) - first
        if (expert >= 0) & (expert < L):
            part = _down(inner + (row * (K + S) + slot) * F, down + expert * (D * F), d, D, F, BO, BI)
            total += part * tl.load(weights + row * (K + S) + slot)
    for shared in range(S):
        slot = K + shared
        part = _down(inner + (row * (K + S) + slot) * F, shared_down + shared * (D * G), d, D, G, BO, BI)
        total += part * tl.load(weights + row * (K + S) + slot)
    tl.store(out + row * D + d, rounded(total, out.dtype.element_ty), mask=d < D)


def route(x_ND: Tensor, weights: MixtureWeights) -> Route:
    """As `turn_kernels.mixture.route`."""
    rows, slots = len(x_ND), weights.chosen + weights.shared
    experts = torch.empty(rows, weights.chosen, dtype=torch.int32, device=x_ND.device)
    shares = torch.empty(rows, slots, dtype=torch.float32, device=x_ND.device)
    if rows:
        route_kernel[(rows,)](
            x_ND,
            weights.router,
            weights.balance,
            experts,
            shares,
            float(weights.scale),
            D=weights.hidden,
            E=weights.experts,
            S=weights.shared,
            K=weights.chosen,
            ALL=triton.next_power_of_2(weights.experts + weights.shared),
            SLOTS=triton.next_power_of_2(slots),
            BD=_ROUTE_INPUTS,
        )
    return Route(experts, shares)


def mixture(x_ND: Tensor, weights: MixtureWeights) -> Tensor:
    """As `turn_kernels.mixture.mixture`."""
    out = torch.empty_like(x_ND)
    rows, slots = len(x_ND), weights.chosen + weights.shared
    if not rows:
        return out
    experts, shares = route(x_ND, weights)
    inner = x_ND.new_empty(rows, slots, weights.width)
    widths = {"F": weights.width, "G": weights.shared_width}
    sizes = {"D": weights.hidden, **widths, "L": weights.held, "S": weights.shared, "K": weights.chosen}
    tile = {"BO": _OUTPUTS, "BI": _INPUTS}
    gate_up_kernel[(rows, slots, triton.cdiv(weights.width, _OUTPUTS))](
        x_ND, experts, weights.gate_up, weights.shared_gate_up, inner, weights.first, **sizes, **tile
    )
    down_kernel[(rows, triton.cdiv(weights.hidden, _OUTPUTS))](
        inner, experts, shares, weights.down, weights.shared_down, out, weights.first, **sizes, **tile
    )
    return out


_SMALL_30B = {"D": 2048, "F": 768, "G": 768, "L": 128, "S": 2, "K": 6}
_TILE = {"BO": _OUTPUTS, "BI": _INPUTS}
_WIDE_LOADS = ("ld.global.v4.b32",)
BUILDS = (
    Build(
        "route, 128 of small-30b-a3b",
        route_kernel,
        {
            **dict.fromkeys(("x", "router"), "*bf16"),
            **dict.fromkeys(("balance", "weights"), "*fp32"),
            "experts": "*i32",
            "scale": "fp32",
        },
        {"D": 2048, "E": 128, "S": 2, "K": 6, "ALL": 256, "SLOTS": 8, "BD": _ROUTE_INPUTS},
    ),
    Build(
        "gate_up of small-30b-a3b",
        gate_up_kernel,
        {
            **dict.fromkeys(("x", "gate_up", "shared_gate_up", "inner"), "*bf16"),
            "experts": "*i32",
            "first": "i32",
        },
        {**_SMALL_30B, **_TILE},
        instructions=_WIDE_LOADS,
    ),
    Build(
        "down of small-30b-a3b",
        down_kernel,
        {
            **dict.fromkeys(("inner", "down", "shared_down", "out"), "*bf16"),
            **{"experts": "*i32", "weights": "*fp32", "first": "i32"},
        },
        {**_SMALL_30B, **_TILE},
        instructions=_WIDE_LOADS,
    ),
    *GROUPED_BUILDS,
)
