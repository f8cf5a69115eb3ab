"""RTP bytes in and out, hostile bytes included."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from media.rtp import (
    BadPacket,
    JitterEstimator,
    RtpPacket,
    TelephoneEvent,
    dtmf_event,
    parse_packet,
    parse_telephone_event,
    sequence_unwrapper,
    timestamp_unwrapper,
)

SHARED = Path(__file__).parents[3] / "shared"  # beside the checkout, not part of it
PLAIN = RtpPacket(0, 4660, 0x11223344, 0xDEADBEEF, b"\xff" * 160)


def test_plain_packet_has_the_layout_of_rfc_3550() -> None:
    data = RtpPacket(8, 0x1234, 0x01020304, 0x0A0B0C0D, b"xy", marker=True).serialise()
    assert data == bytes.fromhex("80 88 1234 01020304 0a0b0c0d") + b"xy"


@pytest.mark.parametrize(
    "packet",
    [
        PLAIN,
        RtpPacket(127, 0xFFFF, 0xFFFFFFFF, 0, b"", marker=True),
        RtpPacket(96, 1, 2, 3, b"pay", csrcs=(7, 8, 9)),
        RtpPacket(96, 1, 2, 3, b"pay", extension_profile=0xBEDE, extension=b"\x10\xff\x00\x00"),
        RtpPacket(96, 1, 2, 3, b"", csrcs=tuple(range(15)), extension=b""),
    ],
)
def test_round_trip(packet: RtpPacket) -> None:
    assert parse_packet(packet.serialise()) == packet


def test_padding_is_stripped() -> None:
    data = bytearray(PLAIN.serialise() + b"\x00\x00\x03")
    data[0] |= 0x20
    assert parse_packet(bytes(data)) == PLAIN


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "short header"),
        (PLAIN.serialise()[:11], "short header"),
        (b"\x40" + PLAIN.serialise()[1:], "not version 2"),
        (b"\x81\xc8" + bytes(26), "rtcp"),
        (b"\x8f" + PLAIN.serialise()[1:20], "short csrc list"),
        (b"\x90" + PLAIN.serialise()[1:14], "short extension"),
        (b"\x90" + PLAIN.serialise()[1:12] + b"\xbe\xde\xff\xff", "short extension"),
        (b"\xa0" + PLAIN.serialise()[1:12], "bad padding"),
        (b"\xa0" + PLAIN.serialise()[1:12] + b"\x00", "bad padding"),
        (b"\xa0" + PLAIN.serialise()[1:12] + b"\x02", "bad padding"),
    ],
)
def test_bad_bytes_come_back_with_their_reason(data: bytes, reason: str) -> None:
    assert parse_packet(data) == BadPacket(reason)


def test_random_and_mutated_bytes_never_raise() -> None:
    rng = random.Random(4711)
    seeds = [PLAIN.serialise(), RtpPacket(9, 1, 2, 3, b"p", csrcs=(1, 2), extension=b"abcd").serialise()]
    corpus = SHARED / "data/fuzz"
    if corpus.is_dir():
        seeds += [path.read_bytes() for path in sorted(corpus.rglob("*rt*/*")) if path.is_file()]
    for _ in range(5000):
        data = bytearray(rng.choice(seeds))[: rng.randrange(200)]
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        packet = parse_packet(bytes(data))
        if isinstance(packet, RtpPacket):
            assert parse_packet(packet.serialise()) == packet
            parse_telephone_event(packet.payload)


def test_sequence_wraps_and_reordering_across_the_wrap_is_understood() -> None:
    numbers = sequence_unwrapper()
    assert [numbers.unwrap(n) for n in (65534, 0, 65535, 1, 65535)] == [65534, 65536, 65535, 65537, 65535]


def test_timestamp_wraps_many_times() -> None:
    stamps = timestamp_unwrapper()
    steps = [stamps.unwrap((i * 0x30000000) & 0xFFFFFFFF) for i in range(50)]
    assert steps == [i * 0x30000000 for i in range(50)]


def test_a_packet_before_the_first_may_be_negative() -> None:
    numbers = sequence_unwrapper()
    assert [numbers.unwrap(n) for n in (0, 65535, 1)] == [0, -1, 1]


def test_jitter_of_a_steady_stream_is_zero_and_of_alternating_lateness_converges() -> None:
    steady, shaky = JitterEstimator(8000), JitterEstimator(8000)
    for i in range(500):
        steady.update(i * 20_000_000, i * 160)
        shaky.update(i * 20_000_000 + (i % 2) * 4_000_000, i * 160)
    assert steady.jitter_ms == 0
    assert shaky.jitter_ms == pytest.approx(4.0, rel=1e-6)
    assert shaky.jitter_ticks in (31, 32)


def test_jitter_follows_the_recursion_of_rfc_3550_a8() -> None:
    jitter = JitterEstimator(8000)
    jitter.update(0, 0)
    jitter.update(36_000_000, 160)  # 16 ms late: J = 16/16
    assert jitter.jitter_ms == pytest.approx(1.0)
    jitter.update(40_000_000, 320)  # on time again: J = 1 + (16 - 1)/16
    assert jitter.jitter_ms == pytest.approx(1.9375)


def test_telephone_event_layout_and_round_trip() -> None:
    event = dtmf_event("#", 1600, end=True)
    assert event.serialise() == bytes([11, 0x8A, 0x06, 0x40])
    assert parse_telephone_event(event.serialise()) == event
    assert event.digit == "#"


def test_every_digit_and_some_that_are_none() -> None:
    for digit in "0123456789*#ABCDabcd":
        assert dtmf_event(digit, 0, end=False).digit == digit.upper()
    for wrong in ("", "E", "12"):
        with pytest.raises(ValueError, match="DTMF"):
            dtmf_event(wrong, 0, end=False)
    assert TelephoneEvent(32, False, 0, 0).digit is None


def test_short_telephone_event() -> None:
    assert parse_telephone_event(b"\x01\x8a\x00") == BadPacket("short telephone event")
