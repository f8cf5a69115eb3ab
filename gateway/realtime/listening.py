"""The caller's side of the protocol's conversation: what was said until the model answered is an item.

There is no detector of speech, so nothing is told when somebody begins or stops to speak, but for the one
moment at which the gateway knows it: the model has fallen silent in the middle of what it said, for the caller.
Words are the model's own, of an engine that says what it heard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.realtime.items import Items, message
from gateway.realtime.responses import Send

MOST_WORDS: Final = 512
"""Of one item; what is beyond has been told piece by piece."""


class Listening:
    """Of one call."""

    def __init__(self, items: Items, send: Send, heard_ms: Callable[[], int]) -> None:
        """`heard_ms` is how much of the client's sound the model has heard."""
        self.transcribes = False
        self._items, self._send, self._heard_ms = items, send, heard_ms
        self._name = ""
        """Of the item that is under way."""
        self._words: list[str] = []
        self._since_ms = 0
        self._yielded = False

    def yielded(self) -> None:
        """The model has fallen silent for the caller."""
        if not self._yielded:
            self._yielded = True
            kind = "input_audio_buffer.speech_started"
            self._send(kind, audio_start_ms=self._heard_ms(), item_id=self._item())

    def heard(self, text: str) -> None:
        """Words of the caller's, as the model has them."""
        piece = f" {text}" if self._words else text
        if len(self._words) < MOST_WORDS:
            self._words.append(piece)
        if self.transcribes:
            kind = "conversation.item.input_audio_transcription.delta"
            self._send(kind, item_id=self._item(), content_index=0, delta=piece)

    def close(self, of_words: bool = False) -> bool:
        """The model answers, or the client says that this is an item; False when nothing was said since the
        last, or with `of_words` no word."""
        heard_ms = self._heard_ms()
        was_heard = heard_ms > self._since_ms and not of_words
        if not was_heard and not self._words and not self._yielded:
            return False
        name, words = self._item(), "".join(self._words)
        if self._yielded:
            self._send("input_audio_buffer.speech_stopped", audio_end_ms=heard_ms, item_id=name)
        self._send("input_audio_buffer.committed", item_id=name, previous_item_id=self._items.newest)
        content = {"type": "input_audio", "transcript": words or None}
        item = message(name, "user", [content])
        before = self._items.add(item)
        self._send("conversation.item.added", previous_item_id=before, item=item)
        self._send("conversation.item.done", previous_item_id=before, item=item)
        if self.transcribes and words:
            usage = {"type": "duration", "seconds": (heard_ms - self._since_ms) / 1_000}
            kind = "conversation.item.input_audio_transcription.completed"
            self._send(kind, item_id=name, content_index=0, transcript=words, usage=usage)
        self._name, self._words, self._since_ms, self._yielded = "", [], heard_ms, False
        return True

    def _item(self) -> str:
        self._name = self._name or self._items.new_id()
        return self._name
