"""Synthetic echoes with a delay, a growth and a gap that are known, which must be found."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gateway.caller.analysis import SentAudio, find_windows, received_audio
from gateway.caller.codec import find_codec
from gateway.caller.report import summarise_delay
from gateway.caller.signals import fill, numbered_tones
from media.rtp import RtpPacket, dtmf_event

MS = 1_000_000
T0 = 5_000_000_000
SECONDS = 20
CODEC = find_codec("PCMU")
PACKETS = SECONDS * 50


def sent_audio(pcm: np.ndarray) -> SentAudio:
    """Paced perfectly from T0."""
    times = T0 + np.arange(PACKETS, dtype=np.int64) * 20 * MS
    return SentAudio(pcm, 8000, 160, times, np.ones(PACKETS, dtype=np.bool_))


def echo(
    pcm: np.ndarray,
    *,
    lag_samples: int,
    delay_ms=lambda packet: 0.0,
    sequence: int = 65_000,
    timestamp: int = 0xFFFFF000,
    ssrc: int = 7,
) -> list[tuple[bytes, int]]:
    """Datagrams and arrivals of a peer that plays `pcm` `lag_samples` later on its own timeline.

    Both counters wrap on the way. Packet n arrives at T0 + n * 20 ms + delay_ms(n).
    """
    back = np.concatenate((np.zeros(lag_samples, dtype=np.int16), pcm, np.zeros(160, dtype=np.int16)))
    payload = CODEC.encode(back[: back.size // 160 * 160])
    out = []
    for n in range(len(payload) // 160):
        packet = RtpPacket(
            0, (sequence + n) % 65536, (timestamp + n * 160) % 2**32, ssrc, payload[n * 160 : n * 160 + 160]
        )
        out.append((packet.serialise(), T0 + n * 20 * MS + round(delay_ms(n) * MS)))
    return out


def received(datagrams: list[tuple[bytes, int]]):
    return received_audio([d for d, _ in datagrams], [a for _, a in datagrams], 0, CODEC)


def windows(pcm: np.ndarray, datagrams: list[tuple[bytes, int]]):
    return find_windows(sent_audio(pcm), received(datagrams), T0 + (SECONDS + 2) * 1000 * MS)


@pytest.fixture(scope="module")
def tones() -> np.ndarray:
    return numbered_tones(SECONDS, 8000, seed=3)


def test_a_constant_delay_is_found_to_the_sample(tones: np.ndarray) -> None:
    """1,840 samples later on the timeline (230 ms), and each packet 7 ms late."""
    found = windows(tones, echo(tones, lag_samples=1840, delay_ms=lambda n: 7.0))
    assert found.delay_ms.size == found.judged == 99
    np.testing.assert_allclose(found.delay_ms, 237.0, atol=0.13)
    assert found.gap_ms == 0
    assert found.score.min() > 0.95


def test_delay_that_does_not_fall_on_a_packet_boundary(tones: np.ndarray) -> None:
    found = windows(tones, echo(tones, lag_samples=1913, delay_ms=lambda n: 0.0))
    np.testing.assert_allclose(found.delay_ms, 1913 / 8, atol=0.13)


def test_growth_in_arrival_is_found(tones: np.ndarray) -> None:
    """Packets fall behind by 100 ms over the call: the timeline's lag stays, the clock's does not."""
    found = windows(tones, echo(tones, lag_samples=1600, delay_ms=lambda n: 100 * n / PACKETS))
    summary = summarise_delay(found)
    assert summary is not None
    assert summary.growth == pytest.approx(80, abs=2)  # medians of the first and last fifth are 80 % apart
    assert summary.p50 == pytest.approx(250, abs=3)


def test_growth_in_the_timeline_is_found(tones: np.ndarray) -> None:
    """The peer inserts 30 ms of silence in mid-call and arrival stays even."""
    half = tones.size // 2
    late = np.concatenate((tones[:half], np.zeros(240, dtype=np.int16), tones[half:]))
    summary = summarise_delay(windows(tones, echo(late, lag_samples=1600)))
    assert summary is not None
    assert summary.growth == pytest.approx(30, abs=0.2)
    assert summary.p50 == pytest.approx(200, abs=31)


def test_a_jump_of_a_second_is_followed(tones: np.ndarray) -> None:
    half = tones.size // 2
    late = np.concatenate((tones[:half], np.zeros(8000, dtype=np.int16), tones[half:]))
    summary = summarise_delay(windows(tones, echo(late, lag_samples=1600)))
    assert summary is not None
    assert summary.growth == pytest.approx(1000, abs=0.2)
    assert summary.max == pytest.approx(1200, abs=0.2)


def test_silence_in_mid_call_is_a_gap_of_its_length(tones: np.ndarray) -> None:
    holed = tones.copy()
    holed[8 * 8000 : 8 * 8000 + 2400] = 0  # 300 ms
    found = windows(tones, echo(holed, lag_samples=1600))
    assert found.gap_ms == pytest.approx(300, abs=20)
    assert np.all(np.abs(found.gap_starts_ns - (T0 + 8_150 * MS)) <= 170 * MS)
    np.testing.assert_allclose(found.delay_ms, 200, atol=0.13)


def test_something_else_in_its_place_is_a_gap_too(tones: np.ndarray) -> None:
    wrong = tones.copy()
    wrong[8 * 8000 : 9 * 8000] = numbered_tones(1, 8000, seed=99)
    found = windows(tones, echo(wrong, lag_samples=1600))
    assert found.gap_ms == pytest.approx(1000, abs=60)


def test_repeated_syllables_are_not_taken_for_a_late_echo() -> None:
    """A buzz of one pitch is like itself everywhere; where it is missing, nothing else may stand in for
    it."""
    rng = np.random.default_rng(8)
    pcm = numbered_tones(SECONDS, 8000, seed=4) // 2
    time_s = np.arange(pcm.size) / 8000
    buzz = sum(700 / k * np.sin(2 * np.pi * 125 * k * time_s + rng.uniform(0, 6)) for k in range(1, 20))
    pcm += buzz.astype(np.int16)
    holed = pcm.copy()
    holed[8 * 8000 : 9 * 8000] = 0
    found = windows(pcm, echo(holed, lag_samples=1600))
    np.testing.assert_allclose(found.delay_ms, 200, atol=0.13)
    assert found.gap_ms == pytest.approx(1000, abs=60)


def test_a_file_in_a_loop_is_found_at_its_first_return() -> None:
    pcm = fill(numbered_tones(3.1, 8000, seed=6), SECONDS, 8000)
    noise = np.random.default_rng(1).integers(-200, 200, pcm.size)
    found = windows(pcm, echo((pcm + noise).astype(np.int16), lag_samples=1600))
    np.testing.assert_allclose(found.delay_ms, 200, atol=0.13)


def test_lost_packets_are_counted_and_heard(tones: np.ndarray) -> None:
    datagrams = echo(tones, lag_samples=1600)
    del datagrams[300:310]
    assert received(datagrams).lost == 10
    assert windows(tones, datagrams).gap_ms == pytest.approx(200, abs=20)


def test_an_echo_that_never_comes_is_all_gap(tones: np.ndarray) -> None:
    found = windows(tones, echo(np.zeros_like(tones), lag_samples=1600))
    assert found.delay_ms.size == 0
    assert found.judged > 90
    assert found.gap_ms == found.active_ms > 18_000
    assert summarise_delay(found) is None


def test_no_packet_at_all(tones: np.ndarray) -> None:
    found = windows(tones, [])
    assert found.gap_ms == found.active_ms > 18_000


def test_the_end_of_the_call_is_not_blamed_for_what_could_not_be_back(tones: np.ndarray) -> None:
    datagrams = echo(tones, lag_samples=1600)
    until_ns = T0 + 15_000 * MS
    heard = [d for d in datagrams if d[1] <= until_ns]
    found = find_windows(sent_audio(tones), received(heard), until_ns)
    assert found.gap_ms == 0
    assert found.judged == pytest.approx(72, abs=2)


def test_reordered_and_duplicate_packets_do_no_harm(tones: np.ndarray) -> None:
    rng = random.Random(5)
    clean = echo(tones, lag_samples=1600, delay_ms=lambda n: rng.choice((0.0, 45.0)))
    datagrams = sorted(clean, key=lambda row: row[1])
    datagrams += [datagrams[100], datagrams[200]]
    audio = received(datagrams)
    assert (audio.lost, audio.duplicates, audio.packets) == (0, 2, len(clean) + 2)
    assert audio.reordered > 50
    found = windows(tones, datagrams)
    assert found.gap_ms == 0
    assert found.delay_ms.min() >= 199.8
    assert found.delay_ms.max() <= 245.2


def test_a_new_ssrc_in_mid_call_is_laid_on_by_its_arrival(tones: np.ndarray) -> None:
    first = echo(tones, lag_samples=1600)
    second = echo(tones, lag_samples=1600, sequence=17, timestamp=123, ssrc=8)
    found = windows(tones, first[:500] + second[500:])
    assert found.gap_ms == 0
    np.testing.assert_allclose(found.delay_ms, 200, atol=0.3)


def test_a_leap_of_the_time_stamp_is_laid_on_by_its_arrival(tones: np.ndarray) -> None:
    first = echo(tones, lag_samples=1600)
    second = echo(tones, lag_samples=1600, timestamp=0x12345678)
    found = windows(tones, first[:500] + second[500:])
    assert found.gap_ms == 0
    np.testing.assert_allclose(found.delay_ms, 200, atol=0.3)


def test_other_datagrams_are_counted_and_events_of_the_stream_are_not_lost(tones: np.ndarray) -> None:
    datagrams = echo(tones, lag_samples=0)
    event = RtpPacket(101, (65_000 + 40) % 65536, 9, 7, dtmf_event("5", 160, end=True).serialise())
    datagrams[40] = (event.serialise(), datagrams[40][1])
    datagrams.insert(60, (b"\x81\xc8" + bytes(26), datagrams[60][1]))
    datagrams.insert(70, (b"junk", datagrams[70][1]))
    audio = received(datagrams)
    assert (audio.other, audio.lost) == (3, 0)


def test_quiet_and_pauses_are_no_gaps(tones: np.ndarray) -> None:
    """Speech with pauses, an echo 12 dB down: only what was said can be missing."""
    speech = tones.copy().reshape(-1, 4000)
    speech[::3] = 0
    pcm = speech.reshape(-1)
    found = windows(pcm, echo(pcm // 4, lag_samples=1600))
    assert found.gap_ms == 0
    assert found.active_ms < 14_000


def test_numbered_tones_are_reproducible_and_unlike_each_other() -> None:
    tones = numbered_tones(10, 8000, seed=1)
    np.testing.assert_array_equal(tones, numbered_tones(10, 8000, seed=1))
    segments = tones.reshape(-1, 1600).astype(np.float64)
    segments /= np.linalg.norm(segments, axis=1, keepdims=True)
    likeness = np.abs(segments @ segments.T) - np.eye(len(segments))
    assert likeness.max() < 0.5
    assert not np.array_equal(tones, numbered_tones(10, 8000, seed=2))
    assert np.abs(tones).max() < 32767


def test_fill_repeats_or_cuts() -> None:
    pcm = np.arange(100, dtype=np.int16)
    assert fill(pcm, 0.025, 10_000).tolist() == [*range(100), *range(100), *range(50)]
    assert fill(pcm, 0.001, 10_000).tolist() == list(range(10))
    assert not fill(np.zeros(0, dtype=np.int16), 0.001, 8000).any()


def test_rates_must_agree(tones: np.ndarray) -> None:
    wide = SentAudio(tones, 16000, 320, np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.bool_))
    with pytest.raises(ValueError, match="16000"):
        find_windows(wide, received([]), 0)
