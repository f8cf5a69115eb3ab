"""The contract of the path: what one micro-turn of one call carries, towards the model and back.

A `Chunk` is made by the leg that captured it and read by the model server; a `Reply` is made by the model
server and played by the leg. Both are published in one piece through a row of the slot table.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from media.timebase import TURN_SAMPLES

PCM = npt.NDArray[np.int16]
RGB = npt.NDArray[np.uint8]

MEMORY = "memory "
"""Begins an event of a reply that is no action but for the call's record: how the model got over the end of its
context, such as `memory rolling 240`: from now on it remembers the newest 240 s."""
MAX_TEXT_BYTES = 1024
MAX_EVENTS_BYTES = 512
VIDEO_SIZE = (320, 240)
"""Width and height in pixels, unless the table is created with another size."""
MAX_VIDEO_FRAMES = 2
QUARTERS = 4
QUARTER_SAMPLES = TURN_SAMPLES // QUARTERS
"""50 ms: what the model hears of a chunk at once."""
Quarters = tuple[int, int, int, int]


class Flags(enum.IntFlag):
    """What a row says besides its samples."""

    NONE = 0
    FIRST = 1
    """The call's first chunk: its front may be silence that was never captured."""
    LAST = 2
    """No chunk follows: the caller is gone or the leg is closing."""
    HELD = 4
    """The caller has put us on hold, or is muted: the samples are silence by intent, not by loss."""
    FLUSH = 8
    """Reply only: what is still queued of earlier replies is to be cut at once (the model yields)."""
    TEXT_CUT = 16
    """Text or events did not fit and were cut at a character or event; what is here is whole."""
    ANSWERED = 32
    """Chunk of a log only (`media.turn_log`): a model server before this one replied to it."""
    PAST = 64
    """Chunk of a call that moves to this model server (`media.leases`): its turn is over, another one had it."""


@dataclass(frozen=True, slots=True, eq=False)
class VideoFrame:
    """One picture: RGB24, in the size of the slot table.

    At the model server it is a view into the table, which the worker overwrites when its ring comes round (with
    the default of 4 frames a slot not before two turns later). Use the pixels, then ask `intact`; an engine that
    needs a picture for longer takes `copied`.
    """

    captured_ns: int
    """Monotonic, when its last packet arrived."""
    rgb: RGB
    """uint8 [height, width, 3]; read only when it is a view."""
    check: Callable[[], bool] | None = None
    """For a view: whether its cell still has this frame."""

    def __post_init__(self) -> None:
        if self.rgb.ndim != 3 or self.rgb.shape[2] != 3 or self.rgb.dtype != np.uint8:
            raise ValueError(f"rgb is {self.rgb.dtype} {list(self.rgb.shape)}: give uint8 [height, width, 3]")

    def intact(self) -> bool:
        """Whether the pixels are those of this frame: what was computed from them until now is right."""
        return self.check is None or self.check()

    def copied(self) -> VideoFrame | None:
        """A frame with pixels of its own; None when they were overwritten before the copy was done."""
        own = VideoFrame(self.captured_ns, self.rgb.copy())
        return own if self.intact() else None


@dataclass(frozen=True, slots=True)
class Chunk:
    """200 ms of a caller, on the way to the model."""

    generation: int
    """Tenant of the slot; a reply of another generation is dropped."""
    turn: int
    """0, 1, 2 ... since the call was answered."""
    captured_ns: int
    """Monotonic, when the last sample was due."""
    pcm: PCM
    """int16 [3200], 16 kHz mono."""
    concealed_quarters: Quarters = (0, 0, 0, 0)
    """Of each 50 ms of `pcm`, how many samples we made up (at 16 kHz)."""
    lost_packets: int = 0
    """Packets (or native frames) that were due in this turn and did not come."""
    dropped_samples: int = 0
    """Captured samples left out of `pcm` to keep the delay down (at 16 kHz)."""
    played_samples: int = 0
    """Of the model's speech, heard by the caller since the chunk before (at 16 kHz)."""
    text: str = ""
    events: tuple[str, ...] = ()
    """Small facts in the order they happened, such as `dtmf 5`, `hold`, `resume`."""
    video: tuple[VideoFrame, ...] = ()
    flags: Flags = Flags.NONE

    def __post_init__(self) -> None:
        assert self.pcm.shape == (TURN_SAMPLES,) and self.pcm.dtype == np.int16, self.pcm.shape
        assert len(self.video) <= MAX_VIDEO_FRAMES, len(self.video)

    @property
    def concealed_samples(self) -> int:
        """Of `pcm`, how many we made up (at 16 kHz)."""
        return sum(self.concealed_quarters)


@dataclass(frozen=True, slots=True)
class Reply:
    """200 ms of the model, on the way to the caller."""

    generation: int
    turn: int
    """The turn that this answers; it plays while turn + 1 is captured."""
    stepped_ns: int
    """Monotonic, when the model server published it."""
    pcm: PCM = field(default_factory=lambda: np.zeros(TURN_SAMPLES, np.int16))
    """int16 [3200], 16 kHz mono."""
    text: str = ""
    events: tuple[str, ...] = ()
    """Actions, such as `hangup` or `dtmf 5`."""
    flags: Flags = Flags.NONE
    engine_us: int = 0
    """Its part of the step that made it."""

    def __post_init__(self) -> None:
        assert self.pcm.shape == (TURN_SAMPLES,) and self.pcm.dtype == np.int16, self.pcm.shape
