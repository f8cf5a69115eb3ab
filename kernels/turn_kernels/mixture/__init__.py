"""A mixture of experts for few rows: routing, then one product of a matrix and a row for each expert of a row.

    weights = softmax over chosen and shared of log sigmoid(router x) * scale        the balance only chooses
    out     = sum over chosen and shared of weight * down (SiLU(gate x) * up x)

With few rows nearly every expert has one row at most, and what counts is that each matrix is read once, in one go.
From some tens of rows on experts have several, and rows of one expert are multiplied together (`grouped`).

A rank that holds some of the experts gives their part of the sum: see `MixtureWeights`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from turn_kernels.forms import Form, expect, form_for
from turn_kernels.mixture import reference
from turn_kernels.mixture.weights import MixtureWeights, Route

__all__ = ["FEW_ROWS", "MixtureWeights", "Route", "mixture", "route"]

FEW_ROWS = 32
"""Up to which the Triton form reads an expert once for each of its rows; not measured yet, see `kernels/bench`."""
DTYPES = (torch.float32, torch.bfloat16)


def route(x_ND: Tensor, weights: MixtureWeights, form: Form | None = None) -> Route:
    """Which experts rows [N, d] go to. Of two equal scores the Triton form takes the lower expert."""
    form = _checked(x_ND, weights, form)
    if form is Form.REFERENCE:
        return reference.route(x_ND, weights)
    from turn_kernels.mixture import triton_form

    return triton_form.route(x_ND, weights)


def mixture(x_ND: Tensor, weights: MixtureWeights, form: Form | None = None) -> Tensor:
    """Rows [N, d] to [N, d], in their dtype; `ValueError` for what does not fit."""
    form = _checked(x_ND, weights, form)
    if form is Form.REFERENCE:
        return reference.mixture(x_ND, weights)
    from turn_kernels.mixture import triton_form
    from turn_kernels.mixture.grouped import triton_form as grouped_form

    if len(x_ND) <= FEW_ROWS:
        return triton_form.mixture(x_ND, weights)
    return grouped_form.mixture(x_ND, weights, triton_form.route(x_ND, weights))


def _checked(x_ND: Tensor, weights: MixtureWeights, form: Form | None) -> Form:
    experts, shared, hidden, width = weights.experts, weights.shared, weights.hidden, weights.width
    held, shared_width, dtype = weights.held, weights.shared_width, weights.gate_up.dtype
    if dtype not in DTYPES:
        raise ValueError(f"gate_up is {dtype}: expected one of {DTYPES}")
    if not 1 <= weights.chosen <= experts:
        raise ValueError(f"chosen = {weights.chosen}: expected 1 .. {experts}, the routed experts")
    expect(x_ND, "x", (None, hidden), dtype)
    if not 0 <= weights.first <= experts - held:
        raise ValueError(f"first = {weights.first} with {held} experts here: expected 0 .. {experts - held}")
    expect(weights.router, "router", (experts + shared, hidden), dtype)
    expect(weights.balance, "balance", (experts,), torch.float32)
    expect(weights.gate_up, "gate_up", (held, 2 * width, hidden), dtype)
    expect(weights.down, "down", (held, hidden, width), dtype)
    expect(weights.shared_gate_up, "shared_gate_up", (shared, 2 * shared_width, hidden), dtype)
    expect(weights.shared_down, "shared_down", (shared, hidden, shared_width), dtype)
    return form or form_for(x_ND.device)
