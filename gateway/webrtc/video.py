"""encoded picture -> frames of a chunk: decoding and scaling off the event loop, on one thread for all calls.

    loop                                              decoder thread
    receive_packet -> FrameAssembler -> push  ----->  decode every frame; scale those that will be in a chunk
    take, at the chunk's cut                  <-----  the newest pictures, RGB24 in the table's size

Every frame has to be decoded, because later ones are made from it; scaling costs as much again, so a picture is
scaled only when it is likely to be the newest at the next cut: the first one that comes within a frame interval
before the moment it is wanted. All of a chunk's frames wait for the last such one, and are decoded in one go: while
the caches hold a call's pictures, that takes a quarter less.

Its one rule: the loop never waits for the thread. A full queue refuses the frame, and since nothing after it can
be decoded, a key frame is asked for. Nothing runs at all while no frames are wanted, and no still.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final, Literal

import av
import av.codec.context
import av.video.reformatter
import numpy as np
import structlog

from gateway.webrtc.still import jpeg_of
from media.chunk import MAX_VIDEO_FRAMES, RGB, VIDEO_SIZE, VideoFrame
from media.codecs import h264, vp8
from media.codecs.fragment import Fragment
from media.rtp import BadPacket
from media.timebase import NS_PER_MS, NS_PER_S, TURN_NS
from media.video import EncodedFrame, FrameAssembler, unwrap_rtx

log = structlog.get_logger()

QUEUE_FRAMES: Final = 256
"""Of all calls: a tenth of a second of decoding 640x480."""
SOURCE_FRAMES: Final = 8
"""Of one call: a burst after a repaired loss; more would be older than a chunk."""
MOST_WAITING: Final = 4
"""Of one call: so many are decoded although no chunk wants the newest of them."""
MAX_PIXELS: Final = 1920 * 1088
"""The decoder refuses larger pictures before it takes memory for them."""
DECODE_SHARE: Final = 0.15
"""Of a core, per call: 1280x720 at 30 fps takes 0.05."""
DECODE_BURST_NS: Final = 300 * NS_PER_MS
GATHER_S: Final = 0.02
"""The thread rests so long when it has done all there is: to be woken for each frame of each call costs more."""
MARGIN_NS: Final = 40 * NS_PER_MS
"""A picture must be here so long before the cut: network jitter, the thread's rest, decoding and scaling."""
SLOW_NS: Final = 90 * NS_PER_MS
"""Frames further apart than this are all scaled: there is nothing to choose from."""
STALE_NS: Final = 2 * TURN_NS
"""An older picture is not shown to the model as if it were now."""

Codec = Literal["vp8", "h264"]
_AREA: Final = av.video.reformatter.Interpolation.AREA
_SMALL, _RGB = av.VideoFormat("yuv422p"), av.VideoFormat("rgb24")
_PARSE: Final[dict[str, Callable[[bytes], Fragment | BadPacket]]] = {
    "vp8": vp8.parse_payload,
    "h264": h264.parse_payload,
}


@dataclass(slots=True)
class SourceCounters:
    """All only ever grow; pushed = decoded + failed + refused + skipped + pending."""

    packets_unwanted: int = 0
    """Dropped before assembly, because no frames are wanted."""
    frames_pushed: int = 0
    frames_decoded: int = 0
    frames_failed: int = 0
    """The decoder raised, or said that the picture is damaged."""
    frames_refused: int = 0
    """The queue was full, or they build on one that was refused."""
    frames_skipped: int = 0
    """Not decodable after a failure or a refusal, over the call's share of the core, or of a closed call."""
    pictures_scaled: int = 0
    pictures_taken: int = 0
    stills_made: int = 0


