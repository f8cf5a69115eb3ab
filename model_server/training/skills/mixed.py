"""Everything in one call: strings, questions and requests, and `stop` to all of them.

The persona is `<persona> <read-back> <help> <every>`, or none at all, which means the same; in some calls the
number of digits is known. The rules are those of the skills, asked in this order: every, help, read back.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model_server.training.callers import says_stop, talks
from model_server.training.conversation import Scene
from model_server.training.partner import Skill
from model_server.training.skills import ask_for_help, every
from model_server.training.skills.ask_for_help import AskForHelp
from model_server.training.skills.every import Every
from model_server.training.skills.read_back import ReadBack, gives_string
from model_server.training.stage import Stage

PERSONA = ("<persona>", "<read-back>", "<help>", "<every>")


def skills(expect: int | None = None) -> list[Skill]:
    """All of them, in their order."""
    strings = ReadBack(expect)
    return [Every(), AskForHelp(strings), strings]


def scene(rng: np.random.Generator) -> Scene:
    """A caller who tries everything."""
    expect = int(rng.integers(3, 11)) if rng.random() < 0.3 else None
    persona: tuple[str, ...] = PERSONA if expect is None else (*PERSONA, f"<expect:{expect}>")
    if expect is None and rng.random() < 0.4:
        persona = ()
    return Scene("mixed", persona, skills(expect), lambda stage: _tries(stage, expect))


def _tries(stage: Stage, expect: int | None) -> Iterator[None]:
    rng = stage.rng
    yield from stage.wait(float(rng.uniform(0.2, 1.5)))
    while not stage.over:
        what = rng.random()
        if what < 0.45:
            yield from gives_string(stage, expect)
        elif what < 0.7:
            yield from ask_for_help.asks(stage)
        elif what < 0.9:
            yield from every.asks(stage)
            yield from stage.wait(float(rng.uniform(3.0, 12.0)))
            yield from says_stop(stage)
        else:
            yield from talks(stage, int(rng.integers(1, 5)))
        yield from stage.wait(float(rng.uniform(0.8, 2.5)))
