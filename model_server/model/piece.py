"""The geometry of one pass: which calls get how many new positions, where their rows are kept, what they may see.

    B T   calls of the pass, positions (the longest call's; a shorter one is filled up at its end)
    S     places for keys of one call: a ring, and in global layers the first positions before it

Position p lies at place `p mod ring` of the ring, so that the position of a place follows from the call's count of
positions alone. A ring has room for the window and for the longest pass: a pass writes first and reads then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model_server.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Places:
    """Where a layer keeps keys, and which it may see."""

    visible: int
    """Newest positions that are seen, the position itself included."""
    extent: int
    """Distances with a bias of their own, at most `visible`."""
    first: int
    """Positions at the start of the call that are never forgotten; 0 in a sliding layer."""
    ring: int
    """Places of the ring, which follow those of the first."""

    @property
    def count(self) -> int:
        """S."""
        return self.first + self.ring

    def index(self, positions_BT: Tensor, ends_B: Tensor) -> Tensor:
        """int64 [B, 1, T, S]: the column of the bias for each query and place.

        Columns: the distance below `extent`, then one for what is seen without a bias, then one for what is not
        seen. `ends_B` is the count of positions once the pass is written.
        """
        newest = ends_B[:, None] - 1
        held = newest - (newest - torch.arange(self.ring)) % self.ring
        distance = positions_BT[:, :, None] - held[:, None]
        seen = (distance >= 0) & (distance < self.visible) & (held >= 0)[:, None]
        index = torch.where(seen, distance.clamp(max=self.extent), self.extent + 1)
        if self.first:
            beyond = positions_BT[:, :, None] - torch.arange(self.first) >= self.visible
            index = torch.cat([torch.where(beyond, self.extent, self.extent + 1), index], 2)
        return index[:, None]


@dataclass(frozen=True, slots=True)
class Writes:
    """Positions of a pass and the places that they go to."""

    source: Tensor | None
    """Of B * T, which are written; None: all."""
    rows: Tensor
    places: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One pass over B rows of a state; made by `TrunkState.piece`."""

    rows_B: Tensor
    """int64, of the state."""
    span: slice | None
    """The same rows when they follow one another: read without a copy."""
    positions_BT: Tensor
    counts_B: Tensor | None
    """New positions of each call; None: T."""
    sliding: tuple[Writes, ...]
    whole: tuple[Writes, ...]
    """Of global layers."""
    sliding_index: Tensor
    global_index: Tensor

    def index_of(self, is_global: bool) -> Tensor:
        """Columns of the bias for the kind of layer."""
        return self.global_index if is_global else self.sliding_index

    def writes_of(self, is_global: bool) -> tuple[Writes, ...]:
        """Where new keys go in the kind of layer."""
        return self.whole if is_global else self.sliding

    def read(self, buffer: Tensor) -> Tensor:
        """The rows of this pass of a buffer [rows, ...]."""
        return buffer.index_select(0, self.rows_B) if self.span is None else buffer[self.span]

    def last(self, rows_BKC: Tensor, kept: int) -> Tensor:
        """Of rows [B, kept + T, C], the last `kept` up to each call's own end."""
        if self.counts_B is None:
            return rows_BKC[:, rows_BKC.shape[1] - kept :]
        index = self.counts_B[:, None] + torch.arange(kept, device=rows_BKC.device)
        return rows_BKC.gather(1, index[:, :, None].expand(-1, -1, rows_BKC.shape[2]))


def places_of(config: ModelConfig, is_global: bool, piece_limit: int) -> Places:
    """Where layers of that kind keep their keys, with passes of at most `piece_limit` positions."""
    if not is_global:
        return Places(config.window, config.window, 0, config.window - 1 + piece_limit)
    ring = config.global_budget - 1 + piece_limit
    return Places(config.global_budget, config.bias_extent, config.global_first, ring)


def make_piece(
    rows: Sequence[int],
    before_B: Tensor,
    count: int,
    counts: Sequence[int] | None,
    kinds: tuple[Places, Places],
    device: torch.device,
) -> Piece:
    """`kinds`: of sliding and of global layers; `before_B`: positions that each call has so far."""
    positions = before_B[:, None] + torch.arange(count)
    counts_B = None if counts is None else torch.tensor(counts)
    ends = before_B + (count if counts_B is None else counts_B)
    source = None
    if counts_B is not None:
        source = (torch.arange(count) < counts_B[:, None]).flatten().nonzero()[:, 0]
    rows_B = torch.tensor(rows)
    flat_rows = rows_B.repeat_interleave(count)
    sliding, whole = kinds
    follow = list(rows) == list(range(rows[0], rows[0] + len(rows)))
    return Piece(
        rows_B.to(device),
        slice(rows[0], rows[0] + len(rows)) if follow else None,
        positions.to(device),
        None if counts_B is None else counts_B.to(device),
        _writes(sliding, flat_rows, positions.flatten(), source, device),
        _writes(whole, flat_rows, positions.flatten(), source, device),
        sliding.index(positions, ends).to(device),
        whole.index(positions, ends).to(device),
    )


def _writes(
    places: Places, rows: Tensor, positions: Tensor, source: Tensor | None, device: torch.device
) -> tuple[Writes, ...]:
    """Into the ring, and those of the first positions to their own places too."""
    if source is not None:
        rows, positions = rows[source], positions[source]
    ring = places.first + positions % places.ring
    writes = [Writes(None if source is None else source.to(device), rows.to(device), ring.to(device))]
    early = (positions < places.first).nonzero()[:, 0]
    if len(early):
        chosen = early if source is None else source[early]
        writes.append(Writes(chosen.to(device), rows[early].to(device), positions[early].to(device)))
    return tuple(writes)
