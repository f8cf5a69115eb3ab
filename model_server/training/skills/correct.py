"""Correct me: the persona holds the digits that are right; a wrong one is put right while the caller goes on.

| what happens | what is written |
|---|---|
| the i-th digit since the string began is not the i-th of the persona | `no` and the right digit, at once |
| another one is wrong before that is said | the newer correction takes the place of what has not begun |
| the last digit is heard, and no correction is being said | `okay` |
| 1.4 s of silence, or the last digit | the string is over: the next digit is its first again |
| digits beyond the last | a new string |
| which digit is right next changes | `<digit:d>`, a note that nobody hears |

The notes are how the network keeps its place: the next one is found from the last one, and a digit is wrong when it
is not the last note's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from media.timebase import MODEL_HZ
from model_server.training.callers import seconds, talks
from model_server.training.conversation import Scene
from model_server.training.corpus import DIGITS as NAMES
from model_server.training.mouth import Mouth
from model_server.training.partner import DIGITS, Ear
from model_server.training.stage import Stage

WRONG = (0.8, 0.13, 0.05, 0.02)
"""How often so many digits are wrong. With more, a voice that is hard to hear is interrupted for nothing; with much
fewer, what is expected would be heard in place of what is said."""
_OVER_MS = 1400


class Correct:
    """The rule."""

    def __init__(self, expected: Sequence[str]) -> None:
        self._expected = expected
        self._at = self._noted = 0

    def stopped(self) -> None:
        self._at = 0

    def step(self, ear: Ear, mouth: Mouth) -> tuple[str, ...]:
        for digit in (word for word in ear.words if word in DIGITS):
            right = self._expected[self._at]
            if digit != right:
                mouth.instead("no", right)
            elif self._at == len(self._expected) - 1 and mouth.idle:
                mouth.say("okay")
            self._at = (self._at + 1) % len(self._expected)
        if ear.silence_ms >= _OVER_MS:
            self._at = 0
        if self._noted == self._at:
            return ()
        self._noted = self._at
        return (f"<digit:{self._expected[self._at]}>",)


def scene(rng: np.random.Generator) -> Scene:
    """A caller who says the number again and again, mostly with a digit wrong or some."""
    expected = [str(digit) for digit in rng.integers(0, 10, int(rng.integers(4, 11)))]
    persona = ("<persona>", "<correct>", *(f"<digit:{digit}>" for digit in expected))
    return Scene("correct", persona, [Correct(expected)], lambda stage: _recites(stage, expected))


def _recites(stage: Stage, expected: Sequence[str]) -> Iterator[None]:
    rng = stage.rng
    yield from stage.wait(float(rng.uniform(0.2, 1.5)))
    while not stage.over:
        said = list(expected)
        for _ in range(int(rng.choice(4, p=WRONG))):
            at = int(rng.integers(len(said)))
            said[at] = str((int(said[at]) + int(rng.integers(1, 10))) % 10)
        pace = float(rng.uniform(0.05, 0.7))
        at = stage.now
        for digit in said:
            label = "oh" if digit == "0" and rng.random() < 0.25 else NAMES[int(digit)]
            end = stage.place(stage.bank.word(rng, label, stage.voice), at)
            at = end + int(pace * rng.uniform(0.7, 1.3) * MODEL_HZ)
        yield from stage.until(end + seconds(stage, 2.0, 3.5))
        if rng.random() < 0.2:
            yield from talks(stage, 2)
            yield from stage.wait(1.6)
