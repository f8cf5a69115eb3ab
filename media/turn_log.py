"""What of a call its worker keeps, so that a model server that never heard of it can go on with it.

The newest `LOG_TURNS` chunks and, of older ones, the newest `LOG_LINES` that had text: a persona may have been
typed long ago. Pictures are left out. A chunk that was answered says so (`Flags.ANSWERED`): what the model said in
it was sent, and what it asked for was done. Bounded: 0.4 MB a call; what is older is forgotten, as the model does.

Packed, each turn is `META`, int16 [3200], text and events, one after the other, without gaps.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from media.chunk import MAX_EVENTS_BYTES, MAX_TEXT_BYTES, Chunk, Flags
from media.ring import META, chunk_of, decode_text, encode_text, meta_of
from media.timebase import TURN_SAMPLES

LOG_TURNS = 60
"""12 s: what 512 positions hold, which is what layers with a window see, at 8 or 9 a turn."""
LOG_LINES = 4
_FIXED_BYTES = META.itemsize + 2 * TURN_SAMPLES
MAX_LOG_BYTES = (LOG_TURNS + LOG_LINES) * (_FIXED_BYTES + MAX_TEXT_BYTES + MAX_EVENTS_BYTES)


class TurnLog:
    """Of one call."""

    def __init__(self) -> None:
        self._lines: deque[Chunk] = deque(maxlen=LOG_LINES)
        self._turns: deque[Chunk] = deque()
        self._answered: set[int] = set()

    def __len__(self) -> int:
        return len(self._lines) + len(self._turns)

    def add(self, chunk: Chunk) -> None:
        """It was published; its samples are kept, not copied."""
        self._turns.append(replace(chunk, video=()))
        if len(self._turns) > LOG_TURNS:
            oldest = self._turns.popleft()
            if oldest.text:
                self._lines.append(self._marked(oldest))
            self._answered.discard(oldest.turn)

    def answer(self, turn: int) -> None:
        """Its reply came, in time or not."""
        if self._turns and self._turns[0].turn <= turn <= self._turns[-1].turn:
            self._answered.add(turn)

    @property
    def oldest(self) -> int:
        """The oldest turn of which all is kept; -1 without any."""
        return self._turns[0].turn if self._turns else -1

    @property
    def newest(self) -> int:
        """The newest turn that was published; -1 without any."""
        return self._turns[-1].turn if self._turns else -1

    @property
    def newest_answered(self) -> int:
        """The newest turn that was answered, of those that are kept; -1 without any."""
        return max(self._answered, default=-1)

    def pack(self, until: int | None = None) -> bytes:
        """All of it, oldest first; or up to that turn, which is among them."""
        turns = (chunk for chunk in self._turns if until is None or chunk.turn <= until)
        return b"".join(_packed(chunk) for chunk in (*self._lines, *map(self._marked, turns)))

    def past(self, after: int, until: int) -> list[Chunk]:
        """What is kept of the turns after the first and up to the second one, oldest first, marked as answered."""
        return [self._marked(chunk) for chunk in self._turns if after < chunk.turn <= until]

    def _marked(self, chunk: Chunk) -> Chunk:
        answered = chunk.turn in self._answered
        return replace(chunk, flags=chunk.flags | Flags.ANSWERED) if answered else chunk


def unpack(log: bytes, generation: int) -> tuple[Chunk, ...]:
    """The chunks of a packed log, as of this tenant. `ValueError` when it is none."""
    chunks: list[Chunk] = []
    at = 0
    while at < len(log):
        if at + _FIXED_BYTES > len(log):
            raise ValueError(f"a log of {len(log)} bytes ends within a turn")
        meta = np.frombuffer(log, META, 1, at)[0]
        pcm = np.frombuffer(log, np.int16, TURN_SAMPLES, at + META.itemsize)
        at += _FIXED_BYTES
        end_of_text = at + int(meta["text_bytes"])
        end = end_of_text + int(meta["events_bytes"])
        turn = int(meta["turn"])
        if end > len(log) or (chunks and turn <= chunks[-1].turn):
            raise ValueError(f"turn {turn} at byte {at} of {len(log)} is not whole, or not in order")
        text, events = decode_text(log[at:end_of_text], log[end_of_text:end])
        chunks.append(replace(chunk_of(meta, pcm, text, events), generation=generation))
        at = end
    return tuple(chunks)


def _packed(chunk: Chunk) -> bytes:
    text, events, cut = encode_text(chunk.text, chunk.events)
    meta = np.array(meta_of(chunk, chunk.flags | cut, len(text), len(events)), META)
    return b"".join((meta.tobytes(), chunk.pcm.tobytes(), text, events))
