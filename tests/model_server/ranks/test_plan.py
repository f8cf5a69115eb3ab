"""What rank 0 writes is what the others read; what does not fit loses its pictures first."""

from __future__ import annotations

import numpy as np
import pytest

from media.chunk import Chunk, VideoFrame
from media.ring import META
from media.timebase import TURN_SAMPLES
from model_server.batch import Batch
from model_server.ranks.plan import Close, Open, Step, held_still, read, without_pictures, write


def frame(seed: int, intact: bool = True) -> VideoFrame:
    rgb = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    return VideoFrame(seed, rgb, check=lambda: intact)


def batch_with(*frames: VideoFrame) -> Batch:
    rng = np.random.default_rng(1)
    pcm = rng.integers(-9, 9, (3, TURN_SAMPLES)).astype(np.int16)
    meta = np.zeros(3, META)
    meta["turn"], meta["concealed"] = (7, 8, 9), [(0, 1, 2, 3)] * 3
    chunk = Chunk(5, 8, 0, pcm[1], text="naïve", events=("dtmf 5",), video=frames)
    older = Chunk(5, 7, 0, pcm[2], video=frames)
    return Batch(3, np.array([0, 4, 6]), meta, pcm, {1: chunk}, {6: (older,)}, np.array([9]))


def test_a_step_is_read_as_it_was_written() -> None:
    memory = memoryview(bytearray(b"\xff" * 200_000))
    batch = held_still(batch_with(frame(1), frame(2)))
    end = write(Step(batch), memory)
    assert end < 200_000 and bytes(memory[end:]) == b"\xff" * (200_000 - end), "nothing beyond its end"
    found = read(memory)
    assert isinstance(found, Step)
    assert np.array_equal(found.batch.pcm_BS, batch.pcm_BS) and not found.batch.pcm_BS.flags.writeable
    assert np.array_equal(found.batch.meta_B, batch.meta_B)
    assert found.batch.slots_B.tolist() == [0, 4, 6] and found.batch.missing_M.tolist() == [9]
    chunk = found.batch.chunks[1]
    assert (chunk.text, chunk.events, chunk.turn) == ("naïve", ("dtmf 5",), 8)
    for sent, got in zip(batch.chunks[1].video, chunk.video, strict=True):
        assert np.array_equal(sent.rgb, got.rgb) and got.captured_ns == sent.captured_ns
    assert np.array_equal(found.batch.earlier[6][0].pcm, batch.pcm_BS[2])


def test_calls_begin_and_end() -> None:
    memory = memoryview(bytearray(4096))
    for plan in (Open(3, "count"), Close(3)):
        write(plan, memory)
        assert read(memory) == plan


def test_a_picture_that_was_written_over_is_left_out_for_all_ranks() -> None:
    batch = held_still(batch_with(frame(1), frame(2, intact=False)))
    assert [each.captured_ns for each in batch.chunks[1].video] == [1]
    assert [each.captured_ns for each in batch.earlier[6][0].video] == [1]
    assert all(each.check is None for each in batch.chunks[1].video)


def test_what_does_not_fit_is_refused_and_fits_without_pictures() -> None:
    memory = memoryview(bytearray(34_000))
    batch = held_still(batch_with(frame(1)))
    with pytest.raises(ValueError, match="expected at most 34000"):
        write(Step(batch), memory)
    write(Step(without_pictures(batch)), memory)
    found = read(memory)
    assert isinstance(found, Step)
    assert not found.batch.chunks[1].video and found.batch.chunks[1].text == "naïve"
