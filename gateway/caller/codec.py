"""The codecs that the caller speaks: whole calls encoded before they start, decoded after they end.

All three send 160 bytes per 20 ms at 8,000 clock ticks a second, so a payload byte is always one tick.
G.722 comes from PyAV, which is optional and imported only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from media.codecs import g711

Samples = NDArray[np.int16]

CLOCK_HZ = 8000
FRAME_TICKS = 160  # 20 ms


@dataclass(frozen=True, slots=True)
class Codec:
    """`encode` and `decode` take a whole stream at once; `rate_hz` is that of the samples."""

    name: str
    payload_type: int
    rate_hz: int
    encode: Callable[[Samples], bytes]
    decode: Callable[[bytes], Samples]

    @property
    def samples_per_tick(self) -> int:
        return self.rate_hz // CLOCK_HZ


def find_codec(name: str) -> Codec:
    """PCMU, PCMA or G722. Raises ValueError for another, and for G722 when PyAV is not installed."""
    name = name.upper()
    if name == "PCMU":
        return Codec(name, 0, 8000, g711.encode_mulaw, g711.decode_mulaw)
    if name == "PCMA":
        return Codec(name, 8, 8000, g711.encode_alaw, g711.decode_alaw)
    if name == "G722":
        try:
            import av  # noqa: F401
        except ImportError:
            raise ValueError("G722 needs PyAV: install microturn[g722]") from None
        return Codec(name, 9, 16000, _encode_g722, _decode_g722)
    raise ValueError(f"unknown codec {name!r}; choose PCMU, PCMA or G722")


def _encode_g722(pcm: Samples) -> bytes:
    import av

    context = av.CodecContext.create("g722", "w")
    context.sample_rate, context.layout, context.format = 16000, "mono", "s16"
    context.open()
    even = np.ascontiguousarray(pcm[: pcm.size // 2 * 2], dtype=np.int16)
    packets = []
    for start in range(0, even.size, 320):
        frame = av.AudioFrame.from_ndarray(even[None, start : start + 320], format="s16", layout="mono")
        frame.sample_rate = 16000
        packets += [bytes(packet) for packet in context.encode(frame)]
    packets += [bytes(packet) for packet in context.encode(None)]
    return b"".join(packets)


def _decode_g722(payload: bytes) -> Samples:
    import av

    context = av.CodecContext.create("g722", "r")
    context.sample_rate, context.layout = 16000, "mono"
    parts = [
        frame.to_ndarray().reshape(-1)
        for start in range(0, len(payload), FRAME_TICKS)
        for frame in context.decode(av.Packet(payload[start : start + FRAME_TICKS]))
    ]
    return np.concatenate(parts).astype(np.int16) if parts else np.zeros(0, dtype=np.int16)
