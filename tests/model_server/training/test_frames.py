"""Pictures, and when what is counted in them is complete."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest

from model_server.training import frames
from model_server.training.frames import Pictures


def _swinging(seed: int) -> Pictures:
    """Pictures that move without a change: a weight swings."""
    for number in count():
        pictures = frames.drawn(np.random.default_rng([seed, number]), 90)
        moved = sum(a != b for a, b in zip(pictures.scenes, pictures.scenes[1:], strict=False))
        if moved > len(pictures.changes) + 3:
            return pictures
    raise AssertionError


@pytest.mark.parametrize("seed", range(12))
def test_a_repetition_is_complete_when_the_weight_is_three_quarters_back(seed: int) -> None:
    pictures = _swinging(seed)
    rest = pictures.scenes[0][-1]
    away = [abs(scene[-1].x - rest.x) + abs(scene[-1].y - rest.y) for scene in pictures.scenes]
    quarter = max(away) / 4
    assert pictures.changes
    for turn in pictures.changes:
        assert away[turn] <= quarter * 1.01 < away[turn - 1], "the first picture in which it is so near again"


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_complete_in_a_picture_like_the_one_before(seed: int) -> None:
    pictures = frames.drawn(np.random.default_rng(seed), 90)
    assert all(pictures.scenes[turn] != pictures.scenes[turn - 1] for turn in pictures.changes)
