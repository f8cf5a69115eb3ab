"""Pitch, formants and pace are changed one by one."""

from __future__ import annotations

import numpy as np
import pytest

from media.timebase import MODEL_HZ
from model_server.training.clip import Clip, Word
from model_server.training.perturb import Change, perturbed

PITCH_HZ, FORMANT_HZ = 125.0, 1200.0
COARSE = 0.16
"""Harmonics of a raised pitch lie far apart: the middle of their power is no exact formant."""


def _vowel() -> Clip:
    """Harmonics of 125 Hz under one formant at 1,200 Hz; the word in its middle third."""
    at = np.arange(int(0.6 * MODEL_HZ)) / MODEL_HZ
    sound = np.zeros(len(at))
    for harmonic in range(1, 30):
        hz = PITCH_HZ * harmonic
        sound += np.exp(-0.5 * ((hz - FORMANT_HZ) / 350) ** 2) * np.sin(2 * np.pi * hz * at)
    return Clip((sound * 3000).astype(np.int16), (Word("one", 3200, 6400),), "a", "a")


def _pitch_hz(clip: Clip) -> float:
    middle = clip.pcm[len(clip.pcm) // 2 - 1600 : len(clip.pcm) // 2 + 1600].astype(np.float64)
    similar = np.correlate(middle, middle, "full")[len(middle) - 1 :]
    return MODEL_HZ / (50 + int(np.argmax(similar[50:200])))


def _formant_hz(clip: Clip) -> float:
    power = np.abs(np.fft.rfft(clip.pcm.astype(np.float64))) ** 2
    hz = np.fft.rfftfreq(len(clip.pcm), 1 / MODEL_HZ)
    return float(np.sum(power * hz) / np.sum(power))


@pytest.mark.parametrize(
    "change",
    [Change(pitch=1.5), Change(tract=1.2), Change(tract=0.87), Change(1.3, 1.15, 0.9), Change(pace=1.25)],
)
def test_a_vowel_gets_the_pitch_the_formant_and_the_length_asked_for(change: Change) -> None:
    clip = perturbed(_vowel(), change)
    assert _pitch_hz(clip) == pytest.approx(PITCH_HZ * change.pitch, rel=0.03)
    assert _formant_hz(clip) == pytest.approx(FORMANT_HZ * change.tract, rel=COARSE)
    assert len(clip.pcm) == pytest.approx(0.6 * MODEL_HZ / change.pace, abs=2)
    assert clip.words[0].start_samples == pytest.approx(3200 / change.pace, abs=2)
    assert clip.words[0].end_samples == pytest.approx(6400 / change.pace, abs=2)
