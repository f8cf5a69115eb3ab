"""All-reduce, residual and RMSNorm in plain torch, over any process group.

Rounds where the switch rounds: the sum over ranks is taken in float32 and rounded once to the dtype of the rows.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def all_reduce_norm(
    x_ND: Tensor, residual_ND: Tensor, weight_D: Tensor, eps: float, group: dist.ProcessGroup | None
) -> Tensor:
    """As `turn_kernels.all_reduce_norm.all_reduce_norm`; `group` None is a team of one."""
    total = x_ND.float()
    if group is not None:
        dist.all_reduce(total, group=group)
    return add_norm(total.to(x_ND.dtype), residual_ND, weight_D, eps)


def add_norm(x_ND: Tensor, residual_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Adds x to the residual, in place, and gives the norm of that: `model_server/model/norm.py`."""
    residual_ND += x_ND
    normed = F.rms_norm(residual_ND.float(), weight_D.shape, eps=eps).to(x_ND.dtype)
    return weight_D * normed


def sum_of_ranks(rows: list[Tensor]) -> Tensor:
    """What an all-reduce gives, in float32 in the order of the ranks, rounded once."""
    total = torch.zeros_like(rows[0], dtype=torch.float32)
    for each in rows:
        total += each.float()
    return total.to(rows[0].dtype)
