"""Ranks that meet in a process group of torch: those with a GPU each, and CPU ranks that are told to (gloo).

Nothing listens beyond this machine: they meet at a file in memory, which they inherit, and talk over the loopback
interface until they see each other's memory. Not run on several GPUs yet.
"""

from __future__ import annotations

import datetime
import os

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from model_server.ranks.memory import RankMemory
from turn_kernels.all_reduce import Collective, Hardware, Way
from turn_kernels.all_reduce.reference import ByGroup
from turn_kernels.all_reduce.symmetric import Symmetric, hardware_of

MEET_PATIENCE = datetime.timedelta(seconds=120)
MESSAGE_BYTES = 2**21
"""Of the memory of one sum: 128 calls of 8 positions of 1,024 bfloat16. What is larger goes in pieces."""
LOOPBACK = "lo"


class Group:
    """All ranks of one model. Collective: every rank makes one, and asks for the same ways in the same order."""

    def __init__(self, memory: RankMemory, device: torch.device) -> None:
        """Returns when all have come; what torch raises where they do not within `MEET_PATIENCE`."""
        self._device = device
        has_gpu = device.type == "cuda"
        for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
            os.putenv(name, LOOPBACK)  # they ask the environment alone
        dist.init_process_group(
            "nccl" if has_gpu else "gloo",
            store=FileStore(f"/proc/self/fd/{memory.meeting}", memory.ranks),
            rank=memory.rank,
            world_size=memory.ranks,
            timeout=MEET_PATIENCE,
            device_id=device if has_gpu else None,
        )
        group = dist.group.WORLD
        assert group is not None
        self._group = group
        self.hardware = hardware_of(group, device) if has_gpu else Hardware("cpu", one_machine=True)
        self._made: dict[Way, Collective] = {}

    def close(self) -> None:
        """Leave it; the others end with us."""
        self._made.clear()
        dist.destroy_process_group(self._group)

    def way(self, way: Way) -> Collective:
        """Set up for this rank, once."""
        if way not in self._made:
            by_group = way in (Way.NCCL, Way.GLOO)
            self._made[way] = (
                ByGroup(self._group) if by_group else Symmetric(self._group, way, MESSAGE_BYTES, self._device)
            )
        return self._made[way]
