"""H.264 payloads, RFC 6184: single NAL units, STAP-A, FU-A."""

from __future__ import annotations

import random

import pytest

from media.codecs.fragment import Fragment
from media.codecs.h264 import parse_payload
from media.rtp import BadPacket

START = b"\x00\x00\x00\x01"
SPS, PPS, IDR, SLICE, AUD = b"\x67sps", b"\x68pp", b"\x65idr-slice", b"\x41slice", b"\x09\x10"


def stap(*units: bytes) -> bytes:
    return b"\x78" + b"".join(len(unit).to_bytes(2, "big") + unit for unit in units)


@pytest.mark.parametrize(
    ("payload", "units", "is_key", "begins_key"),
    [
        (SLICE, [SLICE], False, False),
        (IDR, [IDR], True, False),  # its parameter sets may be in the packets before
        (SPS, [SPS], False, True),
        (PPS, [PPS], False, False),
        (stap(SPS, PPS), [SPS, PPS], False, True),
        (stap(SPS, PPS, IDR), [SPS, PPS, IDR], True, True),
        (stap(AUD, SPS, PPS), [AUD, SPS, PPS], False, True),
        (stap(AUD, SLICE), [AUD, SLICE], False, False),
    ],
)
def test_whole_units_come_back_with_start_codes(payload, units, is_key, begins_key) -> None:
    data = b"".join(START + unit for unit in units)
    assert parse_payload(payload) == Fragment(data, True, is_key, begins_key)


def test_fragments_joined_are_the_unit() -> None:
    unit = b"\x65" + bytes(range(200))
    indicator = unit[0] & 0xE0 | 28
    parts = [unit[1:80], unit[80:150], unit[150:]]
    headers = [0x80 | 5, 5, 0x40 | 5]
    got = [parse_payload(bytes((indicator, h)) + part) for h, part in zip(headers, parts, strict=True)]
    assert all(isinstance(fragment, Fragment) and fragment.is_key for fragment in got)
    assert [f.may_begin for f in got if isinstance(f, Fragment)] == [True, False, False]
    assert b"".join(f.data for f in got if isinstance(f, Fragment)) == START + unit


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "short h264 payload"),
        (b"\xe5abc", "h264 forbidden bit"),
        (b"\x60abc", "h264 packet type not supported"),  # type 0
        (b"\x79\x00\x01abc", "h264 packet type not supported"),  # STAP-B
        (b"\x7dabc", "h264 packet type not supported"),  # FU-B
        (b"\x7fabc", "h264 packet type not supported"),  # type 31
        (b"\x78", "short h264 payload"),
        (b"\x78\x00", "h264 aggregate does not add up"),
        (b"\x78\x00\x00", "h264 aggregate does not add up"),
        (b"\x78\x00\x05\x41ab", "h264 aggregate does not add up"),
        (stap(SLICE, b"\x7c\x85x"), "h264 aggregate of wrong units"),
        (stap(b"\xc1x"), "h264 aggregate of wrong units"),
        (b"\x7c\x85", "short h264 payload"),
        (b"\x7c\xc5abc", "h264 fragment of wrong kind"),  # start and end at once
        (b"\x7c\x9cabc", "h264 fragment of wrong kind"),  # a fragment of fragments
    ],
)
def test_what_is_none_says_why(payload: bytes, reason: str) -> None:
    assert parse_payload(payload) == BadPacket(reason)


def test_random_bytes_give_bounded_bytes_or_a_reason() -> None:
    chance = random.Random(6)
    kinds = {"bad": 0, "good": 0}
    for _ in range(5_000):
        payload = bytes((chance.choice((0x78, 0x7C, chance.randrange(256))),)) + chance.randbytes(
            chance.randrange(40)
        )
        parsed = parse_payload(payload)
        kinds["bad" if isinstance(parsed, BadPacket) else "good"] += 1
        assert isinstance(parsed, BadPacket) or 0 < len(parsed.data) <= 2 * len(payload) + 4
    assert min(kinds.values()) > 500
