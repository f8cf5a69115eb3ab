"""The text stream of one call: a token a frame, most of them padding, to what a caption says."""

from __future__ import annotations

import codecs
from collections.abc import Collection
from pathlib import Path
from typing import Any

SPACE = "\u2581"
"""What sentencepiece writes for the blank before a word."""


class Captions:
    """Of one call: bytes of a letter that comes in several tokens are kept until it is whole."""

    def __init__(self, tokenizer: Any, silent: Collection[int]) -> None:
        self.tokenizer, self._silent = tokenizer, silent
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")

    @classmethod
    def of(cls, path: Path, silent: Collection[int]) -> Captions:
        """With this tokenizer; `silent` tokens stand for no text."""
        import sentencepiece

        return cls(sentencepiece.SentencePieceProcessor(str(path)), silent)

    def begun(self) -> Captions:
        """Of a new call, with the same tokenizer."""
        return Captions(self.tokenizer, self._silent)

    def read(self, token: int) -> str:
        """What this token says, empty for padding."""
        if token in self._silent or not 0 <= token < self.tokenizer.vocab_size():
            return ""
        piece: str = self.tokenizer.id_to_piece(token)
        if self.tokenizer.is_byte(token):  # <0xE2>
            return self._bytes.decode(bytes([int(piece[3:-1], 16)]))
        if self.tokenizer.is_control(token):
            return ""
        return piece.replace(SPACE, " ")
