"""Rows of state for the calls of one phase group, without a gap between them.

Calls that step together lie in one piece of memory, which the trunk then reads without a copy. Room is doubled when
it is full, so that a server for 256 calls does not hold the memory of 256 when four have come. A call's row moves
when another one leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from model_server.model.interaction import Interaction
from model_server.model.vocoder import Vocoder, VocoderState

FIRST_ROOM = 4


class Sequences:
    """The sequences of some slots. What a call keeps is bounded: see `TrunkState.bytes_per_row`."""

    def __init__(self, model: Interaction, vocoder: Vocoder) -> None:
        self._model, self._vocoder = model, vocoder
        self.trunk = model.state(FIRST_ROOM)
        self.voice: VocoderState = vocoder.start(FIRST_ROOM)
        self._rows: dict[int, int] = {}
        """Slot -> row, 0 .. n - 1 in the order of insertion but for those that moved."""

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, slot: int) -> bool:
        return slot in self._rows

    @property
    def slots(self) -> Iterable[int]:
        """With a sequence here."""
        return self._rows.keys()

    def check(self) -> list[str]:
        """What is not whole, a line each: rows without a gap, memory as declared, numbers that are numbers."""
        wrong = []
        if sorted(self._rows.values()) != list(range(len(self._rows))):
            wrong.append(f"rows {sorted(self._rows.values())}: expected 0 to {len(self._rows) - 1}")
        for slot, row in self._rows.items():
            wrong += [f"slot {slot}: {line}" for line in self.trunk.check(row)]
        return wrong

    @property
    def bytes_per_row(self) -> int:
        """What one call costs."""
        return self.trunk.bytes_per_row + self.voice.bytes_per_row

    def row(self, slot: int) -> int:
        """The row of an open slot, until another one is closed."""
        return self._rows[slot]

    def open(self, slot: int) -> None:
        """A new sequence."""
        assert slot not in self._rows, f"slot {slot} is open"
        row = len(self._rows)
        if row == self.trunk.rows:
            self._grow()
        self._rows[slot] = row
        self.trunk.open(row)
        self.voice.open(row)

    def close(self, slot: int) -> None:
        """Forget it; the last row takes its place."""
        row, last = self._rows.pop(slot), len(self._rows)
        self.trunk.close(row)
        if row != last:
            moving = next(other for other, place in self._rows.items() if place == last)
            self._rows[moving] = row
            self.trunk.move(last, row)
            self.voice.put(torch.tensor([row]), self.voice.select(torch.tensor([last])))

    def rows(self, slots: Sequence[int]) -> list[int]:
        """Of open slots."""
        return [self._rows[slot] for slot in slots]

    def _grow(self) -> None:
        old, new = self.trunk, self._model.state(2 * self.trunk.rows)
        for row in range(old.rows):
            new.open(row)
        for kept, wider in zip(old.layers, new.layers, strict=True):
            for source, target in zip(kept.buffers(), wider.buffers(), strict=True):
                target[: old.rows] = source
        new.positions[: old.rows] = old.positions
        self.trunk = new
        self.voice = VocoderState.join([self.voice, self._vocoder.start(old.rows)])
