"""Sum over ranks, onto the residual, and the norm of that: what stands between two layers of a sharded trunk.

    residual += sum over ranks of x            rounded to bfloat16 after the sum and after the addition
    out       = weight * cast(residual / sqrt(mean(residual^2) + eps))

The trunk has a short convolution between the sum and the residual. It is linear, so each rank convolves its own
part, with the last rows of its own part for a state, and hands the result to this.

Forms: `multimem`, where the switch adds (NVLink SHARP, from Hopper on); `peer`, where each rank reads all others,
which runs interpreted too; the reference, over any process group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from turn_kernels.all_reduce_norm import reference
from turn_kernels.all_reduce_norm.team import Layout, Team, team_in_slab, team_of_gpus
from turn_kernels.forms import Form, expect, interpreted, require_triton

__all__ = ["Layout", "Team", "all_reduce_norm", "best_form", "team_in_slab", "team_of_gpus"]


def best_form(team: Team) -> Form:
    """The fastest form that this team's memory allows; ask once, at start, and say it."""
    if team.bases.device.type == "cpu":
        return Form.REFERENCE
    require_triton()
    return Form.MULTIMEM if team.multicast else Form.PEER


def all_reduce_norm(
    x_ND: Tensor, residual_ND: Tensor, weight_D: Tensor, eps: float, team: Team, form: Form | None = None
) -> Tensor:
    """bfloat16 [N, D], [N, D], [D] to the normed rows [N, D]; the residual is updated in place.

    Collective: every rank calls it with the same N, weight and form, in the same order. N is at most the team's
    rows; without rows nothing happens. A rank that is gone leaves the others waiting: whoever watches ranks ends
    them all. `ValueError` for what does not fit.
    """
    form = form or best_form(team)
    _check(x_ND, residual_ND, weight_D, team, form)
    if not len(x_ND):
        return torch.empty_like(x_ND)
    if form is Form.REFERENCE:
        return reference.all_reduce_norm(x_ND, residual_ND, weight_D, eps, team.group)
    from turn_kernels.all_reduce_norm import triton_form

    return triton_form.all_reduce_norm(x_ND, residual_ND, weight_D, eps, team, form is Form.MULTIMEM)


def _check(x_ND: Tensor, residual_ND: Tensor, weight_D: Tensor, team: Team, form: Form) -> None:
    width = team.layout.width
    expect(x_ND, "x", (None, width), torch.bfloat16)
    expect(residual_ND, "residual", tuple(x_ND.shape), torch.bfloat16)
    expect(weight_D, "weight", (width,), torch.bfloat16)
    if len(x_ND) > team.layout.rows:
        raise ValueError(f"{len(x_ND)} rows: the team's memory was made for {team.layout.rows}")
    if form is Form.TRITON:
        raise ValueError("form = 'triton': a collective has 'multimem', 'peer' and 'reference'")
    if form is Form.MULTIMEM and not team.multicast:
        raise ValueError("form = 'multimem': this team has no multicast address; 'peer' needs none")
    if form is Form.PEER and x_ND.device.type == "cpu" and not interpreted():
        raise ValueError("form = 'peer' on the CPU: set TRITON_INTERPRET=1 before triton is imported")
    if form is Form.REFERENCE and team.group is None and team.layout.world > 1:
        raise ValueError("form = 'reference': this team was made without a process group")
