"""Attention over whole conversations, cut into blocks of queries, without a gather in its gradient.

A bias is computed by distance; attention wants it by key. Row i of a block of queries is the row before moved by
one: read with a row stride of one less than its width, the same memory is by key. What is not to be seen is part
of the same product: one profile more, of 0 and `HIDDEN`, that every query has once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128
"""Queries at once: what a block holds of scores grows with it, its overhead shrinks."""
HIDDEN = -1e5
"""Bias of what is not to be seen: its weight is 0."""


@dataclass(frozen=True, slots=True)
class Block:
    """Queries at positions `queries`, and the keys that any of them may see."""

    queries: slice
    keys: slice
    window: int | None
    """Keys that a query sees, itself included; None: those of a global layer, that is ..."""
    first: int
    """... so many at the start of the conversation, and ..."""
    budget: int
    """... so many of the newest, itself included."""

    def bias(self, rho_BHQr: Tensor, profiles: Tensor) -> Tensor:
        """[B, H, Q, r] and [r, R'] to [B, H, Q, S]: the bias of each key, 0 at distances beyond R'."""
        queries, keys = self.queries.stop - self.queries.start, self.keys.stop - self.keys.start
        # Columns by distance, the largest that occurs first: keys - 1 .. 1 - queries.
        past = F.pad(profiles[:, :keys], (0, max(0, keys - profiles.shape[1]))).flip(1)
        columns = torch.cat([F.pad(past, (0, queries - 1)), self._unseen(profiles, queries, keys)])
        by_distance = F.pad(rho_BHQr, (0, 1), value=1.0) @ columns
        batch, heads, _, width = by_distance.shape
        by_key = by_distance.as_strided(
            (batch, heads, queries, keys),
            (heads * queries * width, queries * width, width - 1, 1),
            by_distance.storage_offset() + queries - 1,
        )
        if self.window is None and self.queries.stop > self.budget + self.first:
            return by_key.masked_fill(self._forgotten(profiles.device), HIDDEN)
        return by_key

    def _unseen(self, like: Tensor, queries: int, keys: int) -> Tensor:
        """[1, keys + queries - 1]: `HIDDEN` at distances that no query sees."""
        distance = torch.arange(keys - 1, -queries, -1, device=like.device)
        unseen = (distance < 0) if self.window is None else (distance < 0) | (distance >= self.window)
        return unseen[None] * like.new_tensor(HIDDEN)

    def _forgotten(self, device: torch.device) -> Tensor:
        """bool [Q, S]: what lies between the first keys and the newest."""
        key = torch.arange(self.keys.start, self.keys.stop, device=device)
        distance = torch.arange(self.queries.start, self.queries.stop, device=device)[:, None] - key
        return (distance >= self.budget) & (key >= self.first)


def blocks(count: int, window: int | None, first: int, budget: int) -> Iterator[Block]:
    """Cut `count` positions; `window` None means a global layer."""
    for start in range(0, count, BLOCK):
        oldest = 0 if window is None else max(0, start - window + 1)
        stop = min(start + BLOCK, count)
        yield Block(slice(start, stop), slice(oldest, stop), window, first, budget)
