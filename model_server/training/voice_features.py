"""Sound to the vocoder's acoustic vectors, for training only.

A smooth spectral envelope that does not show the single harmonics, as in WORLD's CheapTrick (Morise 2015,
doi 10.1016/j.specom.2014.09.003): a window of three periods, then the power averaged over two thirds of F0.
F0 is the peak of the normalised cross-correlation (Talkin 1995), good enough for one clean voice.

Knows nothing of words. One rule: vector j is centred where the vocoder puts its piece j, on sample 200 j + 200.

Shapes: S sub-frames of 200 samples at 16 kHz, F = 82.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from media.timebase import MODEL_HZ
from model_server.model.vocoder import (
    FEATURES,
    FLOOR,
    LOG_F0,
    MELS,
    RESTING_F0_HZ,
    SILENT_GAIN,
    SUBFRAME_SAMPLES,
    VOICING,
    mel_edges_hz,
)

Features = NDArray[np.float32]
Sound = NDArray[np.float64]

LOWEST_F0_HZ, HIGHEST_F0_HZ = 90.0, 350.0  # of the voice analysed
_UNVOICED_F0_HZ = 250.0  # sets the window where there is no pitch: 12 ms
_FFT = 2048
_CORRELATION_SAMPLES = 400
_VOICED = 0.5  # correlation; from there voicing rises to 1 at _SURELY_VOICED
_SURELY_VOICED = 0.75
_NEARLY_BEST = 0.9  # the shortest period this close to the best one wins: no octave too low
_EDGE = 1024  # silence put round the sound, so that every window is whole


def analyse(sound: Sound, subframes: int) -> Features:
    """Acoustic vectors float32 [S, F] of sound in -1..1 at 16 kHz, which is followed by silence."""
    padded = np.zeros(2 * _EDGE + (subframes + 1) * SUBFRAME_SAMPLES)
    padded[_EDGE : _EDGE + len(sound)] = sound
    centres = _EDGE + (np.arange(subframes) + 1) * SUBFRAME_SAMPLES
    f0_hz, voicing = _pitch(padded, centres)
    features = np.empty((subframes, FEATURES), np.float32)
    filters = mel_filters(_FFT)
    for row, centre, hz, voiced in zip(features, centres, f0_hz, voicing, strict=True):
        gain = _envelope(padded, int(centre), hz if voiced else _UNVOICED_F0_HZ)
        row[:MELS] = np.log10(np.maximum(filters @ gain, 10.0**FLOOR))
        if np.sqrt(np.mean(gain**2)) < SILENT_GAIN:
            row[:MELS] = FLOOR
    features[:, LOG_F0] = np.log(_without_gaps(f0_hz, voicing > 0))
    features[:, VOICING] = voicing
    return features


def silence(subframes: int) -> Features:
    """float32 [S, F] of nothing."""
    row = np.full(FEATURES, FLOOR, np.float32)
    row[LOG_F0], row[VOICING] = np.log(RESTING_F0_HZ), 0
    return np.tile(row, (subframes, 1))


def mel_filters(fft: int) -> NDArray[np.float64]:
    """Triangles [80, fft/2 + 1], each with the sum 1: a mean, so that a flat spectrum stays what it is."""
    hz = np.arange(fft // 2 + 1) * MODEL_HZ / fft
    low, centre, high = (edge[:, None] for edge in (mel_edges_hz()[k : MELS + k] for k in range(3)))
    triangles = np.maximum(0, np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre)))
    normalised: NDArray[np.float64] = triangles / triangles.sum(1, keepdims=True)
    return normalised


def _envelope(sound: Sound, centre: int, f0_hz: float) -> NDArray[np.float64]:
    """Gain over a unit-power source at every bin [fft/2 + 1] of _FFT."""
    half = round(1.5 * MODEL_HZ / f0_hz)
    window = np.hanning(2 * half + 1)
    piece = sound[centre - half : centre + half + 1] * window
    power = np.abs(np.fft.rfft(piece, _FFT)) ** 2 / np.sum(window**2)
    width = max(1, round(2 / 3 * f0_hz * _FFT / MODEL_HZ) // 2)
    mirrored = np.concatenate((power[width:0:-1], power, power[-2 : -width - 2 : -1]))
    return np.sqrt(np.convolve(mirrored, np.full(2 * width + 1, 1 / (2 * width + 1)), "valid"))


def _pitch(sound: Sound, centres: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """F0 in Hz and voicing 0..1 at every centre."""
    found = np.array([_period(sound, int(centre)) for centre in centres])
    voicing = np.clip((found[:, 1] - _VOICED) / (_SURELY_VOICED - _VOICED), 0, 1)
    f0_hz = MODEL_HZ / found[:, 0]
    middle = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(f0_hz, 2, mode="edge"), 5), axis=1)
    stray = np.abs(np.log2(f0_hz / middle)) > 0.25
    return np.where(stray, middle, f0_hz), voicing


def _period(sound: Sound, centre: int) -> tuple[float, float]:
    """Period in samples and correlation 0..1 of the sound with itself one period on, round that sample."""
    lags = np.arange(int(MODEL_HZ / HIGHEST_F0_HZ), int(MODEL_HZ / LOWEST_F0_HZ) + 1)
    start = centre - (_CORRELATION_SAMPLES + lags) // 2
    reach = np.arange(_CORRELATION_SAMPLES)
    here, there = sound[start[:, None] + reach], sound[(start + lags)[:, None] + reach]
    energy = np.sqrt(np.sum(here**2, 1) * np.sum(there**2, 1))
    score = np.sum(here * there, 1) / (energy + 1e-4 * _CORRELATION_SAMPLES * np.mean(sound**2) + 1e-12)
    peaks = np.flatnonzero((score[1:-1] >= score[:-2]) & (score[1:-1] >= score[2:])) + 1
    if not len(peaks) or score[peaks].max() <= 0:
        return MODEL_HZ / RESTING_F0_HZ, 0.0
    best = peaks[np.argmax(score[peaks] >= _NEARLY_BEST * score[peaks].max())]
    before, at, after = score[best - 1 : best + 2]
    curvature = before - 2 * at + after
    return float(lags[best] + (0.5 * (before - after) / curvature if curvature else 0.0)), float(at)


def _without_gaps(f0_hz: NDArray[np.float64], voiced: NDArray[np.bool_]) -> NDArray[np.float64]:
    """F0 of voiced sub-frames, drawn straight through the others."""
    if not voiced.any():
        return np.full(len(f0_hz), RESTING_F0_HZ)
    at = np.flatnonzero(voiced)
    return np.exp(np.interp(np.arange(len(f0_hz)), at, np.log(f0_hz[at])))