class DecoderThread:
    """One thread and its queue. It starts with the first frame, so a worker of voice calls has none."""

    def __init__(self, max_frames: int = QUEUE_FRAMES) -> None:
        self._max_frames = max_frames
        self._work: SimpleQueue[tuple[VideoSource, list[EncodedFrame]] | None] = SimpleQueue()
        self._submitted = 0  # frames; the loop's own
        self._done = 0  # the thread's own
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def pending(self) -> int:
        """Frames in the queue, without the one in hand."""
        return self._submitted - self._done

    def submit(self, source: VideoSource, frames: list[EncodedFrame]) -> bool:
        """Decode them after those before them; False when the queue has no room for all. For the loop only."""
        if self._closed or self.pending + len(frames) > self._max_frames:
            return False
        self._submitted += len(frames)
        self._work.put((source, frames))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="video-decoder", daemon=True)
            self._thread.start()
        return True

    def close(self) -> None:
        """End the thread after the frame in hand; what is queued is dropped."""
        self._closed = True
        self._work.put(None)
        if self._thread is not None:
            self._thread.join()
        self._work = SimpleQueue()

    def _run(self) -> None:
        _step_back()
        while (work := self._work.get()) is not None and not self._closed:
            source, frames = work
            for frame in frames:
                self._done += 1
                source.decode(frame)
            del work, source, frames, frame  # or the last call would stay until the next frame
            if self._work.empty():
                time.sleep(GATHER_S)


class PictureDecoder:
    """One call's decoder and scaler; used by one thread at a time."""

    def __init__(self, codec: Codec) -> None:
        self._context = av.CodecContext.create(codec, "r")
        self._context.thread_count = 1
        self._context.options = {"max_pixels": str(MAX_PIXELS)}
        self._context.flags |= av.codec.context.Flags.low_delay
        self._scaler = av.video.reformatter.VideoReformatter()
        self._painter = av.video.reformatter.VideoReformatter()

    def decode(self, data: bytes) -> av.VideoFrame | None:
        """The picture; None when the frame is none to be shown (RFC 6386 9.1). Raises `av.FFmpegError`."""
        pictures = self._context.decode(av.Packet(data))
        if any(picture.is_corrupt for picture in pictures):
            raise av.InvalidDataError(1, "the decoder had to make up a part of the picture")
        return pictures[-1] if pictures else None

    def scale(self, picture: av.VideoFrame, size: tuple[int, int]) -> RGB:
        """uint8 [height, width, 3] of the whole picture, with black bars where its aspect asks for them."""
        # first small, then RGB: libswscale has fast code for each (for even heights), none for both at once
        width, height = size
        scale = min(width / picture.width, height / picture.height)
        inner_width = max(1, min(width, round(picture.width * scale)))
        inner_height = max(1, min(height, 2 * round(picture.height * scale / 2)))
        if (inner_width, inner_height) != (picture.width, picture.height):
            picture = self._scaler.reformat(
                picture, inner_width, inner_height, _SMALL, interpolation=_AREA, threads=1
            )
        scaled = self._painter.reformat(picture, format=_RGB, threads=1)
        plane = scaled.planes[0]
        rgb: RGB = np.ndarray(
            (inner_height, inner_width, 3), np.uint8, buffer=plane, strides=(plane.line_size, 3, 1)
        )
        if (inner_width, inner_height) == size:
            return rgb
        canvas = np.zeros((height, width, 3), np.uint8)
        x, y = (width - inner_width) // 2, (height - inner_height) // 2
        canvas[y : y + inner_height, x : x + inner_width] = rgb
        return canvas


