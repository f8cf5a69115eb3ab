"""What came back of what was played: lag and likeness, window by window.

Arrays only. Windows of what was played are looked for in what was heard by normalised cross-correlation,
at 16 kHz, the rate of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

RATE_HZ = 16_000
WINDOW_MS, HOP_MS = 400, 200
ACTIVE_BELOW_LOUD = 0.1  # a window is active within 20 dB of the loud ones

Pcm = NDArray[np.int16]
Real = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Window:
    """One window of what was played that has sound in it."""

    at_ms: float
    lag_ms: float  # where it is best found in what was heard, less at_ms
    score: float  # normalised correlation there, at most 1


def match(played: Pcm, heard: Pcm, rate_hz: int) -> list[Window]:
    """Every active window of `played` in `heard`, both of this rate, each on its own."""
    source, sink = (_at_16k(pcm, rate_hz) for pcm in (played, heard))
    size, hop = (ms * RATE_HZ // 1000 for ms in (WINDOW_MS, HOP_MS))
    starts = np.arange(0, len(source) - size, hop)
    power = np.array([float(np.sum(source[s : s + size] ** 2)) for s in starts])
    active = power > ACTIVE_BELOW_LOUD**2 * np.percentile(power, 95)
    if len(sink) < size:
        return []
    return [_find(source, sink, int(s), size) for s in starts[active]]


def _find(source: Real, sink: Real, start: int, size: int) -> Window:
    pattern = source[start : start + size]
    length = 1 << (len(sink) + size - 1).bit_length()
    product = np.fft.irfft(np.fft.rfft(sink, length) * np.conj(np.fft.rfft(pattern, length)), length)
    energy = np.cumsum(np.concatenate([[0.0], sink**2]))
    local = energy[size:] - energy[:-size]
    floor = 1e-3 * float(np.sum(pattern**2))  # silence resembles nothing
    scores = product[: len(local)] / np.sqrt(np.maximum(local, floor) * np.sum(pattern**2))
    best = int(np.argmax(scores))
    return Window(1000 * start / RATE_HZ, 1000 * (best - start) / RATE_HZ, float(scores[best]))


def _at_16k(pcm: Pcm, rate_hz: int) -> Real:
    resampled: Real = soxr.resample(pcm.astype(np.float64), rate_hz, RATE_HZ)
    return resampled
