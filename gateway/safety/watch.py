"""The running text of one call, and which rules its newest words meet.

Pieces are joined as they are, over turns and pauses; the last `MOST_KEPT` letters are kept. A match is told once,
by the turn that brings its last letter. Where the last word may go on in the next piece, it counts as whole at
once, or, where everything is heard some turns later anyway (`patient`), when it did not go on in the next turn.

It has no clock and does nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.safety.normal import follow, joins_letter, normalise
from gateway.safety.policy import Rule, Search

MOST_KEPT: Final = 1_024
"""Letters; a reply has so many at most."""


@dataclass(frozen=True, slots=True)
class Met:
    """A rule was met, by words that began in turn `since`."""

    rule: Rule
    since: int


@dataclass(slots=True)
class _Piece:
    turn: int
    text: str
    end: int
    """Of the normalised text, with this piece at its end."""


@dataclass(slots=True)
class _Pattern:
    rule: Rule
    search: Search
    end: int = 0
    """Of its newest match."""


class Watch:
    """Of one call."""

    def __init__(self, rules: Iterable[Rule], *, patient: bool = False) -> None:
        rules = tuple(rules)
        self._phrases = [(phrase, rule) for rule in rules for phrase in rule.words]
        self._patterns = [_Pattern(rule, search) for rule in rules if (search := rule.search()) is not None]
        self._patient = patient
        self._pieces: deque[_Piece] = deque()  # bounded: MOST_KEPT letters, each piece has some
        self._letters = 0
        self._text = " "
        self._seen = 0
        """Of the blanks in it that end a word, the last one that was looked at."""

    def hear(self, turn: int, text: str) -> list[Met]:
        """What the text of a reply meets, with all that was said before it."""
        if text:
            self._join(turn, text)
        elif self._text.endswith(" ") or self._seen >= len(self._text):
            return []
        whole = self._text
        if not whole.endswith(" ") and not (self._patient and text):
            whole += " "
        return self._find(whole)

    def _find(self, whole: str) -> list[Met]:
        end = whole.rfind(" ")
        met = {}
        for phrase, rule in self._phrases:
            at = whole.find(phrase, max(0, self._seen - len(phrase) + 2), end + 1)
            if at >= 0:
                met[rule.name] = Met(rule, self._turn_of(at + 1))
        for pattern in self._patterns:
            found = pattern.search(whole, pattern.end)
            if found is not None and found.end() <= end + 1:
                met[pattern.rule.name] = Met(
                    pattern.rule, self._turn_of(found.start() + (whole[found.start()] == " "))
                )
            while found is not None and found.end() <= end + 1:
                pattern.end = max(found.start() + 1, found.end() - (whole[found.end() - 1] == " "))
                found = pattern.search(whole, pattern.end)
        self._seen = end
        return list(met.values())

    def _turn_of(self, place: int) -> int:
        """In which the letter there was said."""
        return next((piece.turn for piece in self._pieces if piece.end > place), self._pieces[-1].turn)

    def _join(self, turn: int, text: str) -> None:
        self._letters += len(text)
        if joins_letter(text):
            self._text = normalise("".join(piece.text for piece in self._pieces) + text)
        else:
            self._text = follow(self._text, text)
        self._pieces.append(_Piece(turn, text, len(self._text)))
        if self._letters > 2 * MOST_KEPT:
            self._forget()

    def _forget(self) -> None:
        """The oldest pieces."""
        while self._letters > MOST_KEPT and len(self._pieces) > 1:
            self._letters -= len(self._pieces.popleft().text)
        before, self._text = len(self._text), normalise("".join(piece.text for piece in self._pieces))
        shift = before - len(self._text)
        self._seen = max(0, self._seen - shift)
        for piece in self._pieces:
            piece.end = max(1, piece.end - shift)
        for pattern in self._patterns:
            pattern.end = max(0, pattern.end - shift)
