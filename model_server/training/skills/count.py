"""Count: with the camera, changes or repetitions are counted aloud, unasked.

| what happens | what is written |
|---|---|
| the picture of this turn completes the k-th change, k <= 20 | `k`, when the word before it is said |
| another one before that has begun | its number in place of the one that waits |
| 3 s without a word or a note, k > 0 | `<digit:k>` or `<number:k>`: a note that nobody hears |
| `stop` | silence; counting goes on when `count` is heard, from 1 |

The notes keep the count in its memory: with pictures, what a call's memory holds is 7 s.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from media.timebase import TURN_MS
from model_server.training import frames
from model_server.training.callers import says_stop, talks
from model_server.training.conversation import Scene
from model_server.training.mouth import Mouth
from model_server.training.partner import Ear
from model_server.training.stage import Stage

_NOTE_TURNS = 3000 // TURN_MS
_OFF = 0.35
"""Of the cameras are switched off before the call is over."""


class Count:
    """The rule."""

    def __init__(self, running: bool = True) -> None:
        self._running = running
        self._count = 0
        self._noted = 0
        """The turn of the last word or note."""

    def stopped(self) -> None:
        self._running = False

    def step(self, ear: Ear, mouth: Mouth) -> tuple[str, ...]:
        if "count" in ear.words:
            self._running, self._count = True, 0
        if self._running and ear.seen and self._count < frames.MAX_COUNT:
            self._count += ear.seen
            self._count = min(self._count, frames.MAX_COUNT)
            mouth.instead(str(self._count))
        if not mouth.idle:
            self._noted = ear.turn
        elif self._running and self._count and ear.turn - self._noted >= _NOTE_TURNS:
            self._noted = ear.turn
            return (f"<digit:{self._count}>" if self._count < 10 else f"<number:{self._count}>",)
        return ()


def scene(rng: np.random.Generator, turns: int = 120) -> Scene:
    """A camera for so many turns, or switched off before, and a caller who hardly speaks."""
    pictures = frames.drawn(rng, turns if rng.random() >= _OFF else round(turns * rng.uniform(0.4, 0.95)))
    return Scene("count", ("<persona>", "<count>"), [Count()], _watches, pictures)


def _watches(stage: Stage) -> Iterator[None]:
    rng = stage.rng
    while not stage.over:
        yield from stage.wait(float(rng.uniform(4.0, 15.0)))
        what = rng.random()
        if what < 0.3:
            yield from talks(stage, int(rng.integers(1, 4)))
        elif what < 0.4 and not stage.over:
            yield from says_stop(stage)
            yield from stage.wait(float(rng.uniform(1.0, 4.0)))
            end = stage.place(stage.bank.word(rng, "count"), stage.now)
            yield from stage.until(end)
