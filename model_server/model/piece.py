"""The geometry of one pass: which calls get how many new positions, where their rows are kept, what they may see.

    B T   calls of the pass, positions (the longest call's; a shorter one is filled up at its end)
    S     places for keys of one call: a ring, and in global layers the first positions before it

Position p lies at place `p mod ring` of the ring, so that the position of a place follows from the call's count of
positions alone. A ring has room for the window and for the longest pass: a pass writes first and reads then.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model_server.model.config import ModelConfig
from model_server.model.tape import Tape

CALLS_AT_ONCE = 8
"""Calls whose scores are computed together on a CPU: their 24 x 559 and twice that in between fit its cache."""

LINE = 16
"""float32 numbers of a cache line."""


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


@dataclass(frozen=True, slots=True)
class Writes:
    """Positions of a pass and the places that they go to."""

    source: Tensor | None
    """Of B * T, which are written; None: all."""
    rows: Tensor
    places: Tensor


@dataclass(frozen=True, eq=False)
class Reach:
    """Where a pass writes in one kind of layer, and what it sees there."""

    places: Places
    tape: Tape
    rows_B: Tensor
    positions_BT: Tensor
    source: Tensor | None
    """Of B * T, which are there; None: all. Like rows and positions on the host."""
    starts_B: Tensor
    """int64, of the tape."""
    longest: int
    """T."""
    first_BTF: Tensor | None
    """float32, of the first positions' places: 0, or -inf where it is not seen; None when all are seen."""

    @functools.cached_property
    def writes(self) -> tuple[Writes, ...]:
        """Into the ring, and those of the first positions to their own places too."""
        rows, positions = self.rows_B.repeat_interleave(self.longest), self.positions_BT.flatten()
        return _writes(self.places, rows, positions, self.source, self.starts_B.device)

    @functools.cached_property
    def hidden_B1TW(self) -> Tensor:
        """float32: 0 or -inf by column of the tape."""
        hidden = self.tape.slices(self.tape.hidden, self.starts_B, self.longest)
        return hidden[:, None, None].repeat(1, 1, self.longest, 1)


@dataclass(frozen=True, slots=True)
class Part:
    """Some calls of a pass whose keys are read at once."""

    calls: slice
    """Of 0 .. B - 1."""
    rows: slice | Tensor
    """Of the state."""

    def read(self, buffer: Tensor) -> Tensor:
        """The rows of these calls of a buffer [rows, ...]; without a copy where they follow one another."""
        return buffer[self.rows] if isinstance(self.rows, slice) else buffer.index_select(0, self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One pass over B rows of a state; made by `TrunkState.piece`."""

    rows_B: Tensor
    """int64, of the state."""
    span: slice | None
    """The same rows when they follow one another: read without a copy."""
    parts: tuple[Part, ...]
    positions_BT: Tensor
    most_positions: int
    """Of the longest call, after the pass."""
    counts_B: Tensor | None
    """New positions of each call; None: T."""
    reaches: tuple[Reach, Reach]
    """Of sliding and of global layers."""

    def read(self, buffer: Tensor) -> Tensor:
        """The rows of this pass of a buffer [rows, ...]."""
        return buffer.index_select(0, self.rows_B) if self.span is None else buffer[self.span]

    def reach_of(self, is_global: bool) -> Reach:
        """In that kind of layer."""
        return self.reaches[is_global]

    def last(self, rows_BKC: Tensor, kept: int) -> Tensor:
        """Of rows [B, kept + T, C], the last `kept` up to each call's own end."""
        if self.counts_B is None:
            return rows_BKC[:, rows_BKC.shape[1] - kept :]
        index = self.counts_B[:, None] + torch.arange(kept, device=rows_BKC.device)
        return rows_BKC.gather(1, index[:, :, None].expand(-1, -1, rows_BKC.shape[2]))


LayerKind = tuple[Places, Tape]
"""Of layers that keep and see the same."""


def kind_of(config: ModelConfig, is_global: bool, piece_limit: int, device: torch.device) -> LayerKind:
    """Sliding or global layers, with passes of at most `piece_limit` positions."""
    places = places_of(config, is_global, piece_limit)
    return places, Tape(places.visible, places.extent, places.ring, piece_limit, device)


def places_of(config: ModelConfig, is_global: bool, piece_limit: int) -> Places:
    """Where layers of that kind keep their keys, with passes of at most `piece_limit` positions. Whole lines of
    memory: a multiple of `LINE` places."""
    visible = config.global_budget if is_global else config.window
    first = config.global_first if is_global else 0
    places = -(-(first + visible - 1 + piece_limit) // LINE) * LINE
    return Places(visible, config.bias_extent if is_global else config.window, first, places - first)


def make_piece(
    rows: Sequence[int],
    before_B: Tensor,
    count: int,
    counts: Sequence[int] | None,
    kinds: tuple[LayerKind, LayerKind],
    device: torch.device,
) -> Piece:
    """`kinds`: of sliding and of global layers; `before_B`: positions that each call has so far."""
    positions = before_B[:, None] + torch.arange(count)
    counts_B = None if counts is None else torch.tensor(counts)
    source = None
    if counts_B is not None:
        source = (torch.arange(count) < counts_B[:, None]).flatten().nonzero()[:, 0]
    rows_B = torch.tensor(rows)
    parts = tuple(_parts(rows)) if device.type == "cpu" else (Part(slice(0, len(rows)), rows_B.to(device)),)
    follow = list(rows) == list(range(rows[0], rows[0] + len(rows)))
    sliding, whole = (_reach(kind, rows_B, positions, counts_B, source, device) for kind in kinds)
    return Piece(
        rows_B.to(device),
        slice(rows[0], rows[0] + len(rows)) if follow else None,
        parts,
        positions.to(device),
        int(positions[:, -1].max()) + 1,
        None if counts_B is None else counts_B.to(device),
        (sliding, whole),
    )


def _parts(rows: Sequence[int]) -> Iterator[Part]:
    """Runs of rows that follow one another, at most `CALLS_AT_ONCE` long."""
    start = 0
    for b in range(1, len(rows) + 1):
        if b == len(rows) or rows[b] != rows[b - 1] + 1 or b - start == CALLS_AT_ONCE:
            yield Part(slice(start, b), slice(rows[start], rows[b - 1] + 1))
            start = b


def _reach(
    kind: LayerKind,
    rows_B: Tensor,
    positions_BT: Tensor,
    counts_B: Tensor | None,
    source: Tensor | None,
    device: torch.device,
) -> Reach:
    places, tape = kind
    longest = positions_BT.shape[1]
    counts = longest if counts_B is None else counts_B
    starts_B = tape.starts(positions_BT[:, 0] + counts, counts, longest).to(device)
    first = None
    if places.first and int(positions_BT[:, 0].min()) < places.visible + places.first - 1:
        seen = positions_BT[:, :, None] - torch.arange(places.first) >= places.visible
        first = torch.where(seen, 0.0, -torch.inf).to(device)
    return Reach(places, tape, rows_B, positions_BT, source, starts_B, longest, first)


def _writes(
    places: Places, rows: Tensor, positions: Tensor, source: Tensor | None, device: torch.device
) -> tuple[Writes, ...]:
    if source is not None:
        rows, positions = rows[source], positions[source]
    ring = places.first + positions % places.ring
    writes = [Writes(None if source is None else source.to(device), rows.to(device), ring.to(device))]
    early = (positions < places.first).nonzero()[:, 0]
    if len(early):
        chosen = early if source is None else source[early]
        writes.append(Writes(chosen.to(device), rows[early].to(device), positions[early].to(device)))
    return tuple(writes)
