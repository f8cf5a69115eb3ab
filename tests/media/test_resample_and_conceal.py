"""Blocks come out whole and join without a seam; what is made up fades, what is taken out is not heard."""

from __future__ import annotations

import numpy as np
import pytest

from media.conceal import shorten, stretch
from media.resample import CONTEXT_MS, Resampler


def speechlike(rate: int, seconds: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    spectrum = np.fft.rfft(rng.standard_normal(int(rate * seconds)))
    hz = np.fft.rfftfreq(int(rate * seconds), 1 / rate)
    wave = np.fft.irfft(spectrum * (hz > 100) * (hz < 3300) / (1 + (hz / 500) ** 2))
    return (wave / np.abs(wave).max() * 16_000).astype(np.int16)


def snr_db(signal: np.ndarray, other: np.ndarray) -> float:
    noise = signal.astype(float) - other
    return float(10 * np.log10((signal.astype(float) ** 2).sum() / max(1.0, (noise**2).sum())))


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_up_and_down_again_is_the_same_speech_six_ms_later(rate: int) -> None:
    source = speechlike(rate, 4.0)
    up, down = Resampler(rate, 16_000), Resampler(16_000, rate)
    block = rate // 5
    out = []
    for start in range(0, len(source), block):
        middle = up.push(source[start : start + block])
        assert len(middle) == 3_200
        out.append(down.push(middle))
    heard = np.concatenate(out)
    delay = 0 if rate == 16_000 else 2 * CONTEXT_MS * rate // 1000
    assert snr_db(source[block : -block - delay], heard[block + delay : -block]) > 45


@pytest.mark.parametrize("count", [0, 1, 80, 160, 240])
def test_shortening_takes_exactly_so_much_and_prefers_silence(count: int) -> None:
    loud = speechlike(8_000, 0.1)
    pcm = np.concatenate((loud, np.zeros(800, np.int16), loud))
    out, at = shorten(pcm, count, 8_000)
    assert len(out) == len(pcm) - count
    assert count == 0 or 800 <= at <= 1600 - count
    assert np.array_equal(out[:800], loud) and np.array_equal(out[-800:], loud)


@pytest.mark.parametrize("count", [0, 1, 80, 160, 240])
def test_stretching_puts_exactly_so_much_in_and_prefers_silence(count: int) -> None:
    loud = speechlike(8_000, 0.1)
    pcm = np.concatenate((loud, np.zeros(800, np.int16), loud))
    out, at = stretch(pcm, count, 8_000)
    assert len(out) == len(pcm) + count
    assert count == 0 or 800 <= at <= 1600 - count
    assert np.array_equal(out[:800], loud) and np.array_equal(out[-800:], loud)


def test_stretching_a_tone_says_whole_periods_twice() -> None:
    tone = (9_000 * np.sin(2 * np.pi * 200 * np.arange(3_200) / 16_000)).astype(np.int16)
    out, _ = stretch(tone, 320, 16_000)  # four periods
    longer = (9_000 * np.sin(2 * np.pi * 200 * np.arange(3_520) / 16_000)).astype(np.int16)
    assert snr_db(longer, out) > 40
