"""Keys as telephone events that were lost, doubled or overtaken, and as tones on a noisy line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from media.chunk import PCM
from media.keys import CLOCK_MS, KEYS, MOST_DIGITS, Mouth, Presses, ToneEar, tones
from media.timebase import FRAME_MS, MODEL_HZ, TURN_SAMPLES, samples_of

SPEECH = Path(__file__).parents[3] / "shared" / "data" / "speech"


def heard(*packets: tuple[str, int, int]) -> str:
    presses = Presses()
    return "".join(presses.receive(*packet) or "" for packet in packets)


def press(digit: str, at_ms: int, lasts_ms: int = 100) -> list[tuple[str, int, int]]:
    """Every 20 ms an update, the end said three times."""
    durations = [*range(20, lasts_ms + 1, 20), lasts_ms, lasts_ms]
    return [(digit, at_ms, duration) for duration in durations]


def test_a_press_is_one_digit_and_so_is_each_press_of_the_same_key() -> None:
    assert heard(*press("5", 1000), *press("5", 1300), *press("#", 1600)) == "55#"


@pytest.mark.parametrize("lost", [{0, 1}, {0, 1, 2, 3}, {4, 5, 6}, {0, 2, 4}, set(range(6))])
def test_whatever_is_lost_of_a_press(lost: set[int]) -> None:
    kept = [p for at, p in enumerate(press("7", 1000)) if at not in lost]
    again = [p for at, p in enumerate(press("7", 1400)) if at not in lost]
    assert heard(*press("1", 500), *kept, *again, *press("2", 1800)) == "1772"


def test_packets_that_come_twice_or_late_are_no_presses() -> None:
    first, second = press("1", 1000), press("2", 1300)
    assert heard(*first, *first) == "1"
    assert heard(*first[:-2], *second[:2], *first[-2:], *second[2:]) == "12"
    assert heard(*first, first[1], *second, second[0]) == "12"


def test_a_press_whose_end_is_told_shorter_than_its_updates() -> None:
    assert heard(("9", 1000, 80), ("9", 1000, 100), ("9", 1000, 60)) == "9"


def test_a_sender_that_moves_the_time_stamp_within_a_press() -> None:
    assert heard(*(("4", 1000 + at, 20 + at) for at in range(0, 200, 20)), *press("4", 2000)) == "44"


def test_the_clock_comes_round_and_another_stream_has_another() -> None:
    assert heard(*press("3", CLOCK_MS - 50), *press("3", 250)) == "33"
    assert heard(*press("3", 400_000_000), *press("3", 1_000), *press("3", 2_000)) == "333"


# -- tones


def listened(pcm: PCM) -> str:
    ear, padded = ToneEar(MODEL_HZ), np.concatenate((pcm, np.zeros(-len(pcm) % TURN_SAMPLES, np.int16)))
    return "".join(ear.listen(turn) for turn in padded.reshape(-1, TURN_SAMPLES))


def at_sixteen(pcm: PCM) -> PCM:
    """Twice as many samples of a signal of 8 kHz, by its spectrum."""
    spectrum = np.fft.rfft(pcm.astype(np.float64))
    return (2 * np.fft.irfft(spectrum, 2 * len(pcm))).clip(-32768, 32767).astype(np.int16)


@pytest.mark.parametrize("shift", [0, 37, 800, 1999])
def test_every_key_is_heard_once_wherever_turns_begin(shift: int) -> None:
    keys = "".join(KEYS)
    sound = at_sixteen(tones(keys, 8000))
    assert listened(np.concatenate((np.zeros(shift, np.int16), sound))) == keys


def test_a_key_that_is_held_for_seconds_is_one_press() -> None:
    second = np.arange(MODEL_HZ) / MODEL_HZ
    tone = 6000 * (np.sin(2 * np.pi * 770 * second) + np.sin(2 * np.pi * 1336 * second))
    assert listened(np.tile(tone.astype(np.int16), 2)) == "5"


@pytest.mark.parametrize("level_db", [0, -20, -28])
def test_quiet_keys_in_noise(level_db: int) -> None:
    """Q.24: 15 dB above the noise."""
    rng = np.random.default_rng(7)
    sound = at_sixteen(tones("159D", 8000)) * 10 ** (level_db / 20)
    noise = rng.normal(0, 9000 * 10 ** ((level_db - 18) / 20), len(sound))
    assert listened((sound + noise).astype(np.int16)) == "159D"


@pytest.mark.parametrize(("low_db", "expected"), [(-4, "8"), (4, "8"), (-12, ""), (12, "")])
def test_tones_of_unlike_strength(low_db: float, expected: str) -> None:
    time_s = np.arange(MODEL_HZ // 10) / MODEL_HZ
    pair = np.sin(2 * np.pi * 852 * time_s) * 10 ** (low_db / 20) + np.sin(2 * np.pi * 1336 * time_s)
    assert listened((4000 * pair).astype(np.int16)) == expected


def test_too_short_for_a_press() -> None:
    assert listened(at_sixteen(tones("6", 8000)[:160])) == ""


@pytest.mark.skipif(not SPEECH.is_dir(), reason="no speech here: ../shared/data/speech")
def test_nobody_speaks_keys() -> None:
    files = sorted(SPEECH.rglob("*.flac"))[:40]
    seconds, found = 0.0, ""
    for file in files:
        pcm, rate_hz = soundfile.read(file, dtype="int16", always_2d=True)
        mono = pcm[:, 0]
        found += listened(mono if rate_hz == MODEL_HZ else at_sixteen(mono[:: max(1, rate_hz // 8000)]))
        seconds += len(mono) / rate_hz
    assert seconds > 60 and found == "", (seconds, found)


# -- out


def test_the_mouth_says_keys_over_speech_and_then_speech_again() -> None:
    size = 2 * samples_of(FRAME_MS, 8000)
    said = iter(range(1000))
    mouth = Mouth(lambda: bytes([next(said) % 256]) * size, 8000)
    assert mouth.pull() == bytes([0]) * size
    assert mouth.press("5")
    sound = b"".join(mouth.pull() for _ in range(9))
    assert sound == tones("5", 8000).tobytes()
    assert mouth.pull() == bytes([10]) * size, "speech has gone on meanwhile"


def test_the_mouth_stops() -> None:
    mouth = Mouth(lambda: b"speech", 8000)
    assert mouth.press("12")
    mouth.stop()
    assert mouth.pull() == b"speech" and mouth.press("3")


def test_the_mouth_takes_no_more_than_two_rows() -> None:
    mouth = Mouth(lambda: b"", 8000)
    assert [mouth.press("1" * MOST_DIGITS) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("digits", ["", "E", "1" * (MOST_DIGITS + 1), "1 2"])
def test_what_is_no_key(digits: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        tones(digits, 8000)
