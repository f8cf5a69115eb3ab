"""Pictures out of encoded frames: right content, right moment, and no work that nobody asked for."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import av
import numpy as np
import pytest

from gateway.webrtc.video import (
    DECODE_BURST_NS,
    DECODE_SHARE,
    MOST_WAITING,
    SOURCE_FRAMES,
    STALE_NS,
    DecoderThread,
    PictureDecoder,
    SourceCounters,
    VideoSource,
)
from media.chunk import Chunk, VideoFrame
from media.slots import SlotTable
from media.timebase import TURN_NS, TURN_SAMPLES
from media.video import EncodedFrame
from tests.support.camera import Camera, Line, film, pictures, psnr_db, rgb_of

MS = 1_000_000
START_NS = 10**12
PATIENCE_S = 20


@pytest.fixture
def thread() -> Iterator[DecoderThread]:
    decoder = DecoderThread()
    yield decoder
    decoder.close()
    assert not [t for t in threading.enumerate() if t.name == "video-decoder"]


def settle(source: VideoSource) -> SourceCounters:
    """Wait until the thread has dealt with all that it knows of; the account."""
    c = source.counters
    until = time.monotonic() + PATIENCE_S
    while c.frames_pushed - source.waiting != (
        c.frames_decoded + c.frames_failed + c.frames_refused + c.frames_skipped
    ):
        assert time.monotonic() < until, c
        time.sleep(0.0005)
    return c


class Cutter:
    """Takes at every turn of virtual time, as a leg's cut does."""

    def __init__(self, source: VideoSource, first_ns: int = START_NS) -> None:
        self._source, self._next_ns = source, first_ns
        self.chunks: list[tuple[VideoFrame, ...]] = []

    def __call__(self, now_ns: int) -> None:
        if now_ns >= self._next_ns:
            settle(self._source)
            self.chunks.append(self._source.take(self._next_ns))
            self._next_ns += TURN_NS

    @property
    def frames(self) -> list[VideoFrame]:
        return [frame for chunk in self.chunks for frame in chunk]


def shoot(
    source: VideoSource,
    camera: Camera,
    count: int,
    cutter: Callable[[int], None],
    line: Line | None = None,
) -> None:
    scenes = pictures(camera.width, camera.height, count)
    film(camera, scenes, source, line or Line(1), Line(2), step=cutter)


@pytest.mark.parametrize("codec", ["vp8", "h264"])
@pytest.mark.parametrize("size", [(640, 480), (1280, 720)])
def test_frames_of_a_chunk_show_what_the_camera_saw_just_before_the_cut(thread, codec, size) -> None:
    source = VideoSource(thread, codec, frames_per_chunk=2)
    camera = Camera(codec, *size, bitrate=2_000_000)
    cutter = Cutter(source)
    shoot(source, camera, 45, cutter)
    scenes = pictures(*size, 45)
    full = [chunk for chunk in cutter.chunks[3:] if chunk]
    assert len(full) >= 13 and all(len(chunk) == 2 for chunk in full[:13])
    for n, chunk in enumerate(cutter.chunks):
        for frame in chunk:
            shown = round((frame.captured_ns - START_NS - 20 * MS) * 15 / 1e9)
            expected = letterboxed(scenes[shown])
            assert psnr_db(frame.rgb, expected) > 28, (n, shown)
            assert psnr_db(frame.rgb, expected) > psnr_db(
                frame.rgb, letterboxed(scenes[shown - 9 if shown > 20 else shown + 9])
            )
        ages = [(START_NS + n * TURN_NS - frame.captured_ns) / 1e6 for frame in chunk]
        assert ages == sorted(ages, reverse=True)
        assert not chunk or n < 3 or n > 15 or ages[-1] <= 1000 / 15 + 25  # the newest there can be, nearly
    c = settle(source)
    assert c.frames_decoded + source.waiting == c.frames_pushed == 45
    assert c.pictures_scaled <= 2 * 15 + 4  # of 45
    assert c.pictures_taken == len(cutter.frames)


def letterboxed(picture: av.VideoFrame) -> np.ndarray:
    """320x240 as it should be: 4:3 fills it, 16:9 leaves 30 black lines above and below."""
    height = min(240, round(320 * picture.height / picture.width))
    canvas = np.zeros((240, 320, 3), np.uint8)
    top = (240 - height) // 2
    canvas[top : top + height] = rgb_of(picture, 320, height)
    return canvas


