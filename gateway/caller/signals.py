"""Test signals of which every stretch is unlike every other, so that it can be found again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]

SEGMENT_MS = 200
_LOW_HZ, _HIGH_HZ = 300.0, 3300.0  # inside a telephone line's band
_CHIRPS = 4
_FADE_MS = 5
_RMS = 3000.0  # about -21 dB below full scale: no clipping with four chirps


def numbered_tones(seconds: float, rate: int, seed: int) -> Samples:
    """int16 [seconds * rate]: each 200 ms has four chirps drawn from (seed, its index). Same seed, same
    signal."""
    total = round(seconds * rate)
    length = SEGMENT_MS * rate // 1000
    count = -(-total // length)
    pcm = np.empty(count * length, dtype=np.int16)
    for index in range(count):
        pcm[index * length : (index + 1) * length] = _segment(index, length, rate, seed)
    return pcm[:total]


def _segment(index: int, length: int, rate: int, seed: int) -> Samples:
    rng = np.random.default_rng([seed, index])
    time_s = np.arange(length) / rate
    first_hz, last_hz = rng.uniform(_LOW_HZ, _HIGH_HZ, (2, _CHIRPS, 1))
    phase = rng.uniform(0, 2 * np.pi, (_CHIRPS, 1))
    slope = (last_hz - first_hz) / (length / rate)
    chirps = np.sin(phase + 2 * np.pi * (first_hz * time_s + slope * time_s**2 / 2)).sum(axis=0)
    fade = _FADE_MS * rate // 1000
    ramp = np.sin(np.linspace(0, np.pi / 2, fade)) ** 2
    chirps[:fade] *= ramp
    chirps[-fade:] *= ramp[::-1]
    scaled: NDArray[np.float64] = chirps * (_RMS / np.sqrt(_CHIRPS / 2))
    return scaled.astype(np.int16)


def fill(pcm: Samples, seconds: float, rate: int) -> Samples:
    """`pcm` repeated or cut to `seconds`. Empty input gives silence."""
    total = round(seconds * rate)
    if pcm.size == 0:
        return np.zeros(total, dtype=np.int16)
    return np.tile(pcm, -(-total // pcm.size))[:total]
