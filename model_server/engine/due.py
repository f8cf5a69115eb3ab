"""What of a batch is to be appended to which call: turns in order, late ones and those that never came too."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from media.chunk import PCM, RGB, Chunk, Flags
from media.timebase import TURN_SAMPLES
from model_server.batch import Batch
from model_server.engine.own_voice import SILENCE, OwnVoice
from model_server.engine.words import Talk
from model_server.model.dmel import CARRIED_SAMPLES
from model_server.model.micro_turn import HEAR_POSITIONS, TEXT_LIMIT

GAP_TURNS = 5
"""One second. What is missing beyond it is not told to the network: each turn costs a pass."""
ANSWER_TURNS = 4
"""An answer that comes sooner after its question waits: the network says those that come while it begins to speak
seldom: 0 of 23 after 0.2 s, 16 after 0.4 s, and all of them after 0.6 s or more."""
PAST_TOKENS = 32
"""Words of older turns that a compacted call keeps."""


@dataclass(slots=True)
class Call:
    """What is kept of a call beside its sequence; bounded."""

    text: deque[int]
    """Injected tokens that wait for their turn."""
    sees: bool
    early: deque[int] = field(default_factory=lambda: deque(maxlen=4 * TEXT_LIMIT))
    """Tokens of answers that came too soon."""
    asked: int = -ANSWER_TURNS
    """Turn of its sequence in which it asked last."""
    next_turn: int = -1
    turns: int = 0
    """In its sequence."""
    own: OwnVoice = field(default_factory=OwnVoice)
    talk: Talk = field(default_factory=Talk)
    heard_before: PCM = field(default_factory=lambda: np.zeros(CARRIED_SAMPLES, np.int16))
    own_before: PCM = field(default_factory=lambda: np.zeros(CARRIED_SAMPLES, np.int16))
    picture: RGB | None = None
    sounding: bool = False
    """The last reply ended in the middle of a sound."""
    persona: tuple[int, ...] = ()
    """The tokens that it began with."""
    past: deque[int] = field(default_factory=lambda: deque(maxlen=PAST_TOKENS))
    """Words of both sides, as tokens: what is left of turns that are compacted."""
    actions: tuple[str, ...] = ()
    """Of turns that got no reply."""
    notice: str = ""
    """For who typed something that cannot be done; said in the next reply's text."""


@dataclass(frozen=True, slots=True, eq=False)
class Due:
    """One turn of one call that is to be appended."""

    slot: int
    call: Call
    turn: int
    pcm: PCM
    concealed: Sequence[int]
    """Samples of each 50 ms that were made up."""
    played_samples: int
    chunk: Chunk | None = None

    @property
    def was_answered(self) -> bool:
        """It comes from a log: what is written and said in it, the caller had once."""
        return self.chunk is not None and Flags.ANSWERED in self.chunk.flags


def owed(calls: Mapping[int, Call], batch: Batch, row_of: Mapping[int, int]) -> Iterator[list[Due]]:
    """Of each call its turns in order, with those that never came."""
    for slot in sorted({*row_of, *batch.earlier}):
        call, dues = calls[slot], []
        for chunk in batch.earlier.get(slot, ()):
            due = Due(
                slot, call, chunk.turn, chunk.pcm, chunk.concealed_quarters, chunk.played_samples, chunk
            )
            dues += [*_missing(due), due]
            call.next_turn = chunk.turn + 1
        if slot in row_of:
            b = row_of[slot]
            meta = batch.meta_B[b]
            due = Due(
                slot, call, int(meta["turn"]), batch.pcm_BS[b],
                meta["concealed"].tolist(), int(meta["played"]), batch.chunks.get(b),
            )  # fmt: skip
            dues += [*_missing(due), due]
            call.next_turn = due.turn + 1
        yield dues


def rounds(of_calls: Iterator[list[Due]]) -> Iterator[list[Due]]:
    """Turns that are appended in one pass: the newest of all calls last, older ones before it."""
    every = [dues for dues in of_calls if dues]
    for back in range(max(map(len, every), default=0), 0, -1):
        yield [dues[-back] for dues in every if len(dues) >= back]


def answered(call: Call, tokens: Sequence[int]) -> None:
    """Tokens of answers, if any came in this turn, into its text: now, or when it is time."""
    call.early.extend(tokens)
    if call.turns - call.asked >= ANSWER_TURNS:
        call.text.extend(call.early)
        call.early.clear()


def taken(text: deque[int]) -> tuple[int, ...]:
    """What one turn takes of the waiting tokens."""
    return tuple(text.popleft() for _ in range(min(TEXT_LIMIT, len(text))))


def _missing(due: Due) -> list[Due]:
    """The turns between the call's last one and this one, as silence that was made up."""
    expected = due.call.next_turn
    first = due.turn if expected < 0 else max(expected, due.turn - GAP_TURNS)
    made_up = (TURN_SAMPLES // HEAR_POSITIONS,) * HEAR_POSITIONS
    return [Due(due.slot, due.call, turn, SILENCE, made_up, 0) for turn in range(first, due.turn)]