class VideoSource:
    """One call's camera, from packets to the frames of its chunks. All but `decode` belongs to the loop."""

    def __init__(
        self,
        thread: DecoderThread,
        codec: Codec,
        size: tuple[int, int] = VIDEO_SIZE,
        frames_per_chunk: int = MAX_VIDEO_FRAMES,
    ) -> None:
        self.counters = SourceCounters()
        self.assembler = FrameAssembler(_PARSE[codec])
        self.size = size
        """Width and height of the pictures: `SlotTable.video_size`; may be set anew at any time."""
        self._codec: Codec = codec
        self._thread = thread
        self._wanted = _checked(frames_per_chunk)
        self._lock = threading.Lock()  # held for microseconds: guards all that follows
        self._waiting: list[EncodedFrame] = []
        self._pending = 0  # these, and those that the thread has
        self._refused = False
        self._broken = False
        self._closed = False
        self._pictures: deque[VideoFrame] = deque(maxlen=MAX_VIDEO_FRAMES)
        self._dues: list[int] = []
        self._until_ns = 0
        self._interval_ns = 0.0
        self._timestamp_90k: int | None = None
        self._still_wanted = False
        self._still = b""
        # the thread's own
        self._decoder: PictureDecoder | None = None
        self._needs_key = True
        self._credit_ns = float(DECODE_BURST_NS)
        self._credited_ns: int | None = None

    @property
    def frames_per_chunk(self) -> int:
        """How many pictures a chunk may carry, 0 to 2; at 0 packets are dropped before they are put together."""
        return self._wanted

    @frames_per_chunk.setter
    def frames_per_chunk(self, count: int) -> None:
        self._wanted = _checked(count)
        if not count:
            with self._lock:
                self._pictures.clear()
            self._rest()

    @property
    def waiting(self) -> int:
        """Frames that wait for one that a chunk will want."""
        return len(self._waiting)

    def want_still(self, wanted: bool) -> None:
        """The next picture is made a JPEG, too, whether chunks look at any or not; when it is taken, another."""
        with self._lock:
            self._still_wanted, self._still = wanted, b""
        if not wanted:
            self._rest()

    def take_still(self) -> bytes:
        """The JPEG, once; empty while there is none."""
        with self._lock:
            still, self._still = self._still, b""
        return still

    def receive_packet(
        self, sequence: int, timestamp: int, marker: bool, payload: bytes, arrival_ns: int
    ) -> None:
        """One RTP packet of the stream, padding stripped."""
        if not self._is_used or self._closed:
            self.counters.packets_unwanted += 1
            return
        self._tell_assembler()
        for frame in self.assembler.receive_packet(sequence, timestamp, marker, payload, arrival_ns):
            self.push(frame)

    def receive_rtx(self, timestamp: int, marker: bool, payload: bytes, arrival_ns: int) -> None:
        """One packet of the retransmission stream; what is empty is a probe of the line."""
        original = unwrap_rtx(payload)
        if not isinstance(original, BadPacket):
            self.receive_packet(original[0], timestamp, marker, original[1], arrival_ns)

    def missing(self, now_ns: int) -> list[int]:
        """Sequence numbers for a NACK now."""
        return self.assembler.missing(now_ns) if self._is_used else []

    def wants_key(self, now_ns: int) -> bool:
        """Whether to send a PLI now."""
        self._tell_assembler()
        return self._is_used and self.assembler.wants_key(now_ns)

    def push(self, frame: EncodedFrame) -> None:
        """A whole frame, in decode order; refused and counted when the thread is behind."""
        with self._lock:
            self.counters.frames_pushed += 1
            self._measure_interval(frame.timestamp_90k)
            if (frame.is_key or not self._refused) and self._pending < SOURCE_FRAMES:
                self._pending += 1
                self._refused = False
                self._waiting.append(frame)
                if not self._may_wait(frame.captured_ns):
                    self._submit()
            else:
                self.counters.frames_refused += 1
                self._refused = self._broken = True
        self._tell_assembler()

    def take(self, now_ns: int) -> tuple[VideoFrame, ...]:
        """At the chunk's cut: the newest pictures since the last one, oldest first."""
        wanted = self._wanted
        with self._lock:
            fresh = [frame for frame in self._pictures if now_ns - frame.captured_ns < STALE_NS]
            self._pictures.clear()
            lead_ns = int(self._interval_ns) + MARGIN_NS
            unmet = self._dues[:1]  # no picture came in time: the next one will do, whenever it comes
            self._dues = unmet + [now_ns + TURN_NS * k // wanted - lead_ns for k in range(1, wanted + 1)]
            self._until_ns = now_ns + STALE_NS
            taken = tuple(fresh[-wanted:]) if wanted else ()
            self.counters.pictures_taken += len(taken)
        return taken

    def close(self) -> None:
        """The call is over: decoder and pictures are freed, at the latest after the frame in hand."""
        with self._lock:
            self._closed = True
            self._pictures.clear()
            self._drop_waiting()
            if not self._pending:
                self._decoder = None

    def decode(self, frame: EncodedFrame) -> None:
        """On the decoder thread: one frame, and its picture if a chunk will want it. Raises nothing."""
        counters, failed, picture = self.counters, False, None
        skipped = self._is_of_no_use(frame)
        if not skipped:
            try:
                picture = self._picture(frame)
            except av.FFmpegError:
                failed = True
            except Exception:
                failed = True
                log.exception("video decoder failed")
        with self._lock:
            self._pending -= 1
            if failed:
                self._needs_key = self._broken = True
            counters.frames_failed += failed
            counters.frames_skipped += skipped
            counters.frames_decoded += not (failed or skipped)
            if self._closed:
                self._decoder = None
            elif picture is not None:
                self._pictures.append(picture)
                counters.pictures_scaled += 1

    def _is_of_no_use(self, frame: EncodedFrame) -> bool:
        if self._closed or (self._needs_key and not frame.is_key):
            return True
        before_ns, self._credited_ns = self._credited_ns, frame.captured_ns
        if before_ns is not None:
            earned_ns = (frame.captured_ns - before_ns) * DECODE_SHARE
            self._credit_ns = min(DECODE_BURST_NS, self._credit_ns + earned_ns)
        if self._credit_ns > 0:
            return False
        self._needs_key = self._broken = True
        return True

    def _picture(self, frame: EncodedFrame) -> VideoFrame | None:
        began_ns = time.thread_time_ns()
        try:
            if self._decoder is None:
                self._decoder = PictureDecoder(self._codec)
            decoded = self._decoder.decode(frame.data)
            self._needs_key = False
            if decoded is None:
                return None
            if self._still_wanted and not self._still:
                self._keep_still(jpeg_of(decoded))
            if not self._is_due(frame.captured_ns):
                return None
            return VideoFrame(frame.captured_ns, self._decoder.scale(decoded, self.size))
        finally:
            self._credit_ns -= time.thread_time_ns() - began_ns

    def _keep_still(self, jpeg: bytes) -> None:
        with self._lock:
            if self._still_wanted:
                self._still = jpeg
                self.counters.stills_made += bool(jpeg)

    def _is_due(self, captured_ns: int) -> bool:
        """Whether this picture is one that the next cut will take, as far as can be told now."""
        with self._lock:
            if captured_ns >= self._until_ns or not self._wanted:
                return False  # nobody takes any
            if self._interval_ns >= SLOW_NS:
                return True
            due = [due_ns for due_ns in self._dues if due_ns <= captured_ns]
            if not due:
                return False
            self._dues = self._dues[len(due) :]
            return True

    def _may_wait(self, captured_ns: int) -> bool:
        """Whether the thread need not know of this frame yet: no chunk will want it, or what comes of it."""
        if self._closed or captured_ns >= self._until_ns or self._interval_ns >= SLOW_NS:
            return False
        if self._still_wanted:
            return False
        return len(self._waiting) < MOST_WAITING and not (self._dues and self._dues[-1] <= captured_ns)

    @property
    def _is_used(self) -> bool:
        return bool(self._wanted) or self._still_wanted

    def _rest(self) -> None:
        """When nobody looks any more: what comes next begins with a key frame."""
        if not self._is_used:
            self.assembler.restart()
            with self._lock:
                self._drop_waiting()

    def _submit(self) -> None:
        frames, self._waiting = self._waiting, []
        if not self._thread.submit(self, frames):
            self._pending -= len(frames)
            self.counters.frames_refused += len(frames)
            self._refused = self._broken = True

    def _drop_waiting(self) -> None:
        """The next frame is a key frame, or there is none."""
        self.counters.frames_skipped += len(self._waiting)
        self._pending -= len(self._waiting)
        self._waiting = []

    def _measure_interval(self, timestamp_90k: int) -> None:
        before, self._timestamp_90k = self._timestamp_90k, timestamp_90k
        if before is None:
            return
        interval_ns = ((timestamp_90k - before) & 0xFFFFFFFF) * NS_PER_S / 90_000
        if not self._interval_ns:
            self._interval_ns = min(interval_ns, NS_PER_S)
        step_ns = min(interval_ns, 2 * self._interval_ns) - self._interval_ns  # frames may have been skipped
        self._interval_ns = max(self._interval_ns + step_ns / 8, NS_PER_MS)

    def _tell_assembler(self) -> None:
        if self._broken:
            self._broken = False  # before what follows: the thread may set it again
            self.assembler.lose_sync()


def _step_back() -> None:
    """In a process that keeps real time this thread comes after the loop: a picture may wait, a packet may not."""
    if os.sched_getscheduler(0) == os.SCHED_FIFO:
        lower = max(1, os.sched_getparam(0).sched_priority - 1)
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(lower))


def _checked(frames_per_chunk: int) -> int:
    if not 0 <= frames_per_chunk <= MAX_VIDEO_FRAMES:
        raise ValueError(f"frames_per_chunk = {frames_per_chunk}: give a number from 0 to {MAX_VIDEO_FRAMES}")
    return frames_per_chunk
