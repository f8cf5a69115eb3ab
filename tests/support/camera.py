"""A camera for tests: real pictures, encoded by PyAV, packetised by aiortc, over a line that loses and reorders."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Protocol

import av
import numpy as np
import pytest
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder
from av.video.frame import PictureType

FOREMAN = Path(__file__).parents[3] / "shared" / "data" / "video" / "foreman.mp4"
_ENCODERS = {
    "vp8": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}),
    "h264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline"}),
}


@dataclass(frozen=True)
class Packet:
    """One RTP packet of video, as an assembler takes it."""

    sequence: int
    timestamp: int
    marker: bool
    payload: bytes


@cache
def pictures(width: int, height: int, count: int) -> tuple[av.VideoFrame, ...]:
    """The first pictures of a real clip in that size, yuv420p; skips the test when there is no clip."""
    if not FOREMAN.exists():
        pytest.skip(f"needs {FOREMAN.name} in shared/data/video")
    with av.open(str(FOREMAN)) as container:
        frames = [f for _, f in zip(range(count), container.decode(video=0), strict=False)]
    return tuple(f.reformat(width, height, "yuv420p", interpolation="AREA") for f in frames)


def rgb_of(picture: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3] of a source picture: what a perfect receiver would show."""
    return picture.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal to noise ratio of two uint8 pictures."""
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


class Camera:
    """Encodes pictures in order; a key frame first, and whenever one is asked for."""

    def __init__(
        self, codec: str, width: int = 640, height: int = 480, fps: int = 15, bitrate: int = 600_000
    ) -> None:
        name, options = _ENCODERS[codec]
        self.codec, self.fps, self.width, self.height = codec, fps, width, height
        self._encoder = av.CodecContext.create(name, "w")
        self._encoder.width, self._encoder.height = width, height
        self._encoder.pix_fmt = "yuv420p"
        self._encoder.time_base = Fraction(1, fps)
        self._encoder.framerate = Fraction(fps)
        self._encoder.bit_rate = bitrate
        self._encoder.gop_size = 10_000
        self._encoder.options = options
        self._encoder.thread_count = 1
        self._frames = 0
        self.sequence = 65_500  # it wraps soon
        self.first_timestamp = 2**32 - 90_000

    def encode(self, picture: av.VideoFrame, key: bool = False) -> bytes:
        """One picture as a decoder would take it."""
        picture = picture.reformat(format="yuv420p")
        picture.pts = self._frames
        picture.time_base = Fraction(1, self.fps)
        picture.pict_type = PictureType.I if key or not self._frames else PictureType.NONE
        self._frames += 1
        return b"".join(bytes(packet) for packet in self._encoder.encode(picture))

    def shoot(self, picture: av.VideoFrame, key: bool = False) -> list[Packet]:
        """The packets of the next picture."""
        timestamp = (self.first_timestamp + self._frames * 90_000 // self.fps) & 0xFFFFFFFF
        data = self.encode(picture, key)
        if self.codec == "vp8":
            payloads = Vp8Encoder._packetize(data, self._frames & 0x7FFF)
        else:
            payloads = H264Encoder._packetize(H264Encoder._split_bitstream(data))
        packets = []
        for n, payload in enumerate(payloads, 1):
            packets.append(Packet(self.sequence, timestamp, n == len(payloads), payload))
            self.sequence = (self.sequence + 1) & 0xFFFF
        return packets


@dataclass
class Line:
    """A network of virtual time: what is sent comes out at a seeded moment, or never."""

    seed: int
    loss: float = 0.0
    delay_ns: int = 20_000_000
    jitter_ns: int = 0
    lost: int = 0
    _sent: list[tuple[int, int, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def send(self, what: object, now_ns: int) -> None:
        if self._random.random() < self.loss:
            self.lost += 1
            return
        arrival_ns = now_ns + self.delay_ns + self._random.randrange(self.jitter_ns + 1)
        self._sent.append((arrival_ns, len(self._sent), what))

    def arrived(self, now_ns: int) -> list[tuple[int, object]]:
        """(arrival, what) of everything that is there by now, in order."""
        here = sorted((entry for entry in self._sent if entry[0] <= now_ns), key=lambda entry: entry[:2])
        self._sent = [entry for entry in self._sent if entry[0] > now_ns]
        return [(arrival_ns, what) for arrival_ns, _, what in here]


class Receiver(Protocol):
    """What `film` talks to: a `FrameAssembler` or a `VideoSource`."""

    def receive_packet(
        self, sequence: int, timestamp: int, marker: bool, payload: bytes, arrival_ns: int
    ) -> object: ...

    def missing(self, now_ns: int) -> list[int]: ...

    def wants_key(self, now_ns: int) -> bool: ...


def film(
    camera: Camera,
    scenes: Sequence[av.VideoFrame],
    receiver: Receiver,
    there: Line,
    back: Line,
    received: Callable[[object], None] = lambda what: None,
    step: Callable[[int], None] = lambda now_ns: None,
    start_ns: int = 10**12,
) -> None:
    """Send the scenes in virtual time, answering NACK and PLI.

    `received` gets what each packet gave; `step` is called every 5 ms, before the packets of that moment.
    """
    step_ns, now_ns, shot, key = 5_000_000, start_ns, 0, False
    history: dict[int, Packet] = {}
    while shot < len(scenes) or now_ns < start_ns + len(scenes) * 10**9 // camera.fps + 500_000_000:
        if shot < len(scenes) and now_ns >= start_ns + shot * 10**9 // camera.fps:
            for packet in camera.shoot(scenes[shot], key):
                history[packet.sequence] = packet
                there.send(packet, now_ns)
            shot, key = shot + 1, False
        step(now_ns)
        for arrival_ns, packet in there.arrived(now_ns):
            assert isinstance(packet, Packet)
            fields = packet.sequence, packet.timestamp, packet.marker, packet.payload
            received(receiver.receive_packet(*fields, arrival_ns))
        if now_ns % 20_000_000 == 0:
            for sequence in receiver.missing(now_ns):
                back.send(sequence, now_ns)
            if receiver.wants_key(now_ns):
                back.send("PLI", now_ns)
        for _, wish in back.arrived(now_ns):
            if wish == "PLI":
                key = True
            elif isinstance(wish, int) and wish in history:
                there.send(history[wish], now_ns)
        now_ns += step_ns
