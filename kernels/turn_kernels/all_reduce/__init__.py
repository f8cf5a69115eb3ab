"""Sums and gathers over the ranks of one model: several ways to do the same, one of which is chosen at start.

    multimem       the switch adds (NVLink SHARP, from Hopper on); torch's symmetric memory
    one_shot       every rank reads all the others: least latency, for little
    two_shot       every rank adds one part and reads the others' sums: for more
    nccl, gloo     a process group; gloo is the reference
    shared_memory  ranks without GPUs on one machine: ours, `shared_memory.py`

All ranks call the same, in the same order, with the same shapes; every rank gets the same bits. What is chosen is
said with its reason, and never replaced by something else later: what fails, raises.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Way(enum.StrEnum):
    """How ranks add."""

    MULTIMEM = "multimem"
    ONE_SHOT = "one_shot"
    TWO_SHOT = "two_shot"
    NCCL = "nccl"
    SHARED_MEMORY = "shared_memory"
    GLOO = "gloo"


class Op(enum.StrEnum):
    """What ranks do together."""

    ALL_REDUCE = "all_reduce"
    ALL_GATHER = "all_gather"


ONE_SHOT_LIMIT_BYTES = 1 << 18
"""Published figures, 8 GPUs: one-shot is even with the rest at 256 KB, and slower beyond (symm-mem-recipes#3)."""
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the ranks run on; found out at start, not while serving."""

    device_type: str
    """'cpu' or 'cuda'."""
    one_machine: bool
    peers: bool = False
    """Every GPU can map the memory of every other one."""
    multicast: bool = False
    """One address means all of them."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Of a way, and why."""

    op: Op
    way: Way
    reason: str


class Collective(Protocol):
    """One way, set up for this rank."""

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over ranks, added in float32 and rounded once to the dtype of x, which is overwritten."""
        ...

    def all_gather(self, x: Tensor) -> Tensor:
        """[ranks, *x.shape]."""
        ...


def possible(op: Op, hardware: Hardware) -> dict[Way, str]:
    """Ways that the hardware has for an op, the better first, each with what speaks for it."""
    if hardware.device_type == "cpu":
        ours = {Way.SHARED_MEMORY: "ranks of one machine without GPUs"} if hardware.one_machine else {}
        return {**ours, Way.GLOO: "ranks without GPUs"}
    ways = {}
    if hardware.one_machine and hardware.multicast:
        ways[Way.MULTIMEM] = "the switch has multicast"
    if hardware.one_machine and hardware.peers and op is Op.ALL_REDUCE:
        ways[Way.ONE_SHOT] = "GPUs see each other's memory, and messages are small"
        ways[Way.TWO_SHOT] = "GPUs see each other's memory, and messages are large"
    return {**ways, Way.NCCL: "GPUs, without multicast" if not hardware.multicast else "GPUs"}


def choose(op: Op, hardware: Hardware, message_bytes: int, asked: Way | None = None) -> Choice:
    """The way for messages of at most that size; `ValueError` where what is `asked` for cannot be had."""
    ways = possible(op, hardware)
    if asked is not None:
        if asked not in ways:
            raise ValueError(f"{op} = {asked!r}: this hardware has {', '.join(ways)}; take one of them")
        return Choice(op, asked, "asked for")
    if message_bytes > ONE_SHOT_LIMIT_BYTES:
        ways.pop(Way.ONE_SHOT, None)
    way = next(iter(ways))
    return Choice(op, way, ways[way])


def check(x: Tensor) -> None:
    """`ValueError` for what no way can add."""
    if x.dtype not in DTYPES or not x.is_contiguous():
        raise ValueError(f"x is {x.dtype} with strides {x.stride()}: expected one of {DTYPES}, contiguous")
