"""The distances between positions and the places of a ring, written down once: those of any pass are a slice.

    P   positions of the longest pass        R   places of the ring        T   positions of this pass
    W   R + T - 1: the slice that a pass of a call reads

Along the places of a ring the distance to the newest position falls by one from place to place, and once around.
Two rounds of it, laid out one behind the other, hold the distances of every call, each from its own start; the
position before the newest has the same ones a column further on. So a bias that is computed by column is read by
place with a row stride of one less than its width, and nothing is gathered, as in `band`.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Tape:
    """Of one kind of layer. Two tapes, in fact: of rings that came round, and of those that are not yet full."""

    def __init__(
        self, visible: int, extent: int, ring: int, piece_limit: int, device: torch.device | str = "cpu"
    ) -> None:
        """`visible` newest positions are seen, `extent` distances have a bias of their own."""
        assert ring >= visible - 1 + piece_limit, (ring, visible, piece_limit)
        self.ring, self.piece_limit = ring, piece_limit
        falling = ring - 1 - torch.arange(-piece_limit, 2 * ring - 1 + piece_limit)
        distance = torch.cat([falling % ring, falling])
        self.length = len(falling)
        seen = (distance >= 0) & (distance < visible)
        self.columns = torch.where(seen, distance.clamp(max=extent), extent).to(device)
        """int64 [2 * length]: the distance, or `extent` where there is no bias."""
        self.hidden = torch.where(seen, 0.0, -torch.inf).to(device)
        """float32 [2 * length]: 0 where a place is seen, else -inf."""

    def starts(self, ends_B: Tensor, counts: Tensor | int, longest: int) -> Tensor:
        """Where the slices of calls begin, int64 [B]: `ends` positions after a pass of `counts` each, at most T."""
        newest = ends_B - 1
        begin = self.piece_limit + self.ring - 1 - longest
        return begin + counts - newest.remainder(self.ring) + (newest < self.ring) * self.length

    def slices(self, of_columns: Tensor, starts_B: Tensor, longest: int) -> Tensor:
        """[..., 2 * length] to [B, ..., W]."""
        views = of_columns.unfold(-1, self.ring + longest - 1, 1).movedim(-2, 0)
        return views.index_select(0, starts_B)

    def by_place(self, slices: Tensor) -> Tensor:
        """Contiguous [B, X, T, W] to a view [B, X, T, R] of it: the last of T begins at column 0."""
        batch, rows, longest, width = slices.shape
        strides = (rows * longest * width, longest * width, width - 1, 1)
        start = slices.storage_offset() + longest - 1
        return slices.as_strided((batch, rows, longest, self.ring), strides, start)
