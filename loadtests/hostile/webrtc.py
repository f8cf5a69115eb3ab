"""Seeded hostile input of browser calls: SDP, what comes to the UDP port, and what only a caller with keys can say.

Pure functions of a random.Random and seeds. One rule: mostly plausible, since noise gets no further than the first
check of a parser.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.hostile.mutations import mutate
from loadtests.hostile.rtp import RtpStream as Stream
from loadtests.hostile.rtp import mutated_rtcp, mutated_rtp

SEEDS = Path(__file__).parents[3] / "shared/data/fuzz"
MOST_BYTES = 1350  # of a packet that pylibsrtp protects
COOKIE = 0x2112A442

_SDP_LINES: tuple[bytes, ...] = (
    b"a=sctp-port:70000", b"a=sctp-port:-5", b"a=max-message-size:1", b"a=max-message-size:-1", b"a=rtcp-mux",
    b"a=setup:holdconn", b"a=setup:passive", b"a=setup:active", b"a=ice-lite", b"a=rtpmap:200 opus/48000/2",
    b"a=rtpmap:95 opus/48000/2", b"a=rtpmap:111 opus/8000", b"a=fmtp:111 " + b"a=b;" * 400, b"a=group:BUNDLE 9 9",
    b"a=group:BUNDLE " + b"0 " * 300, b"a=mid:0", b"a=mid:" + b"m" * 900, b"a=inactive", b"a=sendonly",
    b"a=fingerprint:md5 00", b"a=fingerprint:sha-256 00", b"a=ice-ufrag:a", b"a=ice-pwd:b", b"a=extmap:0/x y",
    b"a=candidate:1 1 udp 1 x.local 9 typ host", b"a=candidate:", b"a=ssrc:4294967296 cname:x", b"a=ssrc:x",
    b"m=audio 9 UDP/TLS/RTP/SAVPF 111", b"m=video 9 UDP/TLS/RTP/SAVPF 96", b"m=audio 0 RTP/AVP 0",
    b"m=application 9 UDP/DTLS/SCTP webrtc-datachannel", b"m=" + b"x " * 200, b"c=IN IP6 ::1", b"a=rtcp:x",
    b"a=rtcp-fb:* nack", b"a=fmtp:97 apt=9999999999999999999", b"a=simulcast:send 1;2;3", b"a=rid:1 send",
)  # fmt: skip


def seeds(kind: str) -> list[bytes]:
    """Of other people's fuzzers, of a kind: sdp, stun, rtp or rtcp; none where they are not there."""
    folder = SEEDS / kind
    return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []


def mutated_offer(rng: random.Random, real: bytes, strange: Sequence[bytes]) -> bytes:
    """A browser's offer or a seed, with a few things wrong."""
    data = rng.choice(strange) if strange and rng.random() < 0.2 else real
    return mutate(rng, data, _SDP_LINES, rng.choice((1, 1, 2, 3, 8)))[: rng.choice((1 << 20, 1 << 20, 900))]


def mutated_stun(rng: random.Random, known: Sequence[bytes]) -> bytes:
    """A binding request of nobody's, or a seed, or damage."""
    if known and rng.random() < 0.5:
        return flipped(rng, rng.choice(known))
    name = rng.randbytes(rng.choice((4, 9, 40, 513)))
    body = struct.pack("!HH", rng.choice((6, 6, 8, 0x8028, 0x24)), len(name)) + name + bytes(-len(name) % 4)
    kind = rng.choice((1, 1, 1, 0x11, 0x101, 0x111, 3))
    length = rng.choice((len(body), len(body), 0, 65535))
    return struct.pack("!HHI", kind, length, COOKIE) + rng.randbytes(12) + body


