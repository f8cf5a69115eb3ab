"""The contract of the path: what one micro-turn of one call carries, towards the model and back.

A `Chunk` is made by the leg that captured it and read by the model server; a `Reply` is made by the model
server and played by the leg. Both are published in one piece through a row of the slot table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from media.timebase import TURN_SAMPLES

PCM = npt.NDArray[np.int16]

MAX_TEXT_BYTES = 1024
MAX_EVENTS_BYTES = 512
VIDEO_WIDTH, VIDEO_HEIGHT = 320, 240
VIDEO_FRAME_BYTES = VIDEO_WIDTH * VIDEO_HEIGHT * 3 // 2
"""I420 at the default size: one full-size luma plane, two quarter-size chroma planes."""
MAX_VIDEO_FRAMES = 2


class Flags(enum.IntFlag):
    """What a row says besides its samples."""

    NONE = 0
    FIRST = 1
    """The call's first chunk: its front may be silence that was never captured."""
    LAST = 2
    """No chunk follows: the caller is gone or the leg is closing."""
    HELD = 4
    """The caller has put us on hold: the samples are silence by intent, not by loss."""
    FLUSH = 8
    """Reply only: what is still queued of earlier replies is to be cut at once (the model yields)."""
    TEXT_CUT = 16
    """Text or events did not fit and were cut at a character or event; what is here is whole."""


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One picture: I420, `VIDEO_WIDTH` x `VIDEO_HEIGHT`, `VIDEO_FRAME_BYTES` bytes."""

    captured_ns: int
    i420: bytes

    def __post_init__(self) -> None:
        if len(self.i420) != VIDEO_FRAME_BYTES:
            raise ValueError(f"a video frame is {VIDEO_FRAME_BYTES} bytes of I420, got {len(self.i420)}")


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
    concealed_samples: int = 0
    """Of `pcm`, how many we made up (at 16 kHz)."""
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

    def __post_init__(self) -> None:
        assert self.pcm.shape == (TURN_SAMPLES,) and self.pcm.dtype == np.int16, self.pcm.shape
