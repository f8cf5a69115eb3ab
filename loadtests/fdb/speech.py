"""Where somebody speaks in a recording, by its energy: what the benchmark's scripts ask silero-vad.

Frames of 10 ms are loud within 26 dB of the loud ones (95th percentile of those with sound) and above -49 dBFS,
which the comfort sound and the noise of codecs do not reach. Gaps of 0.1 s belong to the speech; less than
0.06 s of it is a click.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from loadtests.fdb.scores import Stretch, merged

FRAME_S = 0.01
LEAST_RMS, BELOW_LOUD = 120.0, 0.05
JOINED_S, CLICK_S = 0.1, 0.06


def speech_in(path: Path) -> tuple[list[Stretch], float]:
    """Stretches of speech in a sound file, and its length in seconds."""
    pcm, rate_hz = soundfile.read(path, dtype="int16", always_2d=True)
    return stretches(pcm[:, 0], int(rate_hz)), len(pcm) / rate_hz


def stretches(pcm: NDArray[np.int16], rate_hz: int) -> list[Stretch]:
    """Of int16 [n]."""
    size = round(FRAME_S * rate_hz)
    count = len(pcm) // size
    frames = pcm[: count * size].reshape(count, size).astype(np.float32)
    level = np.sqrt(np.mean(frames * frames, axis=1)) if count else np.zeros(0, np.float32)
    heard = level[level > LEAST_RMS]
    if not len(heard):
        return []
    loud = level > max(LEAST_RMS, BELOW_LOUD * float(np.percentile(heard, 95)))
    edges = np.flatnonzero(np.diff(np.concatenate(([False], loud, [False])).astype(np.int8)))
    runs = [(float(a) * FRAME_S, float(b) * FRAME_S) for a, b in edges.reshape(-1, 2)]
    return [run for run in merged(runs, JOINED_S) if run[1] - run[0] >= CLICK_S]