def mutated_dtls(rng: random.Random) -> bytes:
    """A datagram of one to a hundred records that nobody signed."""
    datagram = b""
    for _ in range(rng.choice((1, 1, 1, 2, 100))):
        body = rng.randbytes(rng.choice((0, 1, 2, 12, 13, 60, 200)))
        kind, epoch = rng.choice((20, 21, 22, 22, 23, 23, 24, 25, 40)), rng.choice((0, 0, 1, 1, 2, 65535))
        length = rng.choice((len(body), len(body), len(body), 0, 65535))
        number = rng.randrange(1 << 48).to_bytes(6, "big")
        datagram += struct.pack("!BHH", kind, 0xFEFD, epoch) + number + struct.pack("!H", length) + body
    return datagram[:MOST_BYTES]


def datagram(rng: random.Random, stream: Stream, known: dict[str, list[bytes]]) -> bytes:
    """Anything that may come to the UDP port from somebody without keys."""
    kind = rng.randrange(5)
    if kind == 0:
        return mutated_stun(rng, known["stun"])[:MOST_BYTES]
    if kind == 1:
        return mutated_dtls(rng)
    if kind == 2:
        return mutated_rtp(rng, stream, known["rtp"])
    if kind == 3:
        return mutated_rtcp(rng, stream, known["rtcp"])
    return rng.randbytes(rng.choice((0, 1, 2, 3, 12, 20, 200, 1472, 2048, 2049, 9000)))


def flipped(rng: random.Random, data: bytes) -> bytes:
    """`data` with a few octets changed, and at times cut."""
    copy = bytearray(data)
    for _ in range(rng.randrange(6) if copy else 0):
        copy[rng.randrange(len(copy))] = rng.randrange(256)
    return bytes(copy[: rng.randrange(len(copy) + 1)] if rng.random() < 0.2 else copy)


@dataclass(slots=True)
class Media:
    """What a caller with keys may send as RTP: sound and pictures that are none, from streams that jump."""

    rng: random.Random
    audio_type: int
    video_types: Sequence[int]
    _sequence: dict[int, int] = field(default_factory=dict)
    _timestamp: int = 0

    def packet(self) -> bytes:
        """One RTP packet, still to be protected."""
        rng = self.rng
        kinds = (self.audio_type, *self.video_types)
        payload_type = rng.choice(kinds) if rng.random() < 0.9 else rng.randrange(128)
        ssrc = payload_type if rng.random() < 0.8 else rng.randrange(1 << 32)
        sequence = self._sequence.get(ssrc, 1) + rng.choices((1, 0, 2, -7, 900, 4000), (90, 2, 4, 2, 1, 1))[0]
        if len(self._sequence) < 1000:
            self._sequence[ssrc] = sequence & 0xFFFF
        self._timestamp += rng.choices((960, 3000, 0, 1 << 31, 48_000, -96_000), (60, 20, 10, 1, 8, 1))[0]
        first = rng.choice((0x80,) * 12 + (0x90, 0xA0, 0xB0, 0x8F))
        second = payload_type | rng.choice((0, 0, 0x80))
        head = struct.pack("!BBHII", first, second, sequence & 0xFFFF, self._timestamp & 0xFFFFFFFF, ssrc)
        return (head + self._payload(payload_type))[:MOST_BYTES]

    def _payload(self, payload_type: int) -> bytes:
        rng = self.rng
        size = rng.choice((0, 1, 2, 3, 20, 80, 80, 400, 1100, 1320))
        if payload_type == self.audio_type:
            toc = bytes([rng.choice((0x48, 0x78, 0xF8, 0xFF, 0x03, rng.randrange(256)))])
            return toc + rng.randbytes(size) if size else b""
        picture = rng.choice(
            (
                b"\x10\x00\x00\x9d\x01\x2a\xff\x3f\xff\x3f",  # VP8: a key frame of 16383x16383
                b"\x10\x30\x00\x00\x9d\x01\x2a\x80\x02\xe0\x01",
                b"\x90\x80\x80\x01" + rng.randbytes(3),
                b"\x67\x42\xc0\x1f" + rng.randbytes(8),  # H.264: parameter sets, slices, FU-A, STAP-A
                b"\x68" + rng.randbytes(4),
                b"\x65" + rng.randbytes(4),
                b"\x7c\x85" + rng.randbytes(4),
                b"\x7c\x45" + rng.randbytes(4),
                b"\x78\x00\x05\x67\x42\xc0\x1f\x00\xff\xff",
            )
        )
        return picture + rng.randbytes(size)


