"""What callers say and show, encoded before the first call, and what they heard, decoded after the last.

A *voice* is half a minute of sound as a ring of Opus packets that any number of calls go round, each from a place
of its own. A clip is a ring of VP8 frames of which only the first is a key frame, so a caller that is asked for
one goes back to the beginning. PyAV does the coding, as in a browser: speech, 32 kbit/s, up to 20 kHz.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from gateway.caller.signals import numbered_tones
from media.ladder import CAMERA

Samples = NDArray[np.int16]

OPUS_HZ = 48_000  # RFC 7587 section 4.1: the clock, whatever the sound's bandwidth
ANALYSIS_HZ = 8_000  # Opus keeps the wave form below 4 kHz; above it may be noise of the right loudness
BITRATE = 32_000  # what a browser takes for speech
FIRST_HEARD_MS = 1_000  # a speech decoder that came late has caught up by then
VOICE_S = 30.0  # longer than any delay that is looked for
VIDEO_FPS, VIDEO_WIDTH, VIDEO_HEIGHT = 15, 640, 480
VIDEO_BITRATE = CAMERA[0].bit_s  # what `b=AS` and REMB of the answer ask a browser for
VP8_CHUNK_BYTES = 1_100  # of a frame in one packet


@dataclass(frozen=True, slots=True)
class Voice:
    """A ring of sound. Packet i carries pcm[i * n : (i + 1) * n], n = ptime_ms * ANALYSIS_HZ / 1000.

    `pcm` is what the packets decode to, not what was encoded: speech codecs keep the sound and not the wave form
    (0.89 of it, correlated), so what comes back is compared with what the peer was really told. Delays therefore
    leave out the look-ahead of the caller's own encoder, 6.5 ms.
    """

    pcm: Samples  # [packets * n] at ANALYSIS_HZ
    packets: tuple[bytes, ...]
    ptime_ms: int


@dataclass(frozen=True, slots=True)
class Clip:
    """A ring of VP8 frames, each cut into pieces that fit a packet. Frame 0 is a key frame."""

    frames: tuple[tuple[bytes, ...], ...]
    bitrate: int  # of the whole ring, bit/s


def load_sounds(path: Path | None) -> list[Samples]:
    """Sound files at OPUS_HZ: one file, or all FLAC and WAV of a directory. Raises OSError when there is
    none."""
    if path is None:
        return []
    files = [path] if path.is_file() else sorted([*path.glob("*.flac"), *path.glob("*.wav")])
    sounds = []
    for file in files:
        pcm, rate_hz = soundfile.read(file, dtype="int16", always_2d=True)
        sounds.append(soxr.resample(np.ascontiguousarray(pcm[:, 0]), rate_hz, OPUS_HZ))
    if not any(sound.size for sound in sounds):
        raise OSError(f"no sound files in {path}")
    return [sound for sound in sounds if sound.size]


def make_voice(
    sounds: Sequence[Samples], seconds: float, ptime_ms: int, seed: int, number: int, loss: float
) -> Voice:
    """Voice `number` of a run: the sounds in an order of its own, or numbered tones when there are none."""
    count = max(1, round(seconds * 1000 / ptime_ms))
    length = count * ptime_ms * OPUS_HZ // 1000
    if sounds:
        pcm = _shuffled(sounds, length, random.Random(f"{seed} {number}"))
    else:
        pcm = numbered_tones(length / OPUS_HZ, OPUS_HZ, seed * 100_003 + number)
    # Twice round, and the second round is kept: the coders' memory of the end then joins the beginning.
    packets = encode_opus(np.concatenate([pcm, pcm]), ptime_ms, loss)[count : 2 * count]
    ears = OpusEars()
    heard = np.concatenate([ears.decode(packet) for packet in [*packets, *packets]])[length : 2 * length]
    return Voice(soxr.resample(heard, OPUS_HZ, ANALYSIS_HZ), tuple(packets), ptime_ms)


def _shuffled(sounds: Sequence[Samples], samples: int, rng: random.Random) -> Samples:
    parts: list[Samples] = []
    so_far = 0
    while so_far < samples:
        for sound in rng.sample(list(sounds), len(sounds)):
            parts.append(sound)
            so_far += sound.size
            if so_far >= samples:
                break
    return np.concatenate(parts)[:samples]


def encode_opus(pcm: Samples, ptime_ms: int, loss: float = 0.0) -> list[bytes]:
    """int16 [n] at OPUS_HZ, mono, as a browser codes speech; with in-band FEC where there is loss to mend."""
    context: Any = av.CodecContext.create("libopus", "w")
    context.sample_rate, context.layout, context.format = OPUS_HZ, "mono", "s16"
    context.bit_rate = BITRATE
    context.options = {"application": "voip", "frame_duration": str(ptime_ms), "vbr": "on"}
    if loss:
        context.options |= {"fec": "1", "packet_loss": str(max(1, round(100 * loss)))}
    context.open()
    size = ptime_ms * OPUS_HZ // 1000
    packets = []
    for start in range(0, pcm.size - size + 1, size):
        part = np.ascontiguousarray(pcm[None, start : start + size])
        frame: Any = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
        frame.sample_rate, frame.pts = OPUS_HZ, start
        packets += [bytes(packet) for packet in context.encode(frame)]
    packets += [bytes(packet) for packet in context.encode(None)]
    return packets


class OpusEars:
    """Decodes one stream packet by packet, after the call. Bad packets are silent."""

    def __init__(self) -> None:
        self._context: Any = av.CodecContext.create("libopus", "r")
        self._context.sample_rate, self._context.layout = OPUS_HZ, "mono"

    def decode(self, payload: bytes) -> Samples:
        """int16 [samples] at OPUS_HZ, mono."""
        try:
            frames = self._context.decode(av.Packet(payload))
        except av.FFmpegError:
            return np.zeros(0, dtype=np.int16)
        parts = [_mono(frame.to_ndarray(), len(frame.layout.channels)) for frame in frames]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int16)


def first_heard(voice: Voice, offset: int) -> Samples:
    """What a decoder that joins the ring at `offset` makes of the first packets: it knows nothing of those before.

    int16 [n] at ANALYSIS_HZ; after them it hears what everybody hears.
    """
    count = min(len(voice.packets), FIRST_HEARD_MS // voice.ptime_ms)
    ears = OpusEars()
    joined = (voice.packets[(offset + index) % len(voice.packets)] for index in range(count))
    heard = np.concatenate([ears.decode(packet) for packet in joined])
    pcm: Samples = soxr.resample(heard, OPUS_HZ, ANALYSIS_HZ)
    return pcm


def _mono(pcm: NDArray[Any], channels: int) -> Samples:
    """The left channel of what PyAV gives: interleaved int16 [1, n * channels], or planar [channels, n]."""
    first = pcm[0] if pcm.shape[0] == channels else pcm[0, ::channels]
    if first.dtype != np.int16:
        first = np.clip(first * 32768.0, -32768, 32767)
    return first.astype(np.int16)


def make_clip(path: Path, bitrate: int = VIDEO_BITRATE) -> Clip:
    """VIDEO_WIDTH x VIDEO_HEIGHT at VIDEO_FPS in VP8, the whole file once round. Raises OSError when it cannot
    be read."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        every = max(1, round(float(stream.average_rate) / VIDEO_FPS))
        frames = (frame for number, frame in enumerate(container.decode(stream)) if number % every == 0)
        return _encoded(frames, bitrate, str(path))


