"""A conversation while it is being written: the caller's side of it, turn by turn.

A script is a generator over a `Stage`: it places clips at samples that are not past, and yields once for each
turn that goes by. It sees whether our voice is speaking, as a caller does. Times are samples since the call was
answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from media.timebase import MODEL_HZ, TURN_SAMPLES
from model_server.training.bank import Voice, WordBank
from model_server.training.clip import PCM, Clip, Floats
from model_server.training.lines import token_of
from model_server.training.mouth import Mouth
from model_server.training.partner import Heard, heard_turn

_NOTICED_SAMPLES = MODEL_HZ * 60 // 1000
"""A word that began later in the turn than this cannot be noticed in it."""
_NEVER_MS = 60_000


@dataclass(frozen=True, slots=True)
class Said:
    """A word of the caller, in truth."""

    label: str
    token: str | None
    start_samples: int
    end_samples: int


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """Something in the caller's microphone."""

    start_samples: int
    pcm: PCM | Floats
    gain: float


@dataclass(slots=True, eq=False)
class Stage:
    """What has been placed so far."""

    rng: np.random.Generator
    bank: WordBank
    voice: Voice
    mouth: Mouth
    turns: int
    turn: int = 0
    said: list[Said] = field(default_factory=list)
    sounds: list[Sound] = field(default_factory=list)
    injected: dict[int, tuple[str, ...]] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)
    """Turn -> changes that the camera completed in it."""
    _heard: dict[int, list[Heard]] = field(default_factory=dict)

    @property
    def now(self) -> int:
        """First sample of this turn."""
        return self.turn * TURN_SAMPLES

    @property
    def over(self) -> bool:
        return self.turn >= self.turns

    def place(self, clip: Clip, at: int, gain_db: float | None = None) -> int:
        """The caller says it, its first word beginning at sample `at`; returns where the last one ends."""
        first = clip.words[0].start_samples
        assert at >= self.now, (at, self.now)
        gain = 10 ** ((float(self.rng.normal(0, 1.5)) if gain_db is None else gain_db) / 20)
        self.sounds.append(Sound(at - first, clip.pcm, gain))
        for word in clip.words:
            start, end = at - first + word.start_samples, at - first + word.end_samples
            self._say(Said(word.label, token_of(word.label), start, end))
        return self.said[-1].end_samples

    def noise(self, pcm: PCM | Floats, at: int, gain: float) -> None:
        """A sound that is nobody's word, such as a cough or somebody in the background."""
        self.sounds.append(Sound(at, pcm, gain))

    def inject(self, turn: int, *tokens: str) -> None:
        """Text for the model in that turn, behind what is there."""
        self.injected[turn] = (*self.injected.get(turn, ()), *tokens)

    def heard(self, turn: int) -> list[Heard]:
        """Words that become known in that turn, in their order."""
        return self._heard.get(turn, [])

    def silence_ms(self, turn: int) -> int:
        """Of the caller at the end of that turn; 0 in the middle of a word."""
        end = (turn + 1) * TURN_SAMPLES
        last = -_NEVER_MS * MODEL_HZ // 1000
        for word in self.said:
            if word.start_samples + _NOTICED_SAMPLES <= end:
                if word.end_samples > end:
                    return 0
                last = max(last, word.end_samples)
        return (end - last) * 1000 // MODEL_HZ

    def wait(self, seconds: float) -> Iterator[None]:
        """That long, to the turn."""
        yield from self.until(self.now + int(seconds * MODEL_HZ))

    def until(self, samples: int) -> Iterator[None]:
        """Until the turn that begins at that sample or after it."""
        while self.now < samples and not self.over:
            yield

    def watch(self, condition: Callable[[], bool], seconds: float) -> Iterator[None]:
        """Until it holds, at most so long, at least one turn."""
        last = self.now + int(seconds * MODEL_HZ)
        yield
        while not condition() and self.now < last and not self.over:
            yield

    def answered(self, seconds: float = 12.0) -> Iterator[None]:
        """Until our voice has begun and ended; it need not begin at all within 3 s."""
        yield from self.watch(lambda: not self.mouth.idle, 3.0)
        yield from self.watch(lambda: self.mouth.idle, seconds)

    def _say(self, word: Said) -> None:
        before = self.said[-1].end_samples if self.said else -_NEVER_MS * MODEL_HZ // 1000
        self.said.append(word)
        if word.token is not None:
            pause_ms = max(0, word.start_samples - before) * 1000 // MODEL_HZ
            turn = heard_turn(word.token, word.end_samples)
            self._heard.setdefault(turn, []).append(Heard(word.token, pause_ms))
