"""packet -> picture: a browser's camera, from packets to the frames of a chunk, and what its sender is asked for.

It asks for little: the model looks at a few frames a second, so the sender is held to `BUDGET_BIT_S` (REMB), lost
packets are asked for again (NACK), and a key frame is asked for when that was in vain (PLI).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

from gateway.webrtc import rtcp
from gateway.webrtc.offer import Video
from gateway.webrtc.video import DecoderThread, VideoSource
from media.chunk import MAX_VIDEO_FRAMES, VIDEO_SIZE, VideoFrame
from media.ladder import CAMERA, Camera
from media.rtp import RtpPacket

BUDGET_BIT_S = CAMERA[0].bit_s
"""640x480 at 15 frames a second looks well at it; the model sees 320x240."""


class Sight:
    """The video section of one transport."""

    def __init__(self, video: Video, thread: DecoderThread, frames_per_chunk: int) -> None:
        self.source: VideoSource | None = None
        """Of the codec that is being sent; None before the first packet."""
        self._thread = thread
        self._frames_per_chunk = self._most_frames = frames_per_chunk
        self._asked_frames = self._wanted_frames = MAX_VIDEO_FRAMES
        self._bit_s = BUDGET_BIT_S
        self._codecs = {codec.payload_type: codec.name for codec in video.codecs}
        self._repairs = {codec.rtx: codec.payload_type for codec in video.codecs if codec.rtx}
        self._sources: dict[int, VideoSource] = {}
        self._payload_type = 0
        self._ssrc = 0
        self._lookers = 0

    def receive(self, packet: RtpPacket, arrival_ns: int) -> bool:
        """One packet; whether it belongs to the stream itself (and not to its repair, or to nothing agreed on)."""
        if self._repairs.get(packet.payload_type) == self._payload_type and self.source is not None:
            self.source.receive_rtx(packet.timestamp, packet.marker, packet.payload, arrival_ns)
        if packet.payload_type not in self._codecs:
            return False
        if packet.payload_type != self._payload_type:
            self._begin(packet.payload_type)
        assert self.source is not None
        if packet.ssrc != self._ssrc:
            self._ssrc = packet.ssrc
            self.source.assembler.restart()
        self.source.receive_packet(
            packet.sequence, packet.timestamp, packet.marker, packet.payload, arrival_ns
        )
        return True

    def ask(self, camera: Camera) -> None:
        """Of the camera no more than this from now on; at 0 pictures its packets are not looked at."""
        self._bit_s = camera.bit_s
        self._asked_frames = camera.frames
        self._hold()

    def take(self, now_ns: int, size: tuple[int, int], wanted: int) -> tuple[VideoFrame, ...]:
        """The pictures of this turn, RGB in `size` (width, height), `wanted` at most; next time, too."""
        if wanted != self._wanted_frames:
            self._wanted_frames = wanted
            self._hold()
        if self.source is None:
            return ()
        self.source.size = size
        return self.source.take(now_ns)

    def want_still(self) -> None:
        """A picture is wanted beside those of the chunks, until `end_still` was called as often."""
        self._lookers += 1
        for source in self._sources.values():
            source.want_still(True)

    def take_still(self) -> bytes:
        """A JPEG of what was seen since; empty while there is none."""
        return self.source.take_still() if self.source is not None else b""

    def end_still(self) -> None:
        """Nobody waits for it any more."""
        self._lookers -= 1
        if not self._lookers:
            for source in self._sources.values():
                source.want_still(False)

    def _hold(self) -> None:
        """To what line, model and operator allow."""
        frames = max(0, min(self._asked_frames, self._wanted_frames, self._most_frames))
        if frames != self._frames_per_chunk:
            self._frames_per_chunk = frames
            for source in self._sources.values():
                source.frames_per_chunk = frames

    def feedback(self, our_ssrc: int, now_ns: int) -> list[bytes]:
        """What to ask for now: packets again, or a key frame."""
        if self.source is None:
            return []
        missing = self.source.missing(now_ns)
        asked = [rtcp.nack(our_ssrc, self._ssrc, missing)] if missing else []
        if self.source.wants_key(now_ns):
            asked.append(rtcp.key_frame_wanted(our_ssrc, self._ssrc))
        return asked

    def budget(self, our_ssrc: int) -> bytes:
        """REMB, to be sent once a second; nothing before the first packet."""
        bit_s = self._bit_s if self._frames_per_chunk or self._lookers else CAMERA[-1].bit_s
        return rtcp.bitrate_wanted(our_ssrc, self._ssrc, bit_s) if self._ssrc else b""

    def close(self) -> None:
        """Free the decoders."""
        for source in self._sources.values():
            source.close()

    def counts(self) -> dict[str, int]:
        """Of all its sources."""
        counted: Counter[str] = Counter()
        for source in self._sources.values():
            counted.update(asdict(source.assembler.counters) | asdict(source.counters))
        return dict(counted)

    def _begin(self, payload_type: int) -> None:
        """One source a codec, kept with its decoder and its share of the core, however often a sender changes."""
        self._payload_type = payload_type
        source = self._sources.get(payload_type)
        if source is None:
            codec = self._codecs[payload_type]
            source = VideoSource(self._thread, codec, VIDEO_SIZE, self._frames_per_chunk)
            self._sources[payload_type] = source
            source.want_still(self._lookers > 0)
        source.assembler.restart()
        self.source = source