def make_clip_of(pictures: NDArray[np.uint8], picture_ms: int, hold_s: float) -> Clip:
    """The same of pictures RGB [n, height, width, 3], each shown for `picture_ms`, the last one for longer."""
    frames = round(len(pictures) * picture_ms * VIDEO_FPS / 1000 + hold_s * VIDEO_FPS)
    at = [min(number * 1000 // (VIDEO_FPS * picture_ms), len(pictures) - 1) for number in range(frames)]
    rows: Any = (av.VideoFrame.from_ndarray(pictures[number], format="rgb24") for number in at)
    return _encoded(rows, VIDEO_BITRATE, "pictures")


def _encoded(frames: Iterable[Any], bitrate: int, name: str) -> Clip:
    encoder: Any = av.CodecContext.create("libvpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt = VIDEO_WIDTH, VIDEO_HEIGHT, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, VIDEO_FPS), Fraction(VIDEO_FPS)
    encoder.bit_rate, encoder.gop_size, encoder.thread_count = bitrate, 1 << 20, 1
    encoder.options = {"deadline": "realtime", "cpu-used": "5", "lag-in-frames": "0"}
    encoded: list[bytes] = []
    for number, frame in enumerate(frames):
        picture: Any = frame.reformat(VIDEO_WIDTH, VIDEO_HEIGHT, "yuv420p")
        picture.pts, picture.time_base = number, encoder.time_base
        picture.pict_type = 0  # as the encoder likes, not as in the file
        encoded += [bytes(packet) for packet in encoder.encode(picture)]
    encoded += [bytes(packet) for packet in encoder.encode(None)]
    if not encoded or not is_key_frame(encoded[0]):
        raise OSError(f"{name} gave no key frame to begin with")
    seconds = len(encoded) / VIDEO_FPS
    return Clip(tuple(map(_pieces, encoded)), round(8 * sum(map(len, encoded)) / seconds))


def is_key_frame(frame: bytes) -> bool:
    """The P bit of the VP8 frame header is zero (RFC 6386 section 9.1)."""
    return bool(frame) and not frame[0] & 1


def _pieces(frame: bytes) -> tuple[bytes, ...]:
    return tuple(frame[at : at + VP8_CHUNK_BYTES] for at in range(0, len(frame), VP8_CHUNK_BYTES))
