"""What is taken away from what the caller says."""

from __future__ import annotations

import numpy as np

from model_server.model.micro_turn import MEL_CHANNELS, MEL_LEVELS, Levels
from model_server.training.masks import MASKED, masked


def _levels(seed: int) -> Levels:
    levels: Levels = np.random.default_rng(seed).integers(0, MEL_LEVELS, (480, MEL_CHANNELS), np.uint8)
    return levels


def test_as_many_conversations_are_masked_as_should_be_and_none_is_changed_in_place() -> None:
    levels, kept = _levels(0), 0
    before = levels.copy()
    for seed in range(200):
        out = masked(levels, np.random.default_rng(seed))
        kept += out is levels
        assert out.shape == levels.shape and out.dtype == np.uint8 and out.max() < MEL_LEVELS
    assert np.array_equal(levels, before)
    assert abs(1 - kept / 200 - MASKED) < 0.1


def test_most_of_what_is_said_is_left() -> None:
    """A level moves by one where it is shaken, and falls to what is quiet where a band or a moment is missing."""
    levels = _levels(1)
    levels[::3] = 2
    for seed in range(40):
        step = masked(levels, np.random.default_rng(seed)).astype(int) - levels
        assert np.mean(step > 1) == 0.0
        assert np.mean(step < -1) < 0.2 and np.mean(step == 0) > 0.5


def test_the_same_generator_takes_the_same_away() -> None:
    levels = _levels(2)
    assert np.array_equal(masked(levels, np.random.default_rng(7)), masked(levels, np.random.default_rng(7)))
