"""Turns of sound alone, of any levels: for tests that compare two ways through one network."""

from __future__ import annotations

import numpy as np

from model_server.model.micro_turn import MicroTurn


def random_turns(rng: np.random.Generator, count: int) -> list[MicroTurn]:
    """So many, of as many calls."""
    return [
        MicroTurn(
            heard=rng.integers(0, 16, (4, 80), dtype=np.uint8),
            own=rng.integers(0, 16, (4, 80), dtype=np.uint8),
            truth=rng.integers(0, 4, 4).astype(np.uint8),
        )
        for _ in range(count)
    ]
