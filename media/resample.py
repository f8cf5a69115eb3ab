"""Sample-rate change of one stream in blocks, with a constant delay: a windowed sinc as one matrix product.

soxr's stream gives its output in lumps of up to 100 ms, which would be delay, and its one-shot call designs its
filter anew each time (37 of the 59 us that a 200 ms block took). Here the filter is a matrix, made once for each
pair of rates: `STEP_MS` of output are `STEP_MS` of input and `CONTEXT_MS` on both sides of it times that matrix,
and a block is all its steps at once. Every block comes out whole, and the delay is `CONTEXT_MS`.

The filter is Kaiser's (Oppenheim & Schafer, Discrete-Time Signal Processing, 7.5.3): -6 dB at half the lower rate,
flat up to 91 % of that, what would fold back from beyond 109 % damped by 70 dB.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from media.chunk import PCM
from media.timebase import samples_of

CONTEXT_MS = 3
STEP_MS = 2
"""So much at once: longer, and the matrix is mostly zeros; shorter, and its product is mostly copying."""
_BETA = 6.76  # Kaiser's for 70 dB

Matrix = npt.NDArray[np.float32]


class Resampler:
    """int16 mono from `from_hz` to `to_hz`; equal rates pass through without delay."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self.from_hz, self.to_hz = from_hz, to_hz
        self.delay = samples_of(CONTEXT_MS, to_hz) if from_hz != to_hz else 0
        """Samples at `to_hz`."""
        self._step = samples_of(STEP_MS, from_hz)
        self._before = np.zeros(2 * samples_of(CONTEXT_MS, from_hz), np.float32)
        self._matrix = _matrix(from_hz, to_hz)

    def push(self, pcm: PCM) -> PCM:
        """int16 [n] -> int16 [n * to_hz / from_hz]; n at `from_hz` must make a whole number of `STEP_MS`."""
        if self.from_hz == self.to_hz or not len(pcm):
            return pcm
        joined = np.concatenate((self._before, pcm), dtype=np.float32)
        self._before = joined[len(pcm) :]
        steps = np.lib.stride_tricks.as_strided(
            joined, (len(pcm) // self._step, len(self._matrix)), (4 * self._step, 4), writeable=False
        )
        out = steps @ self._matrix
        np.rint(out, out=out)
        np.clip(out, -32768, 32767, out=out)
        return out.astype(np.int16).ravel()


@functools.cache
def _matrix(from_hz: int, to_hz: int) -> Matrix:
    """float32 [samples of a step and both contexts, samples that they make]."""
    half = CONTEXT_MS / 1000
    inputs_s = np.arange(samples_of(STEP_MS + 2 * CONTEXT_MS, from_hz)) / from_hz - half
    outputs_s = np.arange(samples_of(STEP_MS, to_hz)) / to_hz
    apart_s = inputs_s[:, None] - outputs_s
    inside = np.clip(1 - (apart_s / half) ** 2, 0, None)
    weights = np.sinc(apart_s * min(from_hz, to_hz)) * np.i0(_BETA * np.sqrt(inside)) * (inside > 0)
    matrix: Matrix = (weights / weights.sum(axis=0)).astype(np.float32)
    return matrix
