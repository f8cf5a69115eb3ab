"""Recordings whose call is over: WAV and Opus, encrypted and not, made whole where their writer died."""

from __future__ import annotations

import fcntl
import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from gateway.recording.finish import decrypt, finish
from gateway.recording.keys import Key, Keyring, key_of_environment
from gateway.recording.writer import RecordingWriter
from media.tape import Block

SECRET = "hGUNxVVHBBlxbQJ6H5k7rpGsmzdMBNBcs7ZQsBIiwxE="
KEYRING = Keyring(SECRET)
RATE = 8_000


def tones(seconds: float) -> np.ndarray:
    """int16 [n, 2]: 440 Hz with a click each second, 660 Hz."""
    t = np.arange(int(seconds * RATE)) / RATE
    sound = np.stack([np.sin(2 * np.pi * 440 * t), np.sin(2 * np.pi * 660 * t)], 1) * 9_000
    return sound.astype(np.int16)


def recorded(folder: Path, sound: np.ndarray, key: Key | None, *, ended: bool = True) -> Path:
    (folder / "live").mkdir(exist_ok=True)
    (folder / "done").mkdir(exist_ok=True)
    writer = RecordingWriter(folder / "live", key, now_ms=lambda: 1_700_000_000_123)
    recording = writer.open("t-1", RATE)
    for at in range(0, len(sound), 1_600):
        writer.put(recording, Block(at, sound[at : at + 1_600]))
        writer.write()
    if ended:
        writer.close(recording, len(sound))
    writer.stop()
    return recording.path


@pytest.mark.parametrize("secret", [SECRET, ""])
@pytest.mark.parametrize("form", ["wav", "opus"])
def test_a_recording_becomes_what_is_asked_for(tmp_path: Path, form: str, secret: str) -> None:
    sound = tones(2.0)
    key = key_of_environment(secret) if secret else None
    part = recorded(tmp_path, sound, key)
    done = finish(part, tmp_path / "done", form, KEYRING)  # type: ignore[arg-type]
    assert done is not None and done.path is not None and not part.exists() and not done.repaired
    assert done.path.stat().st_mtime == pytest.approx(1_700_000_000.123)
    path = done.path
    if key is not None:
        assert path.name.endswith(".mtr") and sound[:200].tobytes() not in path.read_bytes()
        path = tmp_path / ("out" + path.suffixes[-2])
        decrypt(done.path, path, KEYRING)
    if form == "wav":
        read, rate = soundfile.read(path, dtype="int16")
        assert rate == RATE and np.array_equal(read, sound)
    else:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
            assert container.streams.audio[0].codec_context.name in ("opus", "libopus")
        read = np.concatenate(frames, 1).astype(float)
        read = read if read.shape[0] == 2 else read.reshape(-1, 2).T
        for side, hz in zip(read, (440, 660), strict=True):
            spectrum = np.abs(np.fft.rfft(side[:48_000]))
            assert abs(int(np.argmax(spectrum)) - hz) <= 1
        assert abs(read.shape[1] / 48_000 - 2.0) < 0.03


def test_the_two_sides_of_opus_stay_where_they_were(tmp_path: Path) -> None:
    sound = np.zeros((2 * RATE, 2), np.int16)
    rng = np.random.default_rng(1)
    burst = rng.integers(-12_000, 12_000, 400)
    sound[RATE : RATE + 400, 0] = sound[RATE : RATE + 400, 1] = burst
    done = finish(recorded(tmp_path, sound, None), tmp_path / "done", "opus", KEYRING)
    assert done is not None and done.path is not None
    with av.open(str(done.path)) as container:
        resampler = av.AudioResampler("s16", "stereo", RATE)
        pieces = [p for f in container.decode(audio=0) for p in resampler.resample(f)]
    read = np.concatenate([p.to_ndarray().reshape(-1, 2) for p in pieces]).astype(float)
    for side in read.T:
        lag = int(np.argmax(np.correlate(side, burst.astype(float), "valid")))
        assert abs(lag - RATE) <= 8  # 1 ms


@pytest.mark.parametrize("secret", [SECRET, ""])
def test_what_a_dead_writer_left_is_made_whole_and_nothing_that_lives_is_touched(
    tmp_path: Path, secret: str
) -> None:
    sound = tones(1.0)
    part = recorded(tmp_path, sound, key_of_environment(secret) if secret else None, ended=False)
    with part.open("ab") as torn:
        torn.write(b"\x00\x10\x00\x00torn in the middle of a frame")
    with part.open("rb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        assert finish(part, tmp_path / "done", "wav", KEYRING) is None
    done = finish(part, tmp_path / "done", "wav", KEYRING)
    assert done is not None and done.path is not None and done.repaired and done.seconds == 1.0
    out = tmp_path / "out.wav"
    if secret:
        decrypt(done.path, out, KEYRING)
    else:
        out = done.path
    assert np.array_equal(soundfile.read(out, dtype="int16")[0], sound)


def test_a_part_whose_key_is_not_here_stays(tmp_path: Path) -> None:
    part = recorded(tmp_path, tones(0.4), key_of_environment(SECRET))
    with pytest.raises(ValueError, match="is not here"):
        finish(part, tmp_path / "done", "wav", Keyring("zf7fMaHvtyXdv33FfG+LKiJUO8Dwhd8nTFtmH9DVt0U="))
    assert part.exists() and not list((tmp_path / "done").iterdir())


def test_one_that_is_still_written_can_be_decrypted_and_one_that_was_changed_cannot(tmp_path: Path) -> None:
    sound = tones(1.0)
    part = recorded(tmp_path, sound, key_of_environment(SECRET), ended=False)
    decrypt(part, tmp_path / "now.wav", KEYRING)
    assert np.array_equal(soundfile.read(tmp_path / "now.wav", dtype="int16")[0], sound)
    done = finish(part, tmp_path / "done", "wav", KEYRING)
    assert done is not None and done.path is not None
    data = bytearray(done.path.read_bytes())
    data[-100] ^= 1
    done.path.write_bytes(data)
    with pytest.raises(ValueError, match="changed"):
        decrypt(done.path, tmp_path / "no.wav", KEYRING)
    assert not (tmp_path / "no.wav").exists()
    assert io.BytesIO(data).read(5) == b"MTREC"


def test_a_part_that_nothing_was_recorded_in_goes_and_one_of_somebody_else_stays(tmp_path: Path) -> None:
    part = recorded(tmp_path, tones(0.4), None)
    data = part.read_bytes()
    head = data.index(b"}") + 5
    for length in (0, 3, 9, 40, head - 1, head, head + 7):
        part.write_bytes(data[:length])
        done = finish(part, tmp_path / "done", "opus", KEYRING)
        assert done is not None and done.path is None and not part.exists(), length
    part.write_bytes(b"something else")
    with pytest.raises(ValueError, match="no recording"):
        finish(part, tmp_path / "done", "opus", KEYRING)
    assert part.exists()
