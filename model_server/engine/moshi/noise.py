"""What tokens are drawn with: the same numbers at the same position of every call, whoever is beside it.

The package draws from one generator for all rows, so a call would depend on how many others there are, and a server
that takes a call over would not say again what the caller has heard. Here the numbers stand in a table by position
(and by which draw of it: text, then codebooks); the draw itself is the package's, the largest of p / q with q
exponential. The table comes round every `POSITIONS`, 81 s.

Shapes: R rows, N draws of a position, W the most tokens that one chooses among.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

POSITIONS = 1_009
SEED = 20_261_123
LEAST = 1e-10


class Noise:
    """For one batch of rows; its numbers lie still in memory, so that CUDA graphs read them there."""

    def __init__(self, rows: int, draws: int, width: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(SEED)
        table = torch.empty(POSITIONS, draws, width).exponential_(generator=generator).clamp_(min=LEAST)
        self._table_PNW = table.to(device)
        self._now_RNW = torch.ones(rows, draws, width, device=device)
        self._drawn = 0

    @contextmanager
    def at(self, positions_R: Tensor) -> Iterator[None]:
        """The package draws with the numbers of these positions, int64 [R], in the order of its draws."""
        from moshi.utils import sampling

        self._now_RNW.copy_(self._table_PNW[positions_R % POSITIONS])
        self._drawn = 0
        theirs = sampling.multinomial
        sampling.multinomial = self._draw
        try:
            yield
        finally:
            sampling.multinomial = theirs

    def _draw(self, input: Tensor, num_samples: int) -> Tensor:
        """In place of `multinomial` of the package: [..., W'] probabilities, R of them, to one index each."""
        assert num_samples == 1
        q_RW = self._now_RNW[:, self._drawn, : input.shape[-1]]
        self._drawn += 1
        return (input.reshape(q_RW.shape) / q_RW).argmax(dim=-1).reshape(*input.shape[:-1], 1)