def test_bars_are_black_and_the_aspect_is_kept() -> None:
    decoder = PictureDecoder("vp8")
    white = av.VideoFrame.from_ndarray(np.full((720, 1280, 3), 255, np.uint8), "rgb24").reformat(
        format="yuv420p"
    )
    tall = white.reformat(480, 640)
    wide_rgb, tall_rgb = decoder.scale(white, (320, 240)), decoder.scale(tall, (320, 240))
    assert (wide_rgb[:30] == 0).all() and (wide_rgb[210:] == 0).all() and wide_rgb[30:210].min() > 250
    assert (
        (tall_rgb[:, :70] == 0).all() and (tall_rgb[:, 250:] == 0).all() and tall_rgb[:, 70:250].min() > 250
    )
    odd = decoder.scale(white, (33, 17))
    assert odd.shape == (17, 33, 3) and odd[8, 16].min() > 250


@pytest.mark.parametrize(("size", "into"), [((640, 480), (320, 240)), ((1280, 960), (320, 240))])
def test_a_small_picture_is_the_mean_of_what_it_stands_for(size, into) -> None:
    """Fine detail in all colours, which a filter of the wrong width would blur, shift or alias (24 to 32 dB)."""
    (scene,) = pictures(*size, 1)
    by = size[0] // into[0]
    full = rgb_of(scene, *size).astype(np.float32)
    mean = full.reshape(into[1], by, into[0], by, 3).mean((1, 3)).round().astype(np.uint8)
    assert psnr_db(PictureDecoder("vp8").scale(scene, into), mean) > 36


def test_a_picture_of_the_wanted_size_is_left_as_it_is() -> None:
    (scene,) = pictures(320, 240, 1)
    assert psnr_db(PictureDecoder("vp8").scale(scene, (320, 240)), rgb_of(scene, 320, 240)) > 45


