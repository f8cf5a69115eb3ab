"""The protocol of an engine: what turns a batch of chunks into a batch of replies.

An engine is called from one thread, never at the same time, and never waits for anybody but its device.
"""

from __future__ import annotations

from typing import Protocol

from model_server.batch import Batch, Results


class Engine(Protocol):
    """One model, many sequences: one per open slot."""

    @property
    def name(self) -> str:
        """As in `--engine`."""
        ...

    def open(self, slot: int, persona: str) -> None:
        """A new sequence in `slot`, which has none. `ValueError` when the persona cannot be had."""
        ...

    def step(self, batch: Batch) -> Results:
        """One turn of every row. Every slot in the batch is open; an exception ends the process."""
        ...

    def close(self, slot: int) -> None:
        """Forget the sequence of `slot`, which is open."""
        ...
