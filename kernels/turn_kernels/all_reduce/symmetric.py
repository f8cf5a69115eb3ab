"""Ranks with a GPU each, on one machine: torch's symmetric memory, by the switch or from peer to peer.

Has not run on several GPUs yet; the schemas of the operators that it calls are held by a test.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from turn_kernels.all_reduce import DTYPES, Hardware, Way, check

GRAIN_BYTES = 16
"""What the switch adds at once: messages are filled up to a multiple of it."""


class Symmetric:
    """One way of `MULTIMEM`, `ONE_SHOT`, `TWO_SHOT`, with memory for one message at a time.

    The operators wait for all ranks before they read and after: the memory is free again when one is done.
    """

    def __init__(self, group: dist.ProcessGroup, way: Way, message_bytes: int, device: torch.device) -> None:
        """Collective. `message_bytes`: of the memory, whole grains; what is larger goes in several calls."""
        if message_bytes < GRAIN_BYTES or message_bytes % GRAIN_BYTES:
            raise ValueError(f"message_bytes = {message_bytes}: expected whole grains of {GRAIN_BYTES} bytes")
        self._way, self._name, self._ranks = way, group.group_name, group.size()
        self._most = message_bytes
        self._buffers = {dtype: _shared(group, message_bytes, dtype, device)[0] for dtype in DTYPES}
        self._gathered = {
            dtype: _shared(group, message_bytes * group.size(), dtype, device)[0] for dtype in DTYPES
        }

    def all_reduce(self, x: Tensor) -> Tensor:
        """As `Collective.all_reduce`."""
        check(x)
        for piece in x.view(-1).split(self._most // x.itemsize):
            piece.copy_(self._sum(self._put(piece))[: len(piece)])
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        """As `Collective.all_gather`; by the switch only."""
        check(x)
        parts = []
        for piece in x.view(-1).split(self._most // x.itemsize):
            shared = self._put(piece)
            out = self._gathered[x.dtype][: self._ranks * len(shared)]
            torch.ops.symm_mem.multimem_all_gather_out(shared, self._name, out)
            parts.append(out.view(self._ranks, -1)[:, : len(piece)].clone())
        return torch.cat(parts, 1).view(self._ranks, *x.shape)

    def _sum(self, shared: Tensor) -> Tensor:
        ops = torch.ops.symm_mem
        if self._way is Way.MULTIMEM:
            total: Tensor = ops.multimem_all_reduce_(shared, "sum", self._name)
        elif self._way is Way.ONE_SHOT:
            total = ops.one_shot_all_reduce(shared, "sum", self._name)
        else:
            total = ops.two_shot_all_reduce_(shared, "sum", self._name)
        return total

    def _put(self, piece: Tensor) -> Tensor:
        """In the memory that all see, filled up to whole grains with what lay there."""
        grain = GRAIN_BYTES // piece.itemsize
        shared = self._buffers[piece.dtype][: -(-len(piece) // grain) * grain]
        shared[: len(piece)].copy_(piece)
        return shared


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

    memory: Tensor = symmetric.empty(size_bytes // dtype.itemsize, dtype=dtype, device=device).zero_()
    return memory, symmetric.rendezvous(memory, group)
