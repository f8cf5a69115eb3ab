"""dMel: sound as 80 channels of 16 levels, a frame every 50 ms. Streaming, exact and without look-ahead.

A frame sees the 800 samples before its 50 ms and those of it: 1,600 samples, one FFT. So a call carries 800 samples
from chunk to chunk, and streamed levels equal those of the whole recording, bit for bit.

Method: Bai et al. 2024, arXiv 2407.15835; sizes and rounding of the open Inkling family (transformers 5.23.0,
`feature_extraction_inkling.py`, `processing_inkling.py`), with which the levels agree bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from media.timebase import MODEL_HZ
from model_server.model.micro_turn import MEL_CHANNELS, MEL_LEVELS, POSITION_SAMPLES, Levels

HOP_SAMPLES = POSITION_SAMPLES
WINDOW_SAMPLES = 2 * HOP_SAMPLES
CARRIED_SAMPLES = WINDOW_SAMPLES - HOP_SAMPLES
LOWEST, HIGHEST = -7.0, 2.0
"""log10 of a channel at the first and the last level; clipped to them."""
FLOOR = 1e-10
FULL_SCALE = 32768
_FRAMES = 64
"""Worked on at once: what they need in between stays in the cache."""

PCM = npt.NDArray[np.int16]


def mel_filters() -> npt.NDArray[np.float64]:
    """[80, 801]: triangles on Slaney's mel scale from 0 to 8 kHz, of equal area."""
    scale = np.log(6.4) / 27  # above 1 kHz a mel is this much of a natural logarithm; below, 200 / 3 Hz
    top = 15 + np.log(MODEL_HZ / 2 / 1000) / scale
    mels = np.linspace(0, top, MEL_CHANNELS + 2)
    edges = np.where(mels >= 15, 1000 * np.exp(scale * (mels - 15)), mels * 200 / 3)
    bins = np.linspace(0, MODEL_HZ / 2, WINDOW_SAMPLES // 2 + 1)
    slopes = edges[:, None] - bins
    widths = np.diff(edges)[:, None]
    triangles = np.maximum(0, np.minimum(-slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]))
    return np.asarray(triangles * (2 / (edges[2:] - edges[:-2]))[:, None])


@functools.cache
def _constants() -> tuple[Tensor, Tensor, Tensor]:
    """Window [1600], filters [801, 80] and borders between the levels [15]."""
    window = torch.hann_window(WINDOW_SAMPLES, periodic=True, dtype=torch.float32)
    filters = torch.from_numpy(np.ascontiguousarray(mel_filters().T, np.float32))
    return window, filters, _borders(torch.linspace(LOWEST, HIGHEST, MEL_LEVELS, dtype=torch.float64).float())


def _borders(centres: Tensor) -> Tensor:
    """The largest float32 between two centres that is, as float32 computes it, not farther from the lower one."""
    nearer, farther = centres[:-1].clone(), centres[1:].clone()
    while ((middle := (nearer + farther) / 2) != nearer).logical_and(middle != farther).any():
        lower = (middle - centres[:-1]).abs() <= (middle - centres[1:]).abs()
        nearer, farther = torch.where(lower, middle, nearer), torch.where(lower, farther, middle)
    return nearer


@functools.cache
def _silence() -> Tensor:
    """uint8 [80]: the levels of a frame of zeros."""
    return _levels(torch.zeros(1, WINDOW_SAMPLES))[0]


def levels_of_samples(samples_BS: Tensor) -> Tensor:
    """float32 [B, 800 + n * 800] in -1 .. 1, the carried samples first, to uint8 [B, n, 80].

    Frames of zeros, as our own voice mostly is, are not computed.
    """
    sounds = (samples_BS != 0).unflatten(1, (-1, HOP_SAMPLES)).any(-1)
    heard = sounds[:, 1:] | sounds[:, :-1]
    levels = _silence().repeat(*heard.shape, 1)
    frames = samples_BS.unfold(1, WINDOW_SAMPLES, HOP_SAMPLES)
    at_B, at_n = heard.nonzero(as_tuple=True)
    for b, n in zip(at_B.split(_FRAMES), at_n.split(_FRAMES), strict=True):
        if len(b):  # a split of nothing has one part
            levels[b, n] = _levels(frames[b, n])
    return levels


def _levels(frames_N: Tensor) -> Tensor:
    """Frames [N, 1600], which are overwritten, to uint8 [N, 80]."""
    window, filters, borders = _constants()
    spectrum = torch.view_as_real(torch.fft.rfft(frames_N.mul_(window))).square_()
    magnitudes = (spectrum[..., 0] + spectrum[..., 1]).clamp_min_(FLOOR).sqrt_()
    mel = (magnitudes @ filters).clamp_min_(FLOOR).log10_().clamp_(LOWEST, HIGHEST)
    return torch.bucketize(mel, borders).to(torch.uint8)


def levels_of(pcm: PCM) -> Levels:
    """A whole recording, int16 [samples] at 16 kHz, to uint8 [ceil(samples / 800), 80]; silence lies before."""
    rest = -len(pcm) % HOP_SAMPLES
    samples = F.pad(torch.from_numpy(pcm.astype(np.float32) / FULL_SCALE), (CARRIED_SAMPLES, rest))
    levels: Levels = levels_of_samples(samples[None])[0].numpy()
    return levels


class DmelStream:
    """The front end of up to `rows` calls; a row carries the last 800 samples of its call."""

    def __init__(self, rows: int) -> None:
        self._carried = torch.zeros(rows, CARRIED_SAMPLES)

    def open(self, row: int) -> None:
        """A call begins: silence lies before it."""
        self._carried[row].zero_()

    def levels(self, rows: Sequence[int], pcm_BS: Tensor) -> Tensor:
        """The next samples of these calls, int16 [B, n * 800], to uint8 [B, n, 80]."""
        assert pcm_BS.dtype == torch.int16 and pcm_BS.shape[1] % HOP_SAMPLES == 0, (
            pcm_BS.dtype,
            pcm_BS.shape,
        )
        index = torch.tensor(rows)
        samples = torch.cat([self._carried[index], pcm_BS.float() / FULL_SCALE], 1)
        self._carried[index] = samples[:, -CARRIED_SAMPLES:]
        return levels_of_samples(samples)
