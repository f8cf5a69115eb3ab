"""SpecAugment for dMel: bands and moments of what the caller says are taken away, levels shaken.

There are few real speakers to learn from, and a network that has heard their recordings often enough knows the
recordings. With other parts of them missing each time it is left with what words have in common (Park et al. 2019,
arXiv 1904.08779). Here bands last a second or so, not a whole utterance, since conversations are long.
"""

from __future__ import annotations

import numpy as np

from model_server.model.micro_turn import HEAR_POSITIONS, MEL_CHANNELS, MEL_LEVELS, Levels

MASKED = 0.75
"""Of the conversations."""
BANDS, BAND_CHANNELS, BAND_POSITIONS = 0.1, 18, 8 * HEAR_POSITIONS
"""A turn, on average; channels and positions of one at most."""
MOMENTS = 0.03
"""Of the positions, at most: each is silent throughout."""
SHAKEN = 0.3
"""Of the levels, at most: each is one higher or one lower."""
_QUIET = 20
"""Percent of a channel's levels that are below what stands for silence there."""


def masked(levels: Levels, rng: np.random.Generator) -> Levels:
    """uint8 [positions, 80], or as it was for one conversation in four."""
    if rng.random() >= MASKED:
        return levels
    count = len(levels)
    quiet = np.percentile(levels, _QUIET, axis=0).astype(np.uint8)
    out = levels.copy()
    for _ in range(int(rng.poisson(BANDS * count / HEAR_POSITIONS))):
        width, length = int(rng.integers(1, BAND_CHANNELS + 1)), int(rng.integers(2, BAND_POSITIONS + 1))
        low, start = int(rng.integers(MEL_CHANNELS - width + 1)), int(rng.integers(count))
        band = slice(low, low + width)
        out[start : start + length, band] = np.minimum(out[start : start + length, band], quiet[band])
    moments = rng.random(count) < rng.uniform(0, MOMENTS)
    out[moments] = np.minimum(out[moments], quiet)
    shaken = rng.random(out.shape, np.float32) < rng.uniform(0, SHAKEN)
    steps = np.where(shaken, rng.integers(0, 2, out.shape, np.int8) * 2 - 1, 0)
    return np.clip(out.astype(np.int8) + steps, 0, MEL_LEVELS - 1).astype(np.uint8)
