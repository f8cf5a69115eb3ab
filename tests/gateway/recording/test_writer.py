"""What a worker's recordings are written by: real files, a real disk that is full, a real death."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gateway.recording.container import Frame, Reader
from gateway.recording.keys import Key
from gateway.recording.writer import RecordingWriter
from media.tape import Block

KEY = Key("k1", bytes(range(100, 132)))
RNG = np.random.default_rng(3)


def block(at: int, samples: int = 1_600) -> Block:
    return Block(at, RNG.integers(-9_000, 9_000, (samples, 2)).astype(np.int16))


def frames(path: Path, key: Key | None = KEY) -> tuple[list[Frame], bool]:
    reader = Reader(io.BytesIO(path.read_bytes()), key)
    return list(reader), reader.is_complete


def sound(path: Path, key: Key | None = KEY) -> np.ndarray:
    """int16 [n, 2]; what lies between two frames is silence."""
    found, _ = frames(path, key)
    parts = [(f.place, np.frombuffer(f.data, np.int16).reshape(-1, 2)) for f in found if f.data]
    out = np.zeros((parts[-1][0] + len(parts[-1][1]), 2), np.int16)
    for at, part in parts:
        out[at : at + len(part)] = part
    return out


def test_blocks_of_several_calls_become_a_frame_each_and_an_end(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path, KEY)
    one, two = writer.open("t-1", 8_000), writer.open("b-2", 16_000)
    ones, twos = [block(at * 1_600) for at in range(4)], [block(at * 3_200, 3_200) for at in range(3)]
    for recording, blocks in ((one, ones), (two, twos)):
        for some in blocks:
            assert writer.put(recording, some)
    writer.close(one, 4 * 1_600)
    writer.stop()
    assert np.array_equal(sound(one.path), np.concatenate([some.pcm for some in ones]))
    assert np.array_equal(sound(two.path), np.concatenate([some.pcm for some in twos]))
    assert frames(one.path)[1] and not frames(two.path)[1]
    assert Reader(io.BytesIO(two.path.read_bytes()), KEY).header.rate_hz == 16_000
    assert oct(one.path.stat().st_mode & 0o777) == "0o600"


def test_what_the_queue_has_no_room_for_is_silence_in_its_place_and_counted(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path, None, most_bytes=3 * 6_400)
    recording = writer.open("t-1", 8_000)
    blocks = [block(at * 1_600) for at in range(6)]
    assert [writer.put(recording, some) for some in blocks[:4]] == [True, True, True, False]
    assert writer.counters.recordings_samples_refused == 1_600
    writer.write()
    assert writer.waiting_bytes == 0
    assert all(writer.put(recording, some) for some in blocks[4:])
    writer.stop()
    want = np.concatenate([some.pcm for some in blocks])
    want[3 * 1_600 : 4 * 1_600] = 0
    assert np.array_equal(sound(recording.path, None), want)


def test_a_disk_that_is_full_costs_what_it_refuses_and_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RecordingWriter(tmp_path, KEY)
    recording = writer.open("t-1", 8_000)
    blocks = [block(at * 1_600) for at in range(6)]
    for some in blocks[:2]:
        writer.put(recording, some)
    writer.write()
    real = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        real(fd, data[: len(data) // 2], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for some in blocks[2:4]:
        writer.put(recording, some)
    writer.write()
    monkeypatch.setattr(os, "pwrite", real)
    for some in blocks[4:]:
        writer.put(recording, some)
    writer.close(recording, 6 * 1_600)
    writer.stop()
    assert writer.counters.recordings_write_errors == 1
    assert writer.counters.recordings_samples_dropped == 2 * 1_600
    want = np.concatenate([some.pcm for some in blocks])
    want[2 * 1_600 : 4 * 1_600] = 0
    assert np.array_equal(sound(recording.path), want) and frames(recording.path)[1]


def test_a_folder_that_is_gone_costs_the_recording_and_no_call(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "gone", KEY)
    recording = writer.open("t-1", 8_000)
    assert writer.put(recording, block(0))
    writer.close(recording, 1_600)
    writer.stop()
    assert (writer.counters.recordings_failed, writer.counters.recordings_ended) == (1, 0)


CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from gateway.recording.keys import Key
from gateway.recording.writer import RecordingWriter
from media.tape import Block
writer = RecordingWriter(Path(sys.argv[1]), Key("k1", bytes(range(100, 132))))
recording = writer.open("t-1", 8_000)
began, at = time.monotonic(), 0
while True:  # both sides say the number of the turn
    writer.put(recording, Block(at * 1_600, np.full((1_600, 2), at, np.int16)))
    at += 1
    print(at, flush=True)
    time.sleep(max(0, began + at * 0.2 - time.monotonic()))
"""


def test_kill_9_loses_less_than_a_second(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == 12:
                break
        time.sleep(0.15)  # in the middle of a turn and of a round
        child.send_signal(signal.SIGKILL)
        said = 12 + len(child.stdout.read().split())
    (path,) = tmp_path.iterdir()
    kept = sound(path)
    turns = len(kept) // 1_600
    assert said - turns <= 4  # 0.8 s
    assert np.array_equal(kept[:, 0], np.repeat(np.arange(turns), 1_600)) and not frames(path)[1]
