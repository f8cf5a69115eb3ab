"""Ask for help: a question beyond the model is delegated; what comes back is said when nobody speaks.

| what happens | what is written |
|---|---|
| `plus`, `minus`, `times`, then a digit (or 1.4 s of silence) | `<delegate>` and `let-me-check` in that turn |
| `how many`, and then 0.3 s of silence | the same |
| `<result>` and a number 0..20 are injected | the number, in the first turn of quiet |
| `<failed>` | `i-do-not-know`, likewise |
| digits meanwhile | read back as ever |
| `stop` | what waits to be said is dropped; an answer that comes later is said |

Quiet: our voice is idle, no string is open, and the caller has been silent for 0.6 s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from model_server.training.callers import says_digits, says_stop, seconds
from model_server.training.conversation import Scene
from model_server.training.corpus import DIGITS as NAMES
from model_server.training.mouth import Mouth
from model_server.training.partner import DIGITS, Ear
from model_server.training.skills.read_back import ReadBack, gives_string
from model_server.training.stage import Stage

_OPERATORS = {"plus", "minus", "times"}
_QUIET_MS, _ASKED_MS, _UNFINISHED_MS = 600, 300, 1400
_SLOW = 0.6
"""Of the answers may take up to 8 s; the others come while it still says that it will look."""


class AskForHelp:
    """The rule; takes the digit of a question for itself."""

    def __init__(self, strings: ReadBack | None = None) -> None:
        self._strings = strings
        self._asking = ""
        self._complete = False
        self._answers: deque[str] = deque(maxlen=8)

    def stopped(self) -> None:
        self._asking, self._complete = "", False
        self._answers.clear()

    def step(self, ear: Ear, mouth: Mouth) -> tuple[str, ...]:
        self._listen(ear)
        self._answers.extend(_answers_in(ear.injected))
        actions: tuple[str, ...] = ()
        if self._complete:
            self._asking, self._complete = "", False
            actions = ("<delegate>",)
            mouth.say("let-me-check")
        if self._answers and mouth.idle and ear.silence_ms >= _QUIET_MS and not self._string_open:
            mouth.say(self._answers.popleft())
        return actions

    @property
    def _string_open(self) -> bool:
        return self._strings is not None and self._strings.listening

    def _listen(self, ear: Ear) -> None:
        left = []
        for word in ear.words:
            if word in _OPERATORS or word == "how-many":
                self._asking = word
                left.append(word)
            elif self._asking in _OPERATORS and word in DIGITS:
                self._complete = True
            else:
                left.append(word)
        ear.words = left
        enough_ms = _ASKED_MS if self._asking == "how-many" else _UNFINISHED_MS
        if self._asking and ear.silence_ms >= enough_ms:
            self._complete = True


def _answers_in(injected: tuple[str, ...]) -> Iterator[str]:
    """Words for what the background model found."""
    for at, token in enumerate(injected):
        if token == "<failed>":
            yield "i-do-not-know"
        elif token == "<result>" and at + 1 < len(injected):
            yield injected[at + 1].strip("<>").split(":")[1]


def scene(rng: np.random.Generator) -> Scene:
    """Questions among strings of digits."""
    strings = ReadBack()
    persona = ("<persona>", "<read-back>", "<help>")
    return Scene("ask for help", persona, [AskForHelp(strings), strings], _asks)


def asks(stage: Stage) -> Iterator[None]:
    """One question, and the answer (or none) some time later; meanwhile anything may be said."""
    rng, bank = stage.rng, stage.bank
    at = stage.now + seconds(stage, 0.0, 0.3)
    if rng.random() < 0.7:
        end = stage.place(bank.question(rng), at)
    else:
        operator = str(rng.choice(["plus", "plus", "minus", "times"]))
        for label in (NAMES[int(rng.integers(10))], operator, NAMES[int(rng.integers(10))]):
            own = stage.voice if label in NAMES else None
            end = stage.place(bank.word(rng, label, own), at)
            at = end + seconds(stage, 0.0, 0.3)
    yield from stage.until(end)
    if stage.mouth.idle:
        yield from stage.watch(lambda: not stage.mouth.idle, 2.0)
    else:
        yield from stage.until(end + seconds(stage, 1.6, 2.0))
    number = int(rng.integers(21))
    token = f"<digit:{number}>" if number < 10 else f"<number:{number}>"
    comes = stage.turn + int(rng.integers(1, 40 if rng.random() < _SLOW else 6))
    if rng.random() < 0.08:
        stage.inject(comes, "<failed>")
    else:
        stage.inject(comes, "<result>", token)
    if rng.random() < 0.4:
        yield from stage.wait(float(rng.uniform(0.0, 2.0)))
        end = says_digits(stage, int(rng.integers(1, 8)), stage.now, counted=False)
        yield from stage.until(end)
    yield from stage.watch(lambda: stage.turn > comes and stage.mouth.idle, 9.0)


def _asks(stage: Stage) -> Iterator[None]:
    rng = stage.rng
    yield from stage.wait(float(rng.uniform(0.2, 1.5)))
    while not stage.over:
        what = rng.random()
        if what < 0.65:
            yield from asks(stage)
        elif what < 0.95:
            yield from gives_string(stage, None)
        else:
            yield from says_stop(stage)
        yield from stage.wait(float(rng.uniform(0.5, 2.5)))
