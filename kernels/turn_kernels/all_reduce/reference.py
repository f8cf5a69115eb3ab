"""Sums and gathers by a process group: gloo, which says what is right, or NCCL."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from turn_kernels.all_reduce import check


class ByGroup:
    """Any process group of torch."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group

    def all_reduce(self, x: Tensor) -> Tensor:
        """As `Collective.all_reduce`."""
        check(x)
        total = x.float()
        dist.all_reduce(total, group=self._group)
        return x if total is x else x.copy_(total)

    def all_gather(self, x: Tensor) -> Tensor:
        """As `Collective.all_gather`."""
        check(x)
        parts = [torch.empty_like(x) for _ in range(self._group.size())]
        dist.all_gather(parts, x, group=self._group)
        return torch.stack(parts)
