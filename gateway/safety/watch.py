"""The running text of one call, and which rules its newest words meet.

Pieces are joined as they are, over turns and pauses; the last `MOST_KEPT` letters are kept. A match is told once,
by the turn that brings its last letter. Where the last word may go on in the next piece, it counts as whole at
once, or, where everything is heard some turns later anyway (`patient`), when it did not go on in the next turn.

It has no clock and does nothing.
"""

from __future__ import annotations

import functools
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


class Book:
    """Rules as they are looked up: phrases by their last words, so that it matters little how many there are."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.phrases: dict[str, list[tuple[str, Rule]]] = {}
        self.patterns: list[tuple[Search, Rule]] = []
        for rule in rules:
            for phrase in rule.words:
                self.phrases.setdefault(phrase.split()[-1], []).append((phrase, rule))
            if (search := rule.search()) is not None:
                self.patterns.append((search, rule))


@functools.lru_cache(64)
def book_of(rules: tuple[Rule, ...]) -> Book:
    """The same for all calls that have these rules."""
    return Book(rules)


class Watch:
    """Of one call."""

    def __init__(self, rules: Iterable[Rule], *, patient: bool = False) -> None:
        self._book = book_of(tuple(rules))
        self._ends = [0] * len(self._book.patterns)
        """Of the newest match of each pattern."""
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
        whole = whole[: end + 1]
        met = self._find_phrases(whole, end)
        for number, (search, rule) in enumerate(self._book.patterns):
            since = self._find_pattern(whole, number, search)
            if since is not None:
                met.setdefault(rule.name, Met(rule, since))
        self._seen = end
        return list(met.values())

    def _find_phrases(self, whole: str, end: int) -> dict[str, Met]:
        """By each word that is over now: the phrases that end with it."""
        met: dict[str, Met] = {}
        before, at = self._seen, whole.find(" ", self._seen + 1)
        begin = whole.rfind(" ", 0, before + 1) if before else 0
        while 0 < at <= end:
            for phrase, rule in self._book.phrases.get(whole[begin + 1 : at], ()):
                if whole.endswith(phrase, 0, at + 1):
                    met.setdefault(rule.name, Met(rule, self._turn_of(at + 2 - len(phrase))))
            begin, at = at, whole.find(" ", at + 1)
        return met

    def _find_pattern(self, whole: str, number: int, search: Search) -> int | None:
        """The turn in which its first new match begins."""
        since = None
        while (found := search(whole, self._ends[number])) is not None:
            first, behind = found.span()
            if since is None:
                since = self._turn_of(first + (whole[first : first + 1] == " "))
            self._ends[number] = max(first + 1, behind - (whole[behind - 1] == " "))
        return since

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
        self._ends = [max(0, end - shift) for end in self._ends]
