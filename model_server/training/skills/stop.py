"""Stop: while the model speaks, "stop" makes it fall silent; coughs, noise and people in the background do not.

| what happens | what is written |
|---|---|
| `stop` | `heard:stop`, and silence from that turn on (the rule is the partner's: it holds in every skill) |
| a cough, a bang, somebody in the background, other words of the caller | nothing: the voice goes on |
| `stop` while the model is silent | `heard:stop`; what was heard before it is forgotten |

Heard in the first turn whose end is 20 ms or more after the word's end, so that the voice is gone within 220 ms of
it on the model's side.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from media.timebase import MODEL_HZ
from model_server.training.callers import cough, says_digits, says_stop, seconds, talks
from model_server.training.conversation import Scene
from model_server.training.skills.read_back import ReadBack
from model_server.training.stage import Stage


def scene(rng: np.random.Generator) -> Scene:
    """Strings read back, and callers who stop it, cough at it or talk to others meanwhile."""
    expect = int(rng.integers(3, rng.choice([7, 13])))
    return Scene(
        "stop",
        ("<persona>", "<read-back>", f"<expect:{expect}>"),
        [ReadBack(expect)],
        lambda stage: _interrupts(stage, expect),
    )


def _interrupts(stage: Stage, expect: int) -> Iterator[None]:
    rng = stage.rng
    yield from stage.wait(float(rng.uniform(0.2, 1.0)))
    while not stage.over:
        end = says_digits(stage, expect, stage.now, counted=True)
        yield from stage.until(end)
        yield from stage.watch(lambda: not stage.mouth.idle, 3.2)
        yield from stage.wait(float(rng.uniform(0.2, 2.5)))
        what = rng.random()
        if what < 0.5:
            yield from says_stop(stage)
        elif what < 0.75:
            stage.noise(cough(rng), stage.now + seconds(stage, 0.0, 0.5), float(rng.uniform(0.3, 1.2)))
        else:
            yield from talks(stage, int(rng.integers(1, 4)))
        yield from stage.watch(lambda: stage.mouth.idle, 14.0)
        if rng.random() < 0.2:
            yield from stage.until(
                says_digits(stage, int(rng.integers(1, expect)), stage.now, True) + MODEL_HZ // 2
            )
            yield from says_stop(stage)
        yield from stage.wait(float(rng.uniform(0.5, 2.0)))
