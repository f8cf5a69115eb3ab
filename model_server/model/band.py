"""Attention over whole conversations, cut into blocks of queries, without a gather in its gradient.

A bias is computed by distance; attention wants it by key. Row i of a block of queries is the row before moved by
one: with one column more than there are keys, reading the same memory in rows of the number of keys does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256
"""Queries at once: what a block holds of scores grows with it, its overhead shrinks."""


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

    @property
    def reach(self) -> int:
        """Distances 0 .. reach - 1 occur in this block."""
        longest: int = self.queries.stop - self.keys.start
        return longest if self.window is None else min(longest, self.window)

    def skew(self, bias_BHQe: Tensor) -> Tensor:
        """[B, H, Q, e] by distance, the largest first, to [B, H, Q, S] by key, -inf where nothing is to be seen.

        There may be fewer distances than `reach`: beyond, the bias is 0.
        """
        queries, count = bias_BHQe.shape[2], self.keys.stop - self.keys.start
        offset = self.queries.start - self.keys.start
        bias = F.pad(bias_BHQe, (self.reach - bias_BHQe.shape[3], 0))
        bias = F.pad(bias, (0, count + 1 - self.reach), value=-torch.inf).flatten(2)
        start = self.reach - 1 - offset
        bias = F.pad(bias, (0, max(0, start - queries)))[..., start : start + queries * count]
        by_key: Tensor = bias.unflatten(2, (queries, count))
        forgets = self.window is None and offset + queries > self.budget
        if start > 1 or forgets:
            return by_key.masked_fill(self._hidden(bias.device), -torch.inf)
        return by_key

    def _hidden(self, device: torch.device) -> Tensor:
        """bool [Q, S]: what a query must not see; after `skew` these may hold another row's bias."""
        key = torch.arange(self.keys.start, self.keys.stop, device=device)
        distance = torch.arange(self.queries.start, self.queries.stop, device=device)[:, None] - key
        if self.window is not None:
            return (distance < 0) | (distance >= self.window)
        return (distance < 0) | ((distance >= self.budget) & (key >= self.first))


def blocks(count: int, window: int | None, first: int, budget: int) -> Iterator[Block]:
    """Cut `count` positions; `window` None means a global layer."""
    for start in range(0, count, BLOCK):
        oldest = 0 if window is None else max(0, start - window + 1)
        stop = min(start + BLOCK, count)
        yield Block(slice(start, stop), slice(oldest, stop), window, first, budget)
