"""G.711 mu-law and A-law by table look-up, and the receiving half of a packet door with Appendix I's concealment.

The tables follow the formula of the ITU-T software tools (G.191), not the Sun/audioop one, which differs from
it in 127 negative mu-law values. One rule: an int16 sample is an index into a 65,536-entry table, an octet an index
into a 256-entry one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from media.conceal import Concealer

Samples = NDArray[np.int16]

SAMPLE_RATE_HZ = 8000
MULAW_SILENCE = 0xFF  # +0, the code of a quiet line (G.711 table 2a)
ALAW_SILENCE = 0xD5  # +0 with the even bits inverted (G.711 table 1a)

_MULAW_BIAS = 33  # in the 14-bit domain; makes every segment start at a power of two
_MULAW_CLIP = 0x1FFF
_ALAW_EVEN_BITS = 0x55  # G.711 inverts them so that silence has transitions


def _bit_length(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of significant bits of each non-negative value (0 for 0)."""
    return np.ceil(np.log2(values + 1)).astype(np.int64)


def _mulaw_encode_table() -> NDArray[np.uint8]:
    linear = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int64)
    # Ones' complement for negatives: -1 and 0 share a magnitude, as in the ITU code.
    magnitude = np.where(linear < 0, ~linear, linear) >> 2
    magnitude = np.minimum(magnitude + _MULAW_BIAS, _MULAW_CLIP)
    segment = _bit_length(magnitude >> 6) + 1
    code = ((8 - segment) << 4) | (0xF - ((magnitude >> segment) & 0xF))
    signed: NDArray[np.int64] = np.where(linear >= 0, code | 0x80, code)
    return signed.astype(np.uint8)


def _mulaw_decode_table() -> Samples:
    code = np.arange(256, dtype=np.int64)
    inverted = ~code
    exponent = (inverted >> 4) & 0x7
    step = np.int64(4) << (exponent + 1)
    magnitude = (np.int64(0x80) << exponent) + step * (inverted & 0xF) + step // 2 - 4 * _MULAW_BIAS
    return np.where(code < 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_encode_table() -> NDArray[np.uint8]:
    linear = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int64)
    magnitude = np.where(linear < 0, ~linear, linear) >> 4
    exponent = np.maximum(_bit_length(magnitude) - 4, 0)
    mantissa = (magnitude >> np.maximum(exponent - 1, 0)) & 0xF
    code = (exponent << 4) | mantissa
    signed: NDArray[np.int64] = np.where(linear >= 0, code | 0x80, code)
    return (signed ^ _ALAW_EVEN_BITS).astype(np.uint8)


def _alaw_decode_table() -> Samples:
    code = np.arange(256, dtype=np.int64)
    bits = (code ^ _ALAW_EVEN_BITS) & 0x7F
    exponent = bits >> 4
    mantissa = (bits & 0xF) + np.where(exponent > 0, 16, 0)
    magnitude = ((mantissa << 4) + 8) << np.maximum(exponent - 1, 0)
    linear: NDArray[np.int64] = np.where(code > 127, magnitude, -magnitude)
    return linear.astype(np.int16)


_MULAW_ENCODE = _mulaw_encode_table()
_MULAW_DECODE = _mulaw_decode_table()
_ALAW_ENCODE = _alaw_encode_table()
_ALAW_DECODE = _alaw_decode_table()


def encode_mulaw(pcm: Samples) -> bytes:
    """Mu-law octets of int16 [n] at 8 kHz, n bytes (G.711, PCMU of RFC 3551)."""
    return _MULAW_ENCODE[_as_index(pcm)].tobytes()


def decode_mulaw(payload: bytes) -> Samples:
    """int16 [n] at 8 kHz from n mu-law octets. Every octet is valid, so this cannot fail."""
    return _MULAW_DECODE[np.frombuffer(payload, dtype=np.uint8)]


def encode_alaw(pcm: Samples) -> bytes:
    """A-law octets of int16 [n] at 8 kHz, n bytes (G.711, PCMA of RFC 3551)."""
    return _ALAW_ENCODE[_as_index(pcm)].tobytes()


def decode_alaw(payload: bytes) -> Samples:
    """int16 [n] at 8 kHz from n A-law octets. Every octet is valid, so this cannot fail."""
    return _ALAW_DECODE[np.frombuffer(payload, dtype=np.uint8)]


def _as_index(pcm: Samples) -> NDArray[np.uint16]:
    return np.ascontiguousarray(pcm, dtype=np.int16).view(np.uint16)


class G711Decoder:
    """One stream of packets, `media.sound.Decoder`: PCMU with `decode_mulaw`, PCMA with `decode_alaw`.

    All comes 3.75 ms later than it came in (`Concealer.delay`): the algorithmic delay of Appendix I.
    """

    def __init__(self, law: Callable[[bytes], Samples]) -> None:
        self._law = law
        self._concealer = Concealer(SAMPLE_RATE_HZ)

    def decode(self, payload: bytes) -> Samples:
        """int16 [n] of n octets."""
        return self._concealer.receive(self._law(payload))

    def recover(self, following: bytes, samples: int) -> Samples:
        """Nothing of a packet is in the one after it."""
        return self.conceal(samples)

    def conceal(self, samples: int) -> Samples:
        """int16 [samples] that go on from what was decoded last; silent after 60 ms in a row."""
        return self._concealer.conceal(samples)

    def duration(self, payload: bytes) -> int:
        """Samples: one an octet."""
        return len(payload)

    def recoverable(self, payload: bytes) -> int:
        """No FEC."""
        return 0

    def is_pause(self, payload: bytes) -> bool:
        """Comfort noise has a payload type of its own (RFC 3389): no packet of the codec says so."""
        return False
