"""A result on its way to the model: lines of text in a chunk.

result It is on its way.     a piece of a result, for a model that reads text
result 7                     the whole of it, for one that reads numbers (`model_server/engine/words.py`)
failed                       there is none
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Final

from gateway.background.records import MOST_PIECE_BYTES, cut_text

FAILED: Final = "failed"
RESULT: Final = "result "
MOST_NUMBER: Final = 20
"""What the network that reads numbers has tokens for."""
LONGEST_WAIT_S: Final = 0.6
"""Words that wait for the end of their sentence go without it."""
_END = re.compile(r"[.!?;:](?=\s)|\n")
_INTEGER = re.compile(r"(?<![\w.,-])-?\d+(?![\w]|[.,]\d)")


def lines_of(text: str) -> Iterator[str]:
    """Each of them fits into a chunk."""
    for line in text.splitlines():
        if words := " ".join(line.split()):
            yield cut_text(RESULT + words, MOST_PIECE_BYTES + len(RESULT))


def number_line(text: str) -> str:
    """For who reads numbers: the one number of the text, or that there is none."""
    found = {int(number) for number in _INTEGER.findall(text)}
    number = found.pop() if len(found) == 1 else -1
    return f"{RESULT}{number}" if 0 <= number <= MOST_NUMBER else FAILED


class Pieces:
    """Words as they come from a model, joined to pieces that are worth a turn: sentences, or what there is."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._text = ""
        self._since_s = 0.0

    @property
    def waits_s(self) -> float | None:
        """How long what is here may wait; None when nothing is."""
        return max(0.0, self._since_s + LONGEST_WAIT_S - self._now_s()) if self._text else None

    def add(self, text: str) -> list[str]:
        """More of it; gives what is ready."""
        if not self._text:
            self._since_s = self._now_s()
        self._text += text
        ready = []
        while piece := self._whole():
            ready.append(piece)
        return ready

    def rest(self) -> str:
        """What is left, whole or not; of words the last may be half when it goes on, so it waits."""
        rest, self._text = self._text, ""
        return rest

    def due(self) -> str:
        """What has waited long enough, up to its last blank."""
        at = max(self._text.rfind(" "), self._text.rfind("\n")) + 1
        piece, self._text = self._text[:at], self._text[at:]
        self._since_s = self._now_s()
        return piece

    def _whole(self) -> str:
        window = cut_text(self._text, MOST_PIECE_BYTES)
        end = _END.search(window)
        at = end.end() if end else 0
        if not at and len(window) < len(self._text):
            at = window.rfind(" ") + 1 or len(window)
        piece, self._text = self._text[:at], self._text[at:]
        if piece:
            self._since_s = self._now_s()
        return piece
