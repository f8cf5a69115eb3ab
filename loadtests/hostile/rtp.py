"""Seeded mutations of RTP and RTCP (RFC 3550)."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class RtpStream:
    """A sender of RTP whose packets are mostly of one plausible stream (RFC 3550 section 5.1)."""

    sequence: int
    timestamp: int
    ssrc: int

    @classmethod
    def start(cls, rng: random.Random) -> RtpStream:
        return cls(rng.randrange(1 << 16), rng.randrange(1 << 32), rng.randrange(1 << 32))

    def header(self, rng: random.Random) -> bytes:
        """The next 12 bytes: nearly always version 2, sometimes with a jump of number or time."""
        self.sequence = (
            self.sequence + rng.choices((1, 2, 0, -5, 3000, 32768), (90, 4, 2, 2, 1, 1))[0]
        ) & 0xFFFF
        self.timestamp = (
            self.timestamp + rng.choices((160, 0, 1 << 31, 160_000), (95, 2, 1, 2))[0]
        ) & 0xFFFFFFFF
        first = rng.choice((0x80, 0x80, 0x80, 0x90, 0xA0, 0xB0, 0x8F, 0xBF, 0x40))
        second = rng.choice((0, 0, 8, 9, 13, 19, 72, 96, 101, 101, 127, 0x80, 0x80 | 101, 200))
        ssrc = self.ssrc if rng.random() < 0.95 else rng.randrange(1 << 32)
        return struct.pack("!BBHII", first, second, self.sequence, self.timestamp, ssrc)


def mutated_rtp(rng: random.Random, stream: RtpStream, seeds: Sequence[bytes]) -> bytes:
    """An RTP packet with a plausible header and a strange rest, a damaged seed, or noise."""
    kind = rng.randrange(10)
    if kind < 6:
        size = rng.choice((0, 1, 3, 4, 20, 80, 160, 160, 160, 172, 320, 1460, 8000))
        return stream.header(rng) + rng.randbytes(size)
    if kind < 9 and seeds:
        return _flip(rng, rng.choice(seeds))
    return rng.randbytes(rng.choice((0, 1, 4, 11, 12, 13, 20, 172, 500, 1472)))


def mutated_rtcp(rng: random.Random, stream: RtpStream, seeds: Sequence[bytes]) -> bytes:
    """An RTCP packet (RFC 3550 section 6) whose count, type or length lies, or a damaged seed."""
    if seeds and rng.random() < 0.5:
        return _flip(rng, rng.choice(seeds))
    packet = b""
    for _ in range(rng.randrange(1, 4)):
        body = struct.pack("!I", stream.ssrc) + rng.randbytes(4 * rng.choice((0, 1, 5, 6, 12, 60)))
        words = rng.choice((len(body) // 4, len(body) // 4, 0, 1, 65535))
        first = rng.choice((0x80, 0x81, 0x81, 0x9F, 0xA1, 0x41))
        packet += struct.pack("!BBH", first, rng.choice((*range(200, 208), 192, 255)), words) + body
    return packet


def _flip(rng: random.Random, data: bytes) -> bytes:
    """`data` with bits flipped, and at times cut or lengthened."""
    copy = bytearray(data)
    for _ in range(rng.randrange(0, 6) if copy else 0):
        copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
    kind = rng.randrange(4)
    if kind == 0:
        del copy[rng.randrange(len(copy) + 1) :]
    elif kind == 1:
        copy += rng.randbytes(rng.randrange(1, 64))
    return bytes(copy)
