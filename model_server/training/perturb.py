"""One speaker made into many: pitch, vocal tract and pace of a clip changed, its words' times kept exact.

Resampling by `pitch` moves pitch and formants together; the spectral envelope is then warped so that the formants
end at `tract`, and overlap-add of similar segments (WSOLA, Verhelst and Roelands, ICASSP 1993) sets the pace.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr

from media.timebase import MODEL_HZ
from model_server.training.clip import Clip, Floats, Word

_WINDOW, _HOP = 512, 128
"""32 ms and 8 ms: short enough for plosives, long enough for the lowest pitch."""
_QUEFRENCIES = 30
"""Cepstral coefficients of the envelope: 1.9 ms, below the shortest pitch period."""
_SEEK = 80
"""WSOLA looks for the most similar segment within +-5 ms."""
_HANN = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Change:
    """What is done to a voice; 1.0 everywhere changes nothing."""

    pitch: float = 1.0
    """Of the fundamental: 2.0 is an octave up."""
    tract: float = 1.0
    """Of the formants: above 1 a shorter vocal tract (women 1.15, children 1.3, against men)."""
    pace: float = 1.0
    """Above 1: faster."""


def perturbed(clip: Clip, change: Change) -> Clip:
    """The clip by another voice; words keep their places in it, scaled by the pace."""
    voice = clip.pcm.astype(np.float32)
    if change.pitch != 1.0:
        voice = soxr.resample(voice, MODEL_HZ * change.pitch, MODEL_HZ, quality="HQ").astype(np.float32)
    shift = change.tract / change.pitch
    if abs(shift - 1.0) > 0.01:
        voice = warped(voice, shift)
    length = max(2 * _WINDOW, round(len(clip.pcm) / change.pace))
    voice = stretched(voice, length)
    scale = length / len(clip.pcm)
    words = tuple(
        Word(word.label, int(word.start_samples * scale), min(length, int(word.end_samples * scale)))
        for word in clip.words
    )
    loudest = max(1.0, float(np.abs(voice).max(initial=0.0)) / 32000)
    return Clip((voice / loudest).astype(np.int16), words, clip.speaker, clip.source)


def stretched(voice: Floats, length: int) -> Floats:
    """float32 [n] -> [length], pitch and formants kept."""
    if abs(length - len(voice)) < 2:
        return np.resize(voice, length) if len(voice) >= length else np.pad(voice, (0, length - len(voice)))
    hop = _WINDOW // 2
    count = -(-length // hop) + 1
    source = np.pad(voice, (hop + _SEEK, _WINDOW + hop + _SEEK))
    out = np.zeros((count + 1) * hop, np.float32)
    at = _SEEK
    for i in range(count):
        wanted = _SEEK + round(i * hop * len(voice) / length)
        if i:
            follows = source[at + hop : at + hop + hop]
            region = source[wanted - _SEEK : wanted + _SEEK + hop]
            score = np.correlate(region[::2], follows[::2], "valid")
            at = wanted - _SEEK + 2 * int(score.argmax())
        segment = source[at : at + _WINDOW]
        out[i * hop : i * hop + len(segment)] += segment * _HANN[: len(segment)]
    return out[hop : hop + length]


def warped(voice: Floats, shift: float) -> Floats:
    """float32 [n] -> [n] with the formants moved by `shift`, the pitch kept.

    Each 32 ms spectrum is divided by its own cepstrally smoothed envelope and multiplied by the moved one.
    """
    padded = np.pad(voice, (_WINDOW, 2 * _WINDOW))
    frames = 1 + (len(padded) - _WINDOW) // _HOP
    index = np.arange(frames)[:, None] * _HOP + np.arange(_WINDOW)
    spectrum = np.fft.rfft(padded[index] * _HANN, axis=1)
    log_magnitude = np.log(np.abs(spectrum) + 1.0)
    cepstrum = np.fft.irfft(log_magnitude, axis=1)
    cepstrum[:, _QUEFRENCIES : _WINDOW - _QUEFRENCIES + 1] = 0.0
    envelope = np.fft.rfft(cepstrum, axis=1).real
    bins = np.arange(envelope.shape[1])
    source = np.minimum(bins / shift, bins[-1])
    low = source.astype(np.intp)
    part = source - low
    moved = envelope[:, low] * (1 - part) + envelope[:, np.minimum(low + 1, bins[-1])] * part
    changed = np.fft.irfft(spectrum * np.exp(np.clip(moved - envelope, -6.0, 6.0)), axis=1) * _HANN
    out = np.zeros(len(padded), np.float32)
    for k in range(_WINDOW // _HOP):
        lane = changed[k :: _WINDOW // _HOP].reshape(-1)
        out[k * _HOP : k * _HOP + len(lane)] += lane[: len(out) - k * _HOP]
    return out[_WINDOW : _WINDOW + len(voice)] / 1.5
