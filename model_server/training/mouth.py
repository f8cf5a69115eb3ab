"""Our own voice on the grid: which word it is saying in each turn, and what is still to be said.

A word begins with a turn and lasts one to three; the next one begins when it has ended. Falling silent takes effect
in the turn in which it is decided.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from media.timebase import TURN_SAMPLES
from model_server.training.clip import PCM

MAX_WORD_TURNS = 3
SILENT = (-1, 0)


@dataclass(frozen=True, slots=True, eq=False)
class VoiceTable:
    """The words of our voice: token `say:...` -> row, and each row's sound."""

    rows: Mapping[str, int]
    sounds: tuple[PCM, ...]
    """int16 [turns * 3200] of each row, 16 kHz, silence at its end."""

    def __post_init__(self) -> None:
        for token, row in self.rows.items():
            turns, rest = divmod(len(self.sounds[row]), TURN_SAMPLES)
            if rest or not 1 <= turns <= MAX_WORD_TURNS:
                raise ValueError(
                    f"{token}: {len(self.sounds[row])} samples; give 1..{MAX_WORD_TURNS} whole turns"
                )

    def turns(self, row: int) -> int:
        return len(self.sounds[row]) // TURN_SAMPLES


def table_of(sounds: Mapping[str, PCM]) -> VoiceTable:
    """A table of these words, each padded with silence to whole turns."""
    padded = [np.pad(pcm, (0, -len(pcm) % TURN_SAMPLES)) for pcm in sounds.values()]
    return VoiceTable({token: row for row, token in enumerate(sounds)}, tuple(padded))


class Mouth:
    """Says words of a table one after another; `step` is called once a turn."""

    def __init__(self, table: VoiceTable) -> None:
        self._table = table
        self._waiting: deque[tuple[str, ...]] = deque(maxlen=64)
        """The tokens of each word: perhaps a note, and the word's own."""
        self._row, self._at = SILENT
        self._left = 0

    @property
    def idle(self) -> bool:
        """Nothing is being said, or to be said."""
        return not self._waiting and self._left == 0

    @property
    def waiting(self) -> int:
        """Words that have not begun."""
        return len(self._waiting)

    def say(self, *words: str) -> None:
        """Adds words (without the `say:`) behind those that wait."""
        self._waiting.extend((f"say:{word}",) for word in words)

    def say_noted(self, words: Sequence[str], notes: Sequence[str]) -> None:
        """The same, each but the first behind its note."""
        for at, (word, note) in enumerate(zip(words, notes, strict=True)):
            self._waiting.append((note, f"say:{word}") if at else (f"say:{word}",))

    def instead(self, *words: str) -> None:
        """In place of what waits; the word that is being said is finished."""
        self._waiting.clear()
        self.say(*words)

    def hush(self) -> None:
        """Silence from this turn on."""
        self._waiting.clear()
        self._left = 0

    def step(self, room: int) -> tuple[tuple[str, ...], tuple[int, int]]:
        """One turn: the tokens of a word that begins in it, at most `room`, and (row, turns into the word) or
        SILENT."""
        begun: tuple[str, ...] = ()
        if self._left == 0 and self._waiting and len(self._waiting[0]) <= room:
            begun = self._waiting.popleft()
            self._row, self._at = self._table.rows[begun[-1]], -1
            self._left = self._table.turns(self._row)
        if self._left == 0:
            return begun, SILENT
        self._left -= 1
        self._at += 1
        return begun, (self._row, self._at)
