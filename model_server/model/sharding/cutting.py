"""A rank's part of a tensor, and the whole from all parts. Nothing is known here of what a tensor is for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from model_server.model.sharding.plan import Cut, ShardingPlan


class Sliceable(Protocol):
    """A tensor, or one that is still in a file: `safetensors.safe_open(...).get_slice(name)`."""

    def __getitem__(self, index: tuple[slice, ...], /) -> Tensor: ...


def part_of(whole: Sliceable, cut: Cut | None, rank: int, ranks: int) -> Tensor:
    """What rank `rank` holds: a copy, contiguous; all of it where there is no cut."""
    if cut is None:
        return whole[(slice(None),)]
    pieces = [whole[_index(cut.axis, run)] for run in _runs(cut, rank, ranks)]
    return torch.cat(pieces, cut.axis).contiguous()


def whole_of(parts: Sequence[Tensor], cut: Cut | None) -> Tensor:
    """The tensor that these are all the ranks' parts of."""
    if cut is None:
        return parts[0]
    lengths = [block // len(parts) for block in cut.blocks]
    blocks = zip(*(part.split(lengths, cut.axis) for part in parts), strict=True)
    return torch.cat([piece for block in blocks for piece in block], cut.axis)


def state_of_rank(whole: Mapping[str, Tensor], plan: ShardingPlan, rank: int) -> dict[str, Tensor]:
    """A rank's part of the state of `Interaction`."""
    return {name: part_of(value, plan.cuts.get(name), rank, plan.ranks) for name, value in whole.items()}


def _runs(cut: Cut, rank: int, ranks: int) -> Iterator[slice]:
    for begin, length in zip(itertools.accumulate(cut.blocks, initial=0), cut.blocks, strict=False):
        each = length // ranks
        yield slice(begin + rank * each, begin + (rank + 1) * each)


def _index(axis: int, run: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, run)
