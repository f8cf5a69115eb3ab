"""Read back: the caller says digits in any grouping, then the model says them.

| what happens | what is written |
|---|---|
| persona `<expect:n>`, the n-th digit is heard | the digits are said, beginning in that turn, pauses or not |
| `<expect:n>`, fewer digits and then silence | said after 2.4 s |
| no count, pauses heard so far all below 0.3 s, fewer than 5 digits | said after 1.4 s of silence |
| no count, pauses all below 0.3 s, 5 digits or more: this caller makes none | said after 0.7 s |
| no count, longest pause p of 0.3 s or more | said after 1.3 p + 0.3 s, at least 0.7, at most 1.6 s |
| digits while they are being said, no count | silence at once: they go on the same string |
| `<expect:n>`, a digit while they are being said | one too many: the voice goes on |
| `<expect:n>`, a second one meanwhile | silence at once: a new string |
| a digit less than 1.4 s after the one too many | the new string begins with both |
| `plus`, `minus`, `times`, `how many`, `every` | what was heard was no string: forgotten |
| the i-th digit of a string is heard; it is said, if it is not the first | `<expect:i>`, a note that nobody hears |

Silence is counted from the end of the last word to the end of the turn. The notes are how the network keeps its
place: the digit to be said next stands beside the note of that number, and a string of known length is over when
the note is the persona's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model_server.training.callers import says_digits, says_stop, seconds, talks
from model_server.training.conversation import Scene
from model_server.training.mouth import Mouth
from model_server.training.partner import DIGITS, Ear
from model_server.training.stage import Stage

_NO_STRING = {"plus", "minus", "times", "how-many", "every"}
_UNFINISHED_MS, _UNKNOWN_MS, _FLUENT_MS, _LONGEST_MS = 2400, 1400, 700, 1600
_PAUSE_MS, _FLUENT_DIGITS = 300, 5
MAX_DIGITS = 16


class ReadBack:
    """The rule."""

    def __init__(self, expect: int | None = None) -> None:
        self._expect = expect
        self._digits: list[str] = []
        self._longest_ms = 0
        self._saying = False
        self._too_many = ""
        """A digit of a caller who says one more, of an ear that heard one twice, or the first of a new string."""

    @property
    def listening(self) -> bool:
        """A string has begun and is not answered."""
        return bool(self._digits) and not self._saying

    def stopped(self) -> None:
        self._forget()
        self._too_many = ""

    def step(self, ear: Ear, mouth: Mouth) -> tuple[str, ...]:
        if self._saying and mouth.idle:
            self._forget()
        notes: tuple[str, ...] = ()
        for word in ear.words:
            if word in _NO_STRING:
                self._drop(mouth)
            elif word in DIGITS:
                if self._saying and self._expect and not self._too_many:
                    self._too_many = word
                else:
                    self._take(word, ear.pause_ms, mouth)
                    notes = _notes(len(self._digits))[-1:]
        if self.listening and self._due(ear):
            self._saying = True
            mouth.say_noted(self._digits, _notes(len(self._digits)))
        return notes

    def _take(self, digit: str, pause_ms: int, mouth: Mouth) -> None:
        if self._saying:
            mouth.hush()
            self._saying = False
            if self._expect:
                self._forget()
        if self._too_many and not self._digits and pause_ms < _UNKNOWN_MS:
            self._digits.append(self._too_many)
        self._too_many = ""
        if self._digits:
            self._longest_ms = max(self._longest_ms, pause_ms)
        self._digits.append(digit)

    def _forget(self) -> None:
        self._digits.clear()
        self._longest_ms, self._saying = 0, False

    def _drop(self, mouth: Mouth) -> None:
        if self._saying:
            mouth.hush()
        self.stopped()

    def _due(self, ear: Ear) -> bool:
        if self._expect:
            return len(self._digits) >= self._expect or ear.silence_ms >= _UNFINISHED_MS
        return ear.silence_ms >= self._patience_ms()

    def _patience_ms(self) -> int:
        """Silence that this caller's rhythm does not explain."""
        if self._longest_ms < _PAUSE_MS:
            return _UNKNOWN_MS if len(self._digits) < _FLUENT_DIGITS else _FLUENT_MS
        return min(_LONGEST_MS, max(_FLUENT_MS, int(1.3 * self._longest_ms) + 300))


def _notes(count: int) -> tuple[str, ...]:
    return tuple(f"<expect:{min(at, MAX_DIGITS)}>" for at in range(1, count + 1))


def scene(rng: np.random.Generator) -> Scene:
    """A caller who gives one string after another, half of the time with the number of digits known."""
    expect = expected(rng) if rng.random() < 0.5 else None
    persona = ("<persona>", "<read-back>", *((f"<expect:{expect}>",) if expect else ()))
    return Scene("read back", persona, [ReadBack(expect)], lambda stage: gives_strings(stage, expect))


def expected(rng: np.random.Generator) -> int:
    """How many digits a persona says there will be: half of the time few, so that a call has many strings."""
    return int(rng.integers(1, 5 if rng.random() < 0.5 else 11 if rng.random() < 0.7 else MAX_DIGITS + 1))


def gives_strings(stage: Stage, expect: int | None) -> Iterator[None]:
    """Strings until the call is over, with other words, silences and slips between them."""
    rng = stage.rng
    yield from stage.wait(float(rng.uniform(0.2, 2.0)))
    while not stage.over:
        if rng.random() < 0.15:
            yield from talks(stage, int(rng.integers(1, 4)))
            yield from stage.wait(float(rng.uniform(1.5, 3.0)))
        yield from gives_string(stage, expect)
        yield from stage.wait(float(rng.choice([0.4, 1.0, 2.5])) + float(rng.uniform(0, 1.0)))


def gives_string(stage: Stage, expect: int | None) -> Iterator[None]:
    """One string, and what is said to it: listened to, broken off by stop, or gone on with."""
    rng = stage.rng
    count = expect or int(rng.integers(1, rng.choice([5, 13])))
    slip = rng.random()
    if expect and expect > 1 and slip < 0.08:
        count = int(rng.integers(1, expect))
    elif expect and slip < 0.28:
        count = expect + 1
    end = says_digits(stage, count, stage.now + seconds(stage, 0.0, 0.3), expect is not None)
    yield from stage.until(end)
    yield from stage.watch(lambda: not stage.mouth.idle, 3.2)
    what = rng.random()
    if what < 0.2 and not stage.mouth.idle:
        yield from stage.wait(float(rng.uniform(0.2, 2.0)))
        yield from says_stop(stage)
    elif what < 0.3 and not stage.mouth.idle:
        yield from stage.wait(float(rng.uniform(0.0, 2.0 if expect else 1.0)))
        end = says_digits(stage, expect or int(rng.integers(1, 5)), stage.now, counted=expect is not None)
        yield from stage.until(end)
        yield from stage.answered()
    yield from stage.watch(lambda: stage.mouth.idle, 14.0)
