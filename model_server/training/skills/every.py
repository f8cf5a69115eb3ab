"""Every N seconds: the model says N every N seconds until it is told to stop, with nothing said in between.

| what happens | what is written |
|---|---|
| persona `<every:n>` | `n` in turns 5n, 10n, 15n ... of the call |
| `every`, a digit n of 2..9, `seconds` are heard | `okay` in that turn t, `n` in turns t + 5n, t + 10n ... |
| the same again while it runs | from then on by the new number |
| `stop` | silence, and no more of it |
| anything else, while it runs | nothing |
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from media.timebase import MODEL_HZ, TURN_MS
from model_server.training.callers import says_digits, says_stop, seconds, talks
from model_server.training.conversation import Scene
from model_server.training.corpus import DIGITS as NAMES
from model_server.training.mouth import Mouth
from model_server.training.partner import DIGITS, Ear
from model_server.training.perturb import Change, perturbed
from model_server.training.stage import Stage

TURNS_A_SECOND = 1000 // TURN_MS
_BROKEN_OFF_MS = 1400
_LEAST, _MOST = (0.85, 0.92, 0.8), (1.18, 1.1, 1.4)
"""Of the pitch, the vocal tract and the pace of a request: a voice asks for few numbers and is made into more."""


class Every:
    """The rule. While it runs, it takes all words for itself: nothing else is answered."""

    def __init__(self, number: int | None = None) -> None:
        self._number = number
        self._since = 0
        self._asked: list[str] = []

    @property
    def running(self) -> bool:
        return self._number is not None

    def stopped(self) -> None:
        self._number = None
        self._asked.clear()

    def step(self, ear: Ear, mouth: Mouth) -> tuple[str, ...]:
        for word in ear.words:
            self._hear(word, ear, mouth)
        if ear.silence_ms >= _BROKEN_OFF_MS:
            self._asked.clear()
        since = ear.turn - self._since
        if self._number and since > 0 and since % (self._number * TURNS_A_SECOND) == 0:
            mouth.say(str(self._number))
        if self.running or self._asked:
            ear.words = [word for word in ear.words if word == "every"]
        return ()

    def _hear(self, word: str, ear: Ear, mouth: Mouth) -> None:
        if word == "every":
            self._asked = [word]
        elif len(self._asked) == 1 and word in DIGITS and int(word) >= 2:
            self._asked.append(word)
        elif len(self._asked) == 2 and word == "seconds":
            self._number, self._since = int(self._asked[1]), ear.turn
            self._asked.clear()
            mouth.instead("okay")
        else:
            self._asked.clear()


def scene(rng: np.random.Generator) -> Scene:
    """Told by the persona, or asked by the caller."""
    if rng.random() < 0.25:
        number = int(rng.integers(2, 10))
        return Scene(
            "every", ("<persona>", f"<every:{number}>"), [Every(number)], lambda stage: _lets_run(stage, 40)
        )
    return Scene("every", ("<persona>", "<every>"), [Every()], _asks_again)


def asks(stage: Stage) -> Iterator[None]:
    """`every five seconds`, in one breath, fast or slow, or word by word."""
    rng, bank = stage.rng, stage.bank
    at = stage.now + seconds(stage, 0.0, 0.2)
    if rng.random() < 0.7:
        changed = perturbed(bank.request(rng), Change(*(float(each) for each in rng.uniform(_LEAST, _MOST))))
        end = stage.place(changed, at)
    else:
        for label in ("every", NAMES[int(rng.integers(2, 10))], "seconds"):
            end = stage.place(bank.word(rng, label), at)
            at = end + seconds(stage, 0.0, 0.25)
    yield from stage.until(end)


def _asks_again(stage: Stage) -> Iterator[None]:
    yield from stage.wait(float(stage.rng.uniform(0.2, 2.0)))
    while not stage.over:
        yield from asks(stage)
        yield from _lets_run(stage, float(stage.rng.uniform(4, 22)))


def _lets_run(stage: Stage, for_s: float) -> Iterator[None]:
    """Says little while it runs, and stops it in the end (or asks for another pace)."""
    rng = stage.rng
    last = stage.now + int(for_s * MODEL_HZ)
    while stage.now < last and not stage.over:
        yield from stage.wait(float(rng.uniform(2.0, 8.0)))
        what = rng.random()
        if what < 0.15:
            yield from talks(stage, int(rng.integers(1, 4)))
        elif what < 0.25:
            yield from stage.until(says_digits(stage, int(rng.integers(1, 4)), stage.now, counted=True))
    if rng.random() < 0.8 and not stage.over:
        yield from says_stop(stage)
        yield from stage.wait(float(rng.uniform(2.0, 8.0)))
