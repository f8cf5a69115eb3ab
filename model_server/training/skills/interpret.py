"""Interpret: each digit is said in Spanish while the caller goes on speaking.

| what happens | what is written |
|---|---|
| a digit is heard | its Spanish word, in that turn, or as soon as the word before it is said |
| `stop` | silence; what was not said yet is dropped |
| anything else | nothing |
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model_server.model.vocabulary import SPANISH
from model_server.training.callers import says_digits, says_stop, seconds, talks
from model_server.training.conversation import Scene
from model_server.training.mouth import Mouth
from model_server.training.partner import DIGITS, Ear
from model_server.training.stage import Stage


class Interpret:
    """The rule."""

    def stopped(self) -> None:
        """The mouth has been silenced: there is nothing else to drop."""

    def step(self, ear: Ear, mouth: Mouth) -> tuple[str, ...]:
        mouth.say(*(SPANISH[int(word)] for word in ear.words if word in DIGITS))
        return ()


def scene(rng: np.random.Generator) -> Scene:
    """A caller who says digits at any pace."""
    return Scene("interpret", ("<persona>", "<interpret>"), [Interpret()], _dictates)


def _dictates(stage: Stage) -> Iterator[None]:
    rng = stage.rng
    yield from stage.wait(float(rng.uniform(0.2, 1.5)))
    while not stage.over:
        end = says_digits(stage, int(rng.integers(1, 9)), stage.now + seconds(stage, 0.0, 0.2), counted=True)
        yield from stage.until(end)
        if rng.random() < 0.1 and not stage.mouth.idle:
            yield from says_stop(stage)
        elif rng.random() < 0.15:
            yield from talks(stage, int(rng.integers(1, 4)))
        yield from stage.wait(float(rng.uniform(0.2, 2.5)))
