"""Facts of the channel: bands, companding, rooms, levels, and what is said about concealment."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from media.codecs import g711
from media.conceal import Concealer
from media.timebase import MODEL_HZ
from model_server.training.channel import (
    FRAME_SAMPLES,
    Codec,
    Line,
    coded,
    colour,
    coloured,
    companded,
    concealed,
    drawn,
    heard,
    in_room,
    losses,
    made_up,
)
from tests.model_server.training.scenes import tone

Encode = Callable[[np.ndarray], np.ndarray]
Decode = Callable[[np.ndarray], np.ndarray]


def _power(pcm: np.ndarray, low_hz: float, high_hz: float) -> float:
    power = np.abs(np.fft.rfft(pcm.astype(np.float64))) ** 2
    hz = np.fft.rfftfreq(len(pcm), 1 / MODEL_HZ)
    return float(power[(hz >= low_hz) & (hz < high_hz)].sum() / power.sum())


def _noise(seconds: float, rms: float = 3000.0) -> np.ndarray:
    return np.random.default_rng(3).normal(0, rms, int(seconds * MODEL_HZ)).astype(np.float32)


@pytest.mark.parametrize(
    ("codec", "edge_hz"), [(Codec.MULAW, 4000), (Codec.ALAW, 4000), (Codec.OPUS_MEDIUM, 6000)]
)
def test_a_codec_ends_the_band(codec: Codec, edge_hz: int) -> None:
    out = coded(_noise(2).astype(np.int16), codec)
    assert len(out) == 2 * MODEL_HZ and out.dtype == np.int16
    assert _power(out, edge_hz * 1.05, 8001) < 0.002 < 0.5 < _power(out, 0, edge_hz)


@pytest.mark.parametrize(
    ("codec", "encode", "decode"),
    [
        (Codec.MULAW, g711.encode_mulaw, g711.decode_mulaw),
        (Codec.ALAW, g711.encode_alaw, g711.decode_alaw),
    ],
)
def test_companding_is_that_of_the_gateway(codec: Codec, encode: Encode, decode: Decode) -> None:
    everything = np.arange(65536, dtype=np.uint16).view(np.int16)
    assert np.array_equal(companded(everything, codec), decode(encode(everything)))


def test_concealment_is_near_that_of_the_gateway() -> None:
    """A gap of 80 ms in a vowel: the same period goes on, as loud as there to 2 dB, and silent from 60 ms on."""
    pcm = (tone(180, 0.5) * 0.7 + tone(540, 0.5) * 0.2).astype(np.int16)
    lost = np.zeros(len(pcm) // FRAME_SAMPLES, bool)
    lost[20:24] = True
    start, end = 20 * FRAME_SAMPLES, 24 * FRAME_SAMPLES
    gateway = Concealer(MODEL_HZ)
    theirs = np.concatenate([gateway.receive(pcm[:start]), gateway.conceal(end - start + gateway.delay)])
    theirs, ours = (
        sound[start:end].astype(float) for sound in (theirs[gateway.delay :], concealed(pcm, lost))
    )
    for start in range(0, 400, 16):
        mine, other = ours[start : start + 320], theirs[start : start + 320]
        assert np.corrcoef(mine, other)[0, 1] > 0.95
        assert abs(20 * np.log10(np.std(mine) / np.std(other))) < 2
    assert not ours[FRAME_SAMPLES * 3 :].any() and not theirs[FRAME_SAMPLES * 3 :].any()


def test_what_is_made_up_is_said_and_nothing_else_is_touched() -> None:
    pcm = (_noise(1.0) * 0.2 + tone(180, 1.0)).astype(np.int16)
    lost = np.zeros(len(pcm) // FRAME_SAMPLES, bool)
    lost[[20, 21, 22, 23, 40]] = True
    kept = np.repeat(~lost, FRAME_SAMPLES)
    out = concealed(pcm, lost)
    assert np.array_equal(out[kept], pcm[kept]) and not np.array_equal(out[~kept], pcm[~kept])
    said = made_up(lost)
    assert said[8:10].tolist() == [800, 480] and said[16] == FRAME_SAMPLES and said.sum() == 5 * FRAME_SAMPLES


def test_losses_have_their_share_and_come_in_bursts() -> None:
    lost = losses(np.random.default_rng(0), 200_000, 0.1, 3.0)
    runs = np.count_nonzero(np.diff(lost.astype(int)) == 1)
    assert lost.mean() == pytest.approx(0.1, rel=0.1) and lost.sum() / runs == pytest.approx(3.0, rel=0.1)


def test_a_room_is_a_convolution() -> None:
    rng = np.random.default_rng(1)
    speech, room = _noise(1.3), (rng.normal(0, 1, 5000) * np.exp(-np.arange(5000) / 600)).astype(np.float32)
    expected = np.convolve(speech.astype(np.float64), room.astype(np.float64))[: len(speech)]
    assert np.abs(in_room(speech, room) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("level_dbfs", "snr_db"), [(-30.0, 10.0), (-15.0, 25.0)])
def test_speech_and_noise_have_the_levels_asked_for(level_dbfs: float, snr_db: float) -> None:
    silence = np.zeros(3 * MODEL_HZ, np.float32)
    line = Line(Codec.OPUS, level_dbfs, snr_db, noise=_noise(1.0, 500).astype(np.int16))
    noise, _ = heard(silence, silence, line, np.random.default_rng(0))
    both, _ = heard(_noise(3), silence, line, np.random.default_rng(0))

    def dbfs(pcm: np.ndarray) -> float:
        return float(10 * np.log10(np.mean((pcm / 32768.0) ** 2)))

    assert dbfs(noise) == pytest.approx(level_dbfs - snr_db, abs=0.3)
    assert dbfs(both - noise.astype(np.float64)) == pytest.approx(level_dbfs, abs=0.5)


def test_our_voice_comes_back_as_an_echo() -> None:
    silence, own = np.zeros(MODEL_HZ, np.float32), tone(440, 1.0).astype(np.float32)
    pcm, _ = heard(silence, own, Line(Codec.OPUS, -20, 90.0, echo_db=-20.0), np.random.default_rng(0))
    assert np.abs(pcm - own / 10).max() < 20


def test_lines_differ_and_are_the_same_from_the_same_seed() -> None:
    lines = [drawn(np.random.default_rng(seed), [], []) for seed in range(40)]
    assert {line.codec for line in lines} == set(Codec)
    assert all(-35 <= line.level_dbfs <= -10 for line in lines)
    assert 8 <= sum(line.loss > 0 for line in lines) <= 26
    again = drawn(np.random.default_rng(7), [], [])
    assert (again.codec, again.level_dbfs, again.loss) == (lines[7].codec, lines[7].level_dbfs, lines[7].loss)


def test_microphones_tilt_the_spectrum_or_lose_an_end_of_it_and_answer_at_once() -> None:
    rng = np.random.default_rng(4)
    tilts, lows, highs = [], [], []
    for _ in range(60):
        response = colour(rng, 4.0, 0.0)
        db = 20 * np.log10(np.abs(np.fft.rfft(response, 1024)))
        tilts.append((db[128] - db[32]) / 2)
        lows.append(db[8] - db[32])
        highs.append(db[448] - db[128])
        assert np.sum(response[:64] ** 2) > 0.9 * np.sum(response**2)
    assert -4.5 < min(tilts) < -3 and 3 < max(tilts) < 4.5
    assert sum(low < -13 for low in lows) >= 3 and sum(low > -9 for low in lows) > 30
    assert sum(high < -16 for high in highs) >= 3 and sum(high > -9 for high in highs) > 30


def test_a_coloured_voice_is_as_loud_as_before() -> None:
    rng = np.random.default_rng(5)
    sound = rng.standard_normal(40_000).astype(np.float32) * np.float32(900)
    out = coloured(sound, colour(rng, 4.0, 3.0))
    assert out.std() == pytest.approx(sound.std(), rel=0.01) and not np.allclose(out, sound, atol=100)
    assert not coloured(np.zeros(4000, np.float32), colour(rng, 4.0, 3.0)).any()
