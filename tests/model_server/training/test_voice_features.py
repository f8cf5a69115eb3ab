from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from media.timebase import MODEL_HZ
from model_server.model.vocoder import FLOOR, LOG_F0, MELS, SUBFRAME_SAMPLES, VOICING, Vocoder, mel_edges_hz
from model_server.training.voice_features import Sound, analyse, mel_filters, silence

SUBFRAMES = 32


def buzz(f0_hz: float, samples: int) -> Sound:
    """Harmonics up to 4 kHz with falling amplitudes."""
    time = np.arange(samples) / MODEL_HZ
    count = int(4000 / f0_hz)
    return 0.1 * sum((np.cos(2 * math.pi * f0_hz * k * time) / k for k in range(1, count)), np.zeros(samples))


def hiss(samples: int, level: float = 0.05) -> Sound:
    return level * np.random.default_rng(0).standard_normal(samples)


@pytest.mark.parametrize("f0_hz", [110.0, 165.3, 240.0])
def test_pitch_of_a_buzz_within_a_percent(f0_hz: float) -> None:
    features = analyse(buzz(f0_hz, 6400), SUBFRAMES)[3:-3]
    assert np.abs(np.exp(features[:, LOG_F0]) / f0_hz - 1).max() < 0.01
    assert features[:, VOICING].min() > 0.9


def test_hiss_has_no_voice_and_its_level() -> None:
    features = analyse(hiss(6400), SUBFRAMES)[3:-3]
    assert features[:, VOICING].max() < 0.5
    power = np.mean(10 ** (2 * features[:, :MELS].astype(float)))
    assert abs(10 * math.log10(power) - 20 * math.log10(0.05)) < 1


def test_silence_is_the_floor() -> None:
    features = analyse(np.zeros(100), 4)
    np.testing.assert_array_equal(features, silence(4))
    assert (features[:, :MELS] == FLOOR).all()


def test_the_envelope_does_not_show_single_harmonics() -> None:
    """From one mel to the next a falling spectrum falls; harmonics at 240 Hz would make it rise between."""
    features = analyse(buzz(240.0, 6400), SUBFRAMES)[10]
    low = features[: MELS // 3]
    assert np.diff(low[7:]).max() < 0.05


def test_pitch_is_drawn_through_what_has_none() -> None:
    sound = np.concatenate((buzz(150.0, 2400), hiss(1600, 0.02), buzz(200.0, 2400)))
    pitch = np.exp(analyse(sound, SUBFRAMES)[2:-2, LOG_F0])
    assert pitch.min() > 140 and pitch.max() < 210
    assert np.abs(np.diff(np.log(pitch))).max() < 0.15


def test_filters_keep_a_flat_spectrum_flat() -> None:
    filters = mel_filters(2048)
    np.testing.assert_allclose(filters.sum(1), 1)
    peaks = filters.argmax(1) * MODEL_HZ / 2048
    assert np.abs(peaks - mel_edges_hz()[1:-1]).max() <= MODEL_HZ / 2048


def test_edges_are_those_of_the_front_end() -> None:
    """The same 80 filters as dMel's, but for their gain."""
    from model_server.model import dmel

    ours, theirs = mel_filters(dmel.WINDOW_SAMPLES), dmel.mel_filters()
    np.testing.assert_allclose(ours, theirs / theirs.sum(1, keepdims=True), atol=1e-9)


@pytest.mark.parametrize("sound", [buzz(180.0, 6400), hiss(6400)], ids=["buzz", "hiss"])
def test_analysis_of_what_the_vocoder_makes_is_what_it_was_given(sound: Sound) -> None:
    features = analyse(sound, SUBFRAMES)
    vocoder = Vocoder()
    pcm, _ = vocoder(torch.from_numpy(features)[None], vocoder.start(1))
    assert len(pcm[0]) == SUBFRAMES * SUBFRAME_SAMPLES
    again = analyse(pcm[0].double().numpy() / 32768, SUBFRAMES)
    given, found = (
        rows[4:-4, :MELS].mean(0) for rows in (features, again)
    )  # hiss differs from piece to piece
    heard = given > given.max() - 2
    assert np.abs(found - given)[heard].mean() < 0.1
    loudness = np.sqrt(np.mean((pcm[0].numpy() / 32768.0) ** 2)) / np.sqrt(np.mean(sound**2))
    assert abs(20 * math.log10(loudness)) < 2