def test_frames_that_no_chunk_wants_wait_for_one_that_does() -> None:
    batches: list[list[int]] = []
    thread = DecoderThread()
    thread.submit = lambda source, frames: not batches.append([f.captured_ns for f in frames])  # type: ignore[method-assign, func-returns-value, assignment]
    source = VideoSource(thread, "vp8", frames_per_chunk=1)
    good = [EncodedFrame(b"", n == 0, 3_000 * n, START_NS + n * 33 * MS) for n in range(19)]
    source.push(good[0])  # nobody takes any: the decoder's word is all that there is to wait for
    assert batches == [[START_NS]]
    source.take(START_NS + 10 * MS)
    for frame in good[1:7]:  # the cut is at 210: one is wanted from 190 on
        source.push(frame)
        source._pending -= len(batches[-1]) if batches[-1][-1] == frame.captured_ns else 0
        assert source.waiting < MOST_WAITING
    assert [(batch[-1] - START_NS) // MS for batch in batches] == [0, 132, 198]
    assert [len(batch) for batch in batches] == [1, 4, 2]
    thread.close()


def test_both_pictures_of_a_chunk_are_made_together(thread) -> None:
    source = VideoSource(thread, "vp8", frames_per_chunk=2)
    good = encoded("vp8", 7)
    source.take(START_NS)
    for frame in good[:3]:  # 67 ms apart: the first is due from 60 on, the second from 160
        source.push(frame)
    assert (source.waiting, settle(source).frames_decoded) == (3, 0)
    source.push(good[3])
    assert (source.waiting, settle(source).frames_decoded) == (0, 4)
    first, second = source.take(START_NS + 210 * MS)
    assert [frame.captured_ns for frame in (first, second)] == [good[1].captured_ns, good[3].captured_ns]


def test_frames_that_wait_are_in_the_account_whatever_becomes_of_them(thread) -> None:
    good = encoded("vp8", 5)
    for end in ("close", "pause"):
        source = VideoSource(thread, "vp8", frames_per_chunk=1)
        source.take(START_NS)
        source.push(good[0])
        source.push(good[1])
        assert (source.waiting, settle(source).frames_decoded) == (2, 0)
        if end == "close":
            source.close()
        else:
            source.frames_per_chunk = 0
        assert (source.waiting, settle(source).frames_skipped) == (0, 2)
    closed = DecoderThread()
    closed.close()
    source = VideoSource(closed, "vp8")
    source.take(START_NS)
    for frame in good[:4]:
        source.push(frame)
    assert (source.waiting, source.counters.frames_refused) == (0, 4)
    source.push(good[4])  # builds on those
    assert source.counters.frames_refused == 5
    source.push(good[0])
    assert source.waiting == 1


@pytest.mark.parametrize("codec", ["vp8", "h264"])
def test_loss_that_is_repaired_costs_no_picture(thread, codec) -> None:
    source = VideoSource(thread, codec, frames_per_chunk=2)
    cutter = Cutter(source)
    line = Line(3, loss=0.05, jitter_ns=5 * MS)
    shoot(source, Camera(codec), 60, cutter, line)
    c = settle(source)
    assert line.lost > 5 and source.assembler.counters.holes_repaired >= line.lost - 2
    assert c.frames_decoded + source.waiting == 60
    assert (c.frames_failed, source.assembler.counters.freezes) == (0, 0)
    shown = places(cutter.frames, pictures(640, 480, 60))
    assert len(shown) >= 28 and shown == sorted(set(shown))


def places(frames: list[VideoFrame], scenes: tuple[av.VideoFrame, ...]) -> list[int]:
    """Which scene each frame shows; every one of them must be that scene, and no other one at that."""
    expected = [letterboxed(scene) for scene in scenes]
    small = np.stack([scene[::4, ::4] for scene in expected]).astype(np.int16)
    found = [int(np.argmin(np.abs(small - frame.rgb[::4, ::4]).mean((1, 2, 3)))) for frame in frames]
    assert min(psnr_db(frame.rgb, expected[n]) for frame, n in zip(frames, found, strict=True)) > 28
    return found


@pytest.mark.parametrize("codec", ["vp8", "h264"])
def test_loss_that_is_not_repaired_never_smears(thread, codec) -> None:
    """Everything that is shown is a picture of the film; after each freeze a key frame brings it back."""
    source = VideoSource(thread, codec, frames_per_chunk=2)
    source.missing = lambda now_ns: []  # type: ignore[method-assign]
    cutter = Cutter(source)
    shoot(source, Camera(codec, 320, 240), 90, cutter, Line(9, loss=0.02))
    c = settle(source)
    assert source.assembler.counters.freezes >= 2 and c.frames_failed == 0
    shown = places(cutter.frames, pictures(320, 240, 90))
    assert len(shown) > 15 and shown == sorted(set(shown)) and shown[-1] > 80


def test_where_no_frames_are_wanted_nothing_is_done(thread) -> None:
    source = VideoSource(thread, "vp8", frames_per_chunk=0)
    cutter = Cutter(source)
    shoot(source, Camera("vp8", 320, 240), 20, cutter)
    assert source.counters == SourceCounters(packets_unwanted=source.counters.packets_unwanted)
    assert source.counters.packets_unwanted > 20 and source.assembler.held == 0
    assert not cutter.frames and not source.wants_key(START_NS + 10**9)
    assert not [t for t in threading.enumerate() if t.name == "video-decoder"]


def test_frames_wanted_again_begin_with_a_key_frame(thread) -> None:
    source = VideoSource(thread, "vp8", frames_per_chunk=1)
    camera, cutter = Camera("vp8", 320, 240), Cutter(source)
    scenes = pictures(320, 240, 60)
    film(camera, scenes[:15], source, Line(1), Line(2), step=cutter, start_ns=START_NS)
    before = len(cutter.frames)
    source.frames_per_chunk = 0
    film(camera, scenes[15:30], source, Line(1), Line(2), step=cutter, start_ns=START_NS + 2 * 10**9)
    assert len(cutter.frames) == before > 3
    source.frames_per_chunk = 1
    film(camera, scenes[30:], source, Line(1), Line(2), step=cutter, start_ns=START_NS + 4 * 10**9)
    c = settle(source)
    assert len(cutter.frames) > before + 7 and all(len(chunk) <= 1 for chunk in cutter.chunks)
    assert source.assembler.counters.key_frames == 2 and c.frames_failed == 0
    with pytest.raises(ValueError, match="frames_per_chunk = 3: give a number from 0 to 2"):
        source.frames_per_chunk = 3


def encoded(codec: str, count: int, size: tuple[int, int] = (320, 240)) -> list[EncodedFrame]:
    camera = Camera(codec, *size)
    return [
        EncodedFrame(camera.encode(scene), n == 0, 6_000 * n, START_NS + n * 66 * MS)
        for n, scene in enumerate(pictures(*size, count))
    ]


@pytest.mark.parametrize("codec", ["vp8", "h264"])
def test_a_decoder_error_is_counted_and_a_key_frame_asked_for(thread, codec) -> None:
    source = VideoSource(thread, codec)
    good = encoded(codec, 3)
    rubbish = EncodedFrame(b"\x00\x00\x00\x01\x65" + bytes(range(60)), True, 0, START_NS)
    source.push(rubbish)
    source.push(good[1])
    c = settle(source)
    assert (c.frames_failed, c.frames_skipped, c.frames_decoded) == (1, 1, 0)
    source.receive_packet(1, 0, False, b"\x01\x02\x03\x04", START_NS)
    assert source.wants_key(START_NS)
    for frame in good[:2]:
        source.push(frame)
    cut_short = b"\x01" if codec == "vp8" else b"\x00\x00\x00\x01\x41"
    source.push(EncodedFrame(cut_short, False, 0, START_NS))
    source.push(good[2])  # builds on what was lost with it
    c = settle(source)
    assert (c.frames_failed, c.frames_skipped, c.frames_decoded) == (2, 2, 2)
    source.push(good[0])
    assert settle(source).frames_decoded == 3


@pytest.mark.parametrize("codec", ["vp8", "h264"])
def test_mutated_frames_end_nothing_but_themselves(thread, codec) -> None:
    chance = random.Random(12)
    source, other = VideoSource(thread, codec), VideoSource(thread, codec)
    good = encoded(codec, 30)
    for n in range(900):
        frame = good[n % 30]
        data = bytearray(frame.data)
        for _ in range(chance.choice((0, 1, 3, 20))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        source.push(EncodedFrame(bytes(data), frame.is_key, 6_000 * n, START_NS + n * 66 * MS))
        if not n % SOURCE_FRAMES:
            settle(source)
            source.take(START_NS + n * 66 * MS)
    for frame in good[:SOURCE_FRAMES]:
        other.push(frame)
    assert settle(source).frames_failed > 0 and source.counters.frames_decoded > 0
    assert settle(other).frames_decoded == SOURCE_FRAMES


def test_a_picture_too_large_is_refused_by_the_decoder(thread) -> None:
    head = bytes.fromhex("500100 9d012a ff3fff3f")  # a VP8 key frame of 16383x16383
    source = VideoSource(thread, "vp8")
    source.push(EncodedFrame(head + bytes(2_000), True, 0, START_NS))
    assert settle(source).frames_failed == 1
    with pytest.raises(av.FFmpegError):
        PictureDecoder("h264").decode(b"".join(f.data for f in encoded("h264", 1, (2_048, 1_600))))


def test_a_full_queue_refuses_frames_until_a_key_frame_and_waits_for_nobody() -> None:
    gate = threading.Event()
    thread = DecoderThread(max_frames=3)
    blocker = VideoSource(thread, "vp8")
    blocker.decode = lambda frame: gate.wait(PATIENCE_S)  # type: ignore[assignment, method-assign]
    source = VideoSource(thread, "vp8")
    try:
        good = encoded("vp8", 6)
        blocker.push(good[0])
        until = time.monotonic() + PATIENCE_S
        while thread.pending and time.monotonic() < until:
            time.sleep(0.001)
        for frame in good[:5]:
            source.push(frame)
        assert source.counters.frames_refused == 2
        source.receive_packet(1, 0, False, b"\x01\x02\x03\x04", START_NS)
        assert source.wants_key(START_NS)
        gate.set()
        while source.counters.frames_decoded < 3 and time.monotonic() < until:
            time.sleep(0.001)
        source.push(good[5])  # builds on one that was refused
        source.push(good[0])
        c = settle(source)
        assert (c.frames_decoded, c.frames_refused, c.frames_failed) == (4, 3, 0)
    finally:
        gate.set()
        thread.close()


def test_one_call_may_not_fill_the_queue_of_all() -> None:
    thread = DecoderThread()
    thread.submit = lambda source, frames: True  # type: ignore[method-assign]  # a thread that never comes to it
    source = VideoSource(thread, "vp8")
    for frame in encoded("vp8", 20):
        source.push(frame)
    assert source.counters.frames_refused == 20 - SOURCE_FRAMES


def test_a_call_that_floods_is_held_to_its_share_of_the_core(thread, monkeypatch) -> None:
    spent_ns = iter(range(0, 10**13, 5 * MS))  # each frame takes 5 ms of the thread
    monkeypatch.setattr(
        "gateway.webrtc.video.time", SimpleNamespace(thread_time_ns=lambda: next(spent_ns), sleep=time.sleep)
    )
    source = VideoSource(thread, "vp8")
    (key,) = encoded("vp8", 1)
    frames = 200
    for n in range(frames):  # within 600 ms
        source.push(EncodedFrame(key.data, True, 6_000 * n, START_NS + 3 * n * MS))
        settle(source)
    c = settle(source)
    assert c.frames_decoded == pytest.approx((DECODE_BURST_NS / MS + 600 * DECODE_SHARE) / 5, abs=2)
    assert c.frames_decoded + c.frames_skipped == frames
    before = c.frames_decoded
    source.push(EncodedFrame(key.data, True, 0, START_NS + 10 * 10**9))
    assert settle(source).frames_decoded == before + 1


def test_a_picture_from_long_ago_is_not_shown_as_if_it_were_now(thread) -> None:
    source = VideoSource(thread, "vp8")
    good = encoded("vp8", 4)
    source.take(START_NS)
    source.push(good[0])
    settle(source)
    assert source.take(START_NS + STALE_NS) == ()
    source.take(START_NS)
    for frame in good[1:]:
        source.push(frame)
    settle(source)
    assert source.take(START_NS + 200 * MS)


def test_a_chunk_has_a_picture_even_when_none_comes_just_before_its_cut(thread) -> None:
    source = VideoSource(thread, "vp8", frames_per_chunk=1)
    cuts: list[int] = []
    for n, frame in enumerate(encoded("vp8", 18)):
        cut_ns = START_NS + n // 3 * TURN_NS
        if n % 3 == 0:
            cuts.append(len(source.take(cut_ns)))
        arrival_ns = cut_ns + (10, 60, 100)[n % 3] * MS  # a steady line has one within 67 ms
        source.push(EncodedFrame(frame.data, frame.is_key, frame.timestamp_90k, arrival_ns))
        settle(source)
    assert cuts[2:] == [1] * 4


def test_a_closed_source_is_freed_with_its_decoder(thread) -> None:
    source = VideoSource(thread, "vp8")
    source.take(START_NS)
    for frame in encoded("vp8", 5):
        source.push(frame)
    source.close()
    settle(source)
    assert source._decoder is None and source.take(START_NS) == ()
    source.push(encoded("vp8", 1)[0])
    assert settle(source).frames_skipped >= 1
    gone = weakref.ref(source)
    del source
    gc.collect()
    assert gone() is None


def test_a_real_camera_arrives_in_the_slots(thread) -> None:
    table = SlotTable.create(2, video_size=(448, 336))
    table.generation[:] = 1
    source = VideoSource(thread, "vp8", size=table.video_size)
    scenes, seen, turn = pictures(640, 480, 45), 0, 0

    def cut(now_ns: int) -> None:
        nonlocal seen, turn
        if now_ns < START_NS + turn * TURN_NS:
            return
        settle(source)
        video = source.take(now_ns)
        table.put_chunk(1, Chunk(1, turn, now_ns, np.zeros(TURN_SAMPLES, np.int16), video=video))
        turn += 1
        ready = table.inbound.ready()
        (chunk,) = table.chunks(table.inbound.gather(ready))
        table.inbound.advance(ready)
        assert len(chunk.video) == len(video)
        for frame in chunk.video:
            shown = round((frame.captured_ns - START_NS - 20 * MS) * 15 / 1e9)
            assert psnr_db(frame.rgb, rgb_of(scenes[shown], 448, 336)) > 28 and frame.intact()
            seen += 1

    film(Camera("vp8"), scenes, source, Line(1), Line(2), step=cut)
    assert seen >= 24 and table.misfits == 0
    table.close()
