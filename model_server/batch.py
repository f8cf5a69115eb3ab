"""What one tick gives to the engine and gets back from it.

Shapes: B rows of the batch, one a slot, at most one row a slot; S = 3,200 samples; M slots without a row.
A batch knows nothing of rings or workers, and an engine gets nothing that is not in it.

Video frames of its chunks are views into the slot table, not copies: they hold still for the step at least, and
`VideoFrame.intact` says afterwards whether they did. What is to be kept for longer is to be copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from media.chunk import Chunk, Flags
from media.timebase import TURN_SAMPLES
from model_server.shedding import Shed

Slots = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Batch:
    """The newest chunk of every slot that takes part in a tick."""

    tick_ns: int
    """Monotonic, when the tick was due."""
    slots_B: Slots
    """Ascending, all different."""
    meta_B: npt.NDArray[Any]
    """`media.ring.META` of each row: turn, flags, samples concealed (of each 50 ms), dropped and played."""
    pcm_BS: npt.NDArray[np.int16]
    """int16 [B, 3200], 16 kHz mono."""
    chunks: Mapping[int, Chunk] = field(default_factory=dict)
    """Row b -> the whole chunk, only where it has text, events or video, or is the first or last one."""
    earlier: Mapping[int, tuple[Chunk, ...]] = field(default_factory=dict)
    """Slot -> older chunks in order, where more than one was waiting (server or worker was late). They belong
    into the state of the sequence before the newest one; no reply is made to them. A slot may be here and
    not in `slots_B`: then all that it sent came too late for this tick."""
    missing_M: Slots = field(default_factory=lambda: np.empty(0, np.intp))
    """Slots that are in mid-call and have no row at this tick: masked."""
    shed: Shed = Shed.NOTHING
    """What the engine is to leave out."""

    def __post_init__(self) -> None:
        assert self.pcm_BS.shape == (len(self.slots_B), TURN_SAMPLES), self.pcm_BS.shape
        assert self.meta_B.shape == self.slots_B.shape, self.meta_B.shape

    def __len__(self) -> int:
        return len(self.slots_B)

    def whole_chunks(self) -> Iterator[Chunk]:
        """Every chunk that is here as one, in `chunks` and `earlier`."""
        yield from self.chunks.values()
        for older in self.earlier.values():
            yield from older

    @property
    def turns_B(self) -> npt.NDArray[np.uint32]:
        """uint32 [B]: the turn that each row asks about, which is the one that its reply answers."""
        turns: npt.NDArray[np.uint32] = self.meta_B["turn"]
        return turns


@dataclass(frozen=True, slots=True)
class Said:
    """What a reply carries besides samples."""

    text: str = ""
    events: tuple[str, ...] = ()
    flags: Flags = Flags.NONE


@dataclass(frozen=True, slots=True)
class Results:
    """Row b answers row b of the batch."""

    pcm_BS: npt.NDArray[np.int16]
    """int16 [B, 3200], 16 kHz mono."""
    said: Mapping[int, Said] = field(default_factory=dict)
    """Row b -> text, actions and flags, only where there are any."""
    passes: int = 0
    """Passes of the network, one after another, that this took; 0 where there is no network."""
    positions: int = 0
    """What the sequences of the batch keep after it, in all."""
