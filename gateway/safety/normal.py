"""Text as rules see it: words in small letters with one blank before each, so that a phrase is found by its blanks.

Compatibility forms are folded (NFKC), cases too, what is invisible is gone, and all that is no letter, mark or
number is a blank. Scripts that write no blanks between words have one before and after each sign, so their phrases
are found wherever they stand.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Final

_ASCII_GAPS: Final = re.compile(r"[^0-9a-z]+")
_BLANKS: Final = re.compile(r" +")
_UNSPACED: Final = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


def normalise(text: str) -> str:
    """A blank, then its words with one blank between; another at the end if the last word is over."""
    return follow(" ", text)


def follow(before: str, text: str) -> str:
    """`before` is normalised; what it is with `text` behind it. Not for one that `joins_letter`: then the whole is
    to be normalised again."""
    more = _ASCII_GAPS.sub(" ", text.lower()) if text.isascii() else _folded(text)
    return before + (more[1:] if more.startswith(" ") and before.endswith(" ") else more)


def joins_letter(text: str) -> bool:
    """Whether it begins with a mark, or a part of a Korean syllable, that belongs to the letter before it."""
    first = text[:1]
    return not first.isascii() and (unicodedata.category(first)[0] == "M" or "\u1160" <= first <= "\u11ff")


def _folded(text: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _BLANKS.sub(" ", "".join(map(_letter, text)))


@functools.lru_cache(4096)
def _letter(letter: str) -> str:
    kind = unicodedata.category(letter)
    if kind == "Cf" or 0xFE00 <= ord(letter) <= 0xFE0F:  # invisible; variation selectors
        return ""
    if letter.isalnum():
        return f" {letter} " if any(first <= ord(letter) <= last for first, last in _UNSPACED) else letter
    return letter if kind.startswith("M") else " "
