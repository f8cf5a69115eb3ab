"""The shipped network says the same whatever its matrices are multiplied in, but for near ties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.engine.digits import DigitsEngine  # noqa: E402
from model_server.engine.registry import CHECKPOINT  # noqa: E402
from model_server.model.dmel import levels_of  # noqa: E402
from model_server.training import cases  # noqa: E402
from model_server.training.rehearsal import rehearse  # noqa: E402

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
SKILLS = ("paused", "interpret", "every")
OTHER_WORDS = 0.05
"""Of all: where two words are as likely as each other, rounding decides."""
MOVED_BY_MORE_THAN_ONE = 0.01
"""Of all dMel levels of the replies: a level is 0.6 in log10 of a channel's magnitude."""


@pytest.mark.skipif(not CHECKPOINT.is_file(), reason="no trained checkpoint in the tree")
@pytest.mark.skipif(not DATA.is_dir(), reason="recordings of callers are not here (../shared/data)")
def test_words_are_nearly_always_the_same_in_bfloat16_and_so_are_their_sounds() -> None:
    chosen = cases.of(SKILLS, 3, DATA)
    exact, halved = (
        list(rehearse(DigitsEngine(CHECKPOINT, products=products), chosen))
        for products in (torch.float32, torch.bfloat16)
    )
    said = [set(heard.captions) | set(heard.actions) for heard in exact]
    other = [of ^ (set(heard.captions) | set(heard.actions)) for of, heard in zip(said, halved, strict=True)]
    assert sum(map(len, said)) > 30
    assert sum(map(len, other)) / 2 <= OTHER_WORDS * sum(map(len, said))
    moved = np.concatenate(
        [
            np.abs(levels_of(a.pcm).astype(int) - levels_of(b.pcm)).ravel()
            for a, b, words in zip(halved, exact, other, strict=True)
            if not words
        ]
    )
    assert (moved > 1).mean() < MOVED_BY_MORE_THAN_ONE
