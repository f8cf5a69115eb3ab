"""One picture for who works in the background: what the camera shows, small enough, and decoded for it alone."""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
import numpy as np
import pytest

from gateway.background.records import MOST_STILL_BYTES
from gateway.webrtc.still import jpeg_of
from gateway.webrtc.video import DecoderThread, VideoSource
from media.chunk import VideoFrame
from tests.gateway.webrtc.test_video import settle
from tests.support.camera import Camera, Line, film, pictures, psnr_db, rgb_of


@pytest.fixture
def thread() -> Iterator[DecoderThread]:
    decoder = DecoderThread()
    yield decoder
    decoder.close()


def seen(jpeg: bytes) -> np.ndarray:
    with av.open(io.BytesIO(jpeg), format="image2pipe") as container:
        return next(container.decode(video=0)).reformat(format="rgb24").to_ndarray()


@pytest.mark.parametrize(
    ("size", "into"),
    [((640, 480), (320, 240)), ((1280, 720), (320, 180)), ((480, 640), (180, 240)), ((160, 120), (160, 120))],
)
def test_it_looks_like_the_picture_and_keeps_its_shape(size: tuple[int, int], into: tuple[int, int]) -> None:
    (picture,) = pictures(*size, 1)
    jpeg = jpeg_of(picture)
    assert seen(jpeg).shape == (into[1], into[0], 3) and jpeg[:2] == b"\xff\xd8"
    assert psnr_db(seen(jpeg), rgb_of(picture, *into)) > 34


def test_it_fits_however_little_there_is_to_save() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    picture = av.VideoFrame.from_ndarray(noise, "rgb24").reformat(format="yuv420p")
    fine, coarse = jpeg_of(picture, 1 << 20), jpeg_of(picture)
    assert len(coarse) <= MOST_STILL_BYTES < len(fine)
    assert jpeg_of(picture, 100) == b""


class Watch:
    """Wants a still between two moments of virtual time, and takes it when it is there."""

    def __init__(self, source: VideoSource, begin_ns: int) -> None:
        self.source, self.begin_ns = source, begin_ns
        self.jpeg, self.at_ns, self.wanting = b"", 0, False
        self.frames: list[VideoFrame] = []
        self._cut_ns = 0

    def __call__(self, now_ns: int) -> None:
        if now_ns >= self._cut_ns:
            self._cut_ns = now_ns + 200_000_000
            settle(self.source)  # the thread is real
            self.frames += self.source.take(now_ns)
        if self.wanting:
            settle(self.source)
            if jpeg := self.source.take_still():
                self.jpeg, self.at_ns, self.wanting = jpeg, now_ns, False
                self.source.want_still(False)
        elif not self.jpeg and now_ns >= self.begin_ns:
            self.wanting = True
            self.source.want_still(True)


@pytest.mark.parametrize("codec", ["vp8", "h264"])
@pytest.mark.parametrize("frames_per_chunk", [0, 2])
def test_the_next_picture_is_taken_whether_chunks_look_at_any_or_not(
    thread: DecoderThread, codec: str, frames_per_chunk: int
) -> None:
    source = VideoSource(thread, codec, frames_per_chunk=frames_per_chunk)  # type: ignore[arg-type]
    camera = Camera(codec, 640, 480, bitrate=1_000_000)
    scenes = pictures(640, 480, 60)
    watch = Watch(source, 10**12 + 2 * 10**9)
    film(camera, scenes, source, Line(1), Line(2), step=watch)
    assert watch.jpeg
    likeness = [psnr_db(seen(watch.jpeg), rgb_of(scene, 320, 240)) for scene in scenes]
    best = int(np.argmax(likeness))
    assert likeness[best] > 28 and likeness[best] > likeness[0] + 3, likeness
    # of that moment: frames may wait for a chunk, or a key frame be waited for
    assert 24 <= best <= 29 + 15, best
    counters = source.counters
    if frames_per_chunk:
        assert len(watch.frames) > 20
    else:
        assert not watch.frames and counters.pictures_scaled == 0
        assert counters.packets_unwanted > 0 and 0 < counters.frames_decoded < 20, counters


def test_of_a_camera_that_is_off_there_is_none_and_nothing_runs_on(thread: DecoderThread) -> None:
    source = VideoSource(thread, "vp8", frames_per_chunk=0)
    source.want_still(True)
    assert (
        not source.take_still() and source.wants_key(10**9) is False
    )  # nothing came: there is nobody to ask
    source.want_still(False)
    camera = Camera("vp8", 320, 240)
    for packet in camera.shoot(pictures(320, 240, 1)[0]):
        source.receive_packet(packet.sequence, packet.timestamp, packet.marker, packet.payload, 10**9)
    assert source.counters.frames_pushed == 0 and not source.take_still()
