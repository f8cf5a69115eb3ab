"""One Euler step from noise towards acoustic vectors: a network of 14 small products, in one launch.

    x' = x + (head(x, given) - x) / remaining          given = SiLU(condition + time)

The condition's row is the same in all steps of a turn and the time's row the same for all calls, so both are
computed once and come in as rows. The network is `model_server/model/flow_head.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from turn_kernels.flow_head_step import reference
from turn_kernels.flow_head_step.weights import FlowWeights, weights_of
from turn_kernels.forms import Form, expect, form_for

__all__ = ["FlowWeights", "flow_head_step", "weights_of"]

MAX_WIDTH, MAX_FEATURES = 256, 512
"""Of the Triton form: a tile of 16 rows of each stays in registers."""


def flow_head_step(
    x_NX: Tensor,
    condition_NW: Tensor,
    time_W: Tensor,
    weights: FlowWeights,
    remaining: int,
    form: Form | None = None,
) -> Tensor:
    """float32 x [N, X], condition [N, W], time [W] to the next x; `remaining` steps, this one included.

    The last step (`remaining` 1) ends on the prediction. `ValueError` for what does not fit.
    """
    expect(x_NX, "x", (None, weights.features), torch.float32)
    expect(condition_NW, "condition", (len(x_NX), weights.width), torch.float32)
    expect(time_W, "time", (weights.width,), torch.float32)
    if remaining < 1:
        raise ValueError(f"remaining = {remaining}: expected at least 1, this step")
    form = form or form_for(x_NX.device)
    if form is Form.REFERENCE:
        return reference.flow_head_step(x_NX, condition_NW, time_W, weights, remaining)
    if weights.width > MAX_WIDTH or weights.features > MAX_FEATURES:
        raise ValueError(
            f"width {weights.width}, features {weights.features}: the Triton form holds {MAX_WIDTH} and "
            f"{MAX_FEATURES}; ask for form='reference'"
        )
    from turn_kernels.flow_head_step import triton_form

    return triton_form.flow_head_step(x_NX, condition_NW, time_W, weights, remaining)
