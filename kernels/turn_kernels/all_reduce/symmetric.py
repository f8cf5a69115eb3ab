"""Ranks with a GPU each, on one machine: torch's symmetric memory, by the switch or from peer to peer.

Has not run on several GPUs yet; the schemas of the operators that it calls are held by a test.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from turn_kernels.all_reduce import DTYPES, Hardware, Way, check


class Symmetric:
    """One way of `MULTIMEM`, `ONE_SHOT`, `TWO_SHOT`, with memory for one message at a time."""

    def __init__(self, group: dist.ProcessGroup, way: Way, message_bytes: int, device: torch.device) -> None:
        """Collective. `message_bytes` at most in one call."""
        self._way, self._name, self._ranks = way, group.group_name, group.size()
        self._buffers = {dtype: _shared(group, message_bytes, dtype, device)[0] for dtype in DTYPES}
        self._gathered = {
            dtype: _shared(group, message_bytes * group.size(), dtype, device)[0] for dtype in DTYPES
        }

    def all_reduce(self, x: Tensor) -> Tensor:
        """As `Collective.all_reduce`."""
        shared = self._put(x)
        ops = torch.ops.symm_mem
        if self._way is Way.MULTIMEM:
            total = ops.multimem_all_reduce_(shared, "sum", self._name)
        elif self._way is Way.ONE_SHOT:
            total = ops.one_shot_all_reduce(shared, "sum", self._name)
        else:
            total = ops.two_shot_all_reduce_(shared, "sum", self._name)
        return x.view(-1).copy_(total).view(x.shape)

    def all_gather(self, x: Tensor) -> Tensor:
        """As `Collective.all_gather`; by the switch only."""
        out = self._gathered[x.dtype][: self._ranks * x.numel()]
        torch.ops.symm_mem.multimem_all_gather_out(self._put(x), self._name, out)
        return out.view(self._ranks, *x.shape).clone()

    def _put(self, x: Tensor) -> Tensor:
        check(x)
        shared = self._buffers[x.dtype][: x.numel()]
        return shared.copy_(x.view(-1))


def hardware_of(group: dist.ProcessGroup, device: torch.device) -> Hardware:
    """What these ranks have. Collective."""
    _, handle = _shared(group, 4096, torch.float32, device)
    peers = all(
        torch.cuda.can_device_access_peer(device, other)
        for other in range(torch.cuda.device_count())
        if other != device.index
    )
    return Hardware("cuda", True, peers, bool(handle.multicast_ptr))


def _shared(
    group: dist.ProcessGroup, size_bytes: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Any]:
    import torch.distributed._symmetric_memory as symmetric

    memory: Tensor = symmetric.empty(size_bytes // dtype.itemsize, dtype=dtype, device=device)
    return memory, symmetric.rendezvous(memory, group)
