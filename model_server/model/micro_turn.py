"""One micro-turn: which positions 200 ms of a call append to its sequence, in which order.

`TABLE` is the only place that knows. Training lays whole conversations out by it, the streamed model appends the
same positions turn by turn, so that both see one and the same sequence.

At the last `hear` position the model gives its first token, at each `say` position the next one, until it gives
`END` (implied: no position of its own) or has written as many as its configuration allows.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from media.timebase import TURN_SAMPLES
from model_server.model.vocabulary import END

HEAR_POSITIONS = 4
"""Positions of sound in a turn, in and out: 50 ms each."""
POSITION_SAMPLES = TURN_SAMPLES // HEAR_POSITIONS
SPEAK_POSITIONS = HEAR_POSITIONS
SUBFRAMES = 4
"""Acoustic vectors that one `speak` position gives: 12.5 ms each."""
TRUTH_LEVELS = 4
"""0: all of the 50 ms is the caller's; 3: (nearly) all of it was made up by the gateway."""
TEXT_LIMIT = 64
"""Injected tokens a turn; the engine keeps what is beyond for the next turn."""
MEL_CHANNELS = 80
MEL_LEVELS = 16
"""Of dMel: see `dmel.py`."""

Levels = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.float32]


class Kind(enum.IntEnum):
    """Of a position."""

    VIDEO = 0
    TEXT = 1
    HEAR = 2
    SAY = 3
    SPEAK = 4


@dataclass(frozen=True, slots=True)
class Part:
    """Positions of one kind within a turn."""

    kind: Kind
    count: int | None
    """Positions in every turn; None: as many as the turn has."""
    row: str
    """What stands in the position's row."""


TABLE = (
    Part(Kind.VIDEO, None, "a 40x40 patch of the picture before and of this one, through the patch tower"),
    Part(Kind.TEXT, None, "an injected token: persona, typed text, a result of the background model"),
    Part(
        Kind.HEAR,
        HEAR_POSITIONS,
        "50 ms of the caller + 50 ms of our own speech as it was heard + how much of it is real",
    ),
    Part(Kind.SAY, None, "a token that the model wrote"),
    Part(
        Kind.SPEAK, SPEAK_POSITIONS, "a learned placeholder, one of 4; its hidden row becomes 50 ms of sound"
    ),
)
"""The order of a turn."""


@dataclass(frozen=True, slots=True, eq=False)
class MicroTurn:
    """What goes into one turn of one call, and, in training, what the model was to write."""

    heard: Levels
    """uint8 [4, 80], dMel levels of the caller."""
    own: Levels
    """uint8 [4, 80], dMel levels of our own speech in the same 200 ms, as far as it was really played."""
    truth: Levels
    """uint8 [4], 0 .. TRUTH_LEVELS - 1: how much of each position was made up."""
    patches: Rows | None = None
    """float32 [n, 2, 40, 40, 3], normalised; None without a picture."""
    text: tuple[int, ...] = ()
    """Injected tokens, at most TEXT_LIMIT."""
    say: tuple[int, ...] = ()
    """Tokens written by the model, without `END`: of the target in training, empty before they are written."""

    def __post_init__(self) -> None:
        assert self.heard.shape == self.own.shape == (HEAR_POSITIONS, MEL_CHANNELS), self.heard.shape
        assert self.truth.shape == (HEAR_POSITIONS,), self.truth.shape
        assert len(self.text) <= TEXT_LIMIT, len(self.text)

    def count(self, kind: Kind) -> int:
        """Positions of that kind in this turn."""
        if kind is Kind.VIDEO:
            return 0 if self.patches is None else len(self.patches)
        if kind is Kind.TEXT:
            return len(self.text)
        return len(self.say) if kind is Kind.SAY else HEAR_POSITIONS


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The positions of a conversation, in order."""

    kinds: npt.NDArray[np.int64]
    """int64 [P], a `Kind` each."""
    targets: npt.NDArray[np.int64]
    """int64 [P], the token to be predicted at this position; -1: none."""
    turns: npt.NDArray[np.int64]
    """int64 [P], the turn of each position."""

    def where(self, kind: Kind) -> npt.NDArray[np.int64]:
        """The positions of that kind, in order: row i of the kind's rows stands at `where(kind)[i]`."""
        return np.flatnonzero(self.kinds == kind)


def lay_out(turns: Sequence[MicroTurn], say_limit: int) -> Layout:
    """The positions that these turns append, one after another.

    A turn that wrote `say_limit` tokens has no `END` to predict: the model is not asked for more.
    """
    kinds: list[int] = []
    targets: list[int] = []
    lengths = []
    for turn in turns:
        assert len(turn.say) <= say_limit, (turn.say, say_limit)
        before = len(kinds)
        for part in TABLE:
            kinds += [part.kind] * turn.count(part.kind)
        targets += [-1] * (len(kinds) - before)
        first = len(kinds) - SPEAK_POSITIONS - len(turn.say) - 1
        written = (*turn.say, END)[:say_limit]
        targets[first : first + len(written)] = written
        lengths.append(len(kinds) - before)
    return Layout(
        np.array(kinds, np.int64), np.array(targets, np.int64), np.repeat(np.arange(len(turns)), lengths)
    )


def truth_of(concealed_samples: Sequence[int] | npt.NDArray[np.int64]) -> Levels:
    """Levels of positions of which so many samples were made up: none, up to a third, two thirds, more."""
    fraction = np.asarray(concealed_samples) / POSITION_SAMPLES
    return np.ceil(np.clip(fraction, 0, 1) * (TRUTH_LEVELS - 1)).astype(np.uint8)
