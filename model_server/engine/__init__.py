"""The protocol of an engine: what turns a batch of chunks into a batch of replies.

An engine is called from one thread, never at the same time, and never waits for anybody but its device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from model_server.batch import Batch, Results

LOST_STATUS = 70
"""Exit status of a process that ends because another one did."""


class EngineLost(RuntimeError):
    """A process that the engine needs is dead or does not answer. The message says which and how: this one ends."""


class Engine(Protocol):
    """One model, many sequences: one per open slot."""

    @property
    def name(self) -> str:
        """As in `--engine`."""
        ...

    @property
    def most_passes(self) -> int:
        """Passes of the network, one after another, that a turn may take; 0 where there is no network."""
        ...

    @property
    def most_positions(self) -> int:
        """What the sequence of one call keeps at most; 0 where it keeps none."""
        ...

    @property
    def gauges(self) -> Mapping[str, int]:
        """Numbers of its own, beside those of the model server."""
        ...

    def warm(self, calls: int) -> None:
        """Before the first call: make ready for steps of up to so many, so that none has to wait for it."""
        ...

    def check(self) -> list[str]:
        """For idle moments: what is wrong with what is kept of calls, a line each; nothing is mended."""
        ...

    def pictures(self, slot: int) -> int:
        """Pictures of a chunk that this call looks at: 0 to `MAX_VIDEO_FRAMES`; more are not sent."""
        ...

    def open(self, slot: int, persona: str) -> None:
        """A new sequence in `slot`, which has none. `ValueError` when the persona cannot be had."""
        ...

    def step(self, batch: Batch) -> Results:
        """One turn of every row. Every slot in the batch is open; an exception ends the process, as `EngineLost`
        does whenever it comes."""
        ...

    def close(self, slot: int) -> None:
        """Forget the sequence of `slot`, which is open."""
        ...