def authentic_rtcp(rng: random.Random, known: Sequence[bytes], ssrcs: Sequence[int]) -> bytes:
    """A compound packet with wild values about streams that there are, or a damaged seed."""
    if known and rng.random() < 0.4:
        return flipped(rng, rng.choice(known))[:MOST_BYTES]
    packet = b""
    for _ in range(rng.randrange(1, 5)):
        ours, theirs = rng.choice(ssrcs), rng.choice(ssrcs)
        block = struct.pack("!I", theirs) + rng.randbytes(20)
        kind, count, body = rng.choice(
            (
                (200, 1, struct.pack("!I", ours) + rng.randbytes(20) + block),
                (201, 1, struct.pack("!I", ours) + block),
                (201, 31, struct.pack("!I", ours) + block * 31),
                (202, 1, struct.pack("!I", ours) + b"\x01\xff" + rng.randbytes(10)),
                (203, 31, struct.pack("!I", ours)),
                (205, 1, struct.pack("!II", ours, theirs) + rng.randbytes(4 * rng.choice((1, 9, 300)))),
                (205, 15, struct.pack("!II", ours, theirs) + rng.randbytes(20)),
                (206, 1, struct.pack("!II", ours, theirs)),
                (206, 4, struct.pack("!II", ours, theirs) + rng.randbytes(8)),
                (206, 15, struct.pack("!II", ours, 0) + b"REMB" + rng.randbytes(8)),
            )
        )
        words = len(body) // 4 if rng.random() < 0.9 else rng.randrange(65536)
        packet += struct.pack("!BBH", 0x80 | count, kind, words) + body
    return packet[:MOST_BYTES]


def sctp_chunks(rng: random.Random, tsn: int) -> bytes:
    """Chunks for one packet of an association whose peer has received everything up to `tsn`."""
    chunks = b""
    for _ in range(rng.choice((1, 1, 2, 40))):
        chunks += _chunk(rng, tsn)
    return chunks[:1200]


def _chunk(rng: random.Random, tsn: int) -> bytes:
    ahead = (tsn + rng.choice((1, 2, 3, 40, 1000, 1 << 30))) & 0xFFFFFFFF
    stream = rng.randrange(65536)
    opening = struct.pack("!BBHLHH", 3, rng.randrange(256), 0, 0, rng.choice((1, 9, 900)), 0) + b"\xff" * 9
    kind, flags, body = rng.choice(
        (
            (0, 3, struct.pack("!LHHL", ahead, stream, 0, 50) + opening),
            (0, rng.randrange(8), struct.pack("!LHHL", ahead, stream % 9, 0, 51) + rng.randbytes(40)),
            (0, 0, rng.randbytes(rng.randrange(16))),
            (1, 0, rng.randbytes(16) + bytes(4)),
            (3, 0, struct.pack("!LLHH", ahead, 0, 60, 0) + struct.pack("!HH", 1, 65535) * 60),
            (3, 0, rng.randbytes(rng.choice((0, 4, 12, 16)))),
            (4, 0, struct.pack("!HH", 1, 0)),  # a parameter of no length
            (4, 0, struct.pack("!HH", 1, 44) + rng.randbytes(40)),
            (130, 0, struct.pack("!HHLLLH", 13, 18, ahead, 0, tsn, stream) + bytes(2)),
            (130, 0, struct.pack("!HH", 13, 0)),
            (192, 0, struct.pack("!L", tsn) + rng.randbytes(4 * rng.choice((0, 1, 250)))),
            (rng.randrange(256), 0, rng.randbytes(rng.randrange(40))),
        )
    )
    length = 4 + len(body) if rng.random() < 0.95 else rng.randrange(65536)
    return struct.pack("!BBH", kind, flags, length) + body + bytes(-len(body) % 4)
