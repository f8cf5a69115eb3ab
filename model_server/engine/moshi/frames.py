"""One call's sound between its turns (16 kHz, 200 ms) and the model's frames (24 kHz, 80 ms): two, three, two ...

    hear(turn) -> 4,800 samples at 24 kHz -> frames of 1,920; what is left, 0 or 960, waits for the next turn
    speak(frame) -> queue -> reply(): 4,800 samples -> a turn

Every frame that is heard is answered by one, but for the first of a call: as many as the model's streams are
delayed against each other. So the queue begins with `lead` samples of silence, just enough that every turn finds
its 4,800: the frames that the model owes, and the half frame that may wait. Nothing drifts: 5 frames are 2 turns.

The delay that this adds to the model's own is that half frame (40 ms) and two resamplers (3 ms each).
"""

from __future__ import annotations

import numpy as np

from media.chunk import PCM
from media.resample import Resampler
from media.timebase import MODEL_HZ, TURN_SAMPLES

FRAME_HZ = 24_000
FRAME_SAMPLES = 1_920
TURN_FRAME_SAMPLES = TURN_SAMPLES * FRAME_HZ // MODEL_HZ
MOST_FRAMES = -(-TURN_FRAME_SAMPLES // FRAME_SAMPLES)
"""Of a turn."""
_HALF = MOST_FRAMES * FRAME_SAMPLES - TURN_FRAME_SAMPLES


def lead_of(owed_frames: int) -> int:
    """Samples at 24 kHz of silence before a call's first frame that is answered."""
    return owed_frames * FRAME_SAMPLES + _HALF


class Frames:
    """Of one call. `owed_frames`: its first so many are not answered."""

    def __init__(self, owed_frames: int) -> None:
        self._to_model, self._from_model = Resampler(MODEL_HZ, FRAME_HZ), Resampler(FRAME_HZ, MODEL_HZ)
        self._heard = np.empty(0, np.int16)
        self._spoken = np.zeros(lead_of(owed_frames), np.int16)

    @property
    def waiting(self) -> int:
        """Whole frames that are heard and not taken."""
        return len(self._heard) // FRAME_SAMPLES

    @property
    def delay(self) -> int:
        """Samples at 16 kHz from what is heard to what a model says at once: this, and nothing else, is added."""
        inward = self._to_model.delay * MODEL_HZ // FRAME_HZ
        return inward + self._from_model.delay + _HALF * MODEL_HZ // FRAME_HZ

    def hear(self, pcm: PCM) -> None:
        """int16 [3200] of a turn."""
        self._heard = np.concatenate((self._heard, self._to_model.push(pcm)))

    def take(self) -> PCM:
        """int16 [1920]: the oldest frame that waits; there is one."""
        frame, self._heard = self._heard[:FRAME_SAMPLES], self._heard[FRAME_SAMPLES:]
        assert len(frame) == FRAME_SAMPLES, len(frame)
        return frame

    def speak(self, frame: PCM) -> None:
        """int16 [1920] of the model."""
        self._spoken = np.concatenate((self._spoken, frame))

    def reply(self) -> PCM:
        """int16 [3200]: the next turn; all frames of what was heard are taken and answered."""
        turn, self._spoken = self._spoken[:TURN_FRAME_SAMPLES], self._spoken[TURN_FRAME_SAMPLES:]
        assert len(turn) == TURN_FRAME_SAMPLES, f"{len(turn)} samples: a frame was not answered"
        return self._from_model.push(turn)
