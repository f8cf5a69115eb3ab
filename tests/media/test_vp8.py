"""VP8 payload descriptors, RFC 7741 section 4.2, and what is behind them."""

from __future__ import annotations

import random

import pytest

from media.codecs.fragment import Fragment
from media.codecs.vp8 import parse_payload
from media.rtp import BadPacket

KEY = bytes.fromhex("500100 9d012a 8002e001") + b"pixels"  # frame tag, start code, 640x480
DELTA = bytes.fromhex("b10100") + b"pixels"


@pytest.mark.parametrize(
    "descriptor",
    [
        "10",  # the shortest
        "90 00",  # extension byte with nothing in it
        "90 80 11",  # I: 7-bit picture ID
        "90 80 91 22",  # I, M: 15 bits
        "90 40 07",  # L
        "90 20 c1",  # T
        "90 10 05",  # K
        "90 f0 91 22 07 c5",  # all of them, as Chromium sends
        "30",  # N: nobody refers to it
    ],
)
def test_every_form_of_descriptor_is_taken_off(descriptor: str) -> None:
    head = bytes.fromhex(descriptor)
    assert parse_payload(head + KEY) == Fragment(KEY, may_begin=True, is_key=True, begins_key=True)
    assert parse_payload(head + DELTA) == Fragment(DELTA, may_begin=True, is_key=False, begins_key=False)


@pytest.mark.parametrize("descriptor", ["00", "11", "01", "80 80 11"])
def test_what_does_not_begin_a_frame_is_no_key_frame_whatever_its_bytes(descriptor: str) -> None:
    fragment = parse_payload(bytes.fromhex(descriptor) + KEY)
    assert fragment == Fragment(KEY, may_begin=False, is_key=False, begins_key=False)


@pytest.mark.parametrize(
    "payload", ["", "10", "90", "90 80", "90 80 91", "90 80 91 22", "90 40", "90 f0 11 22", "90 30 01"]
)
def test_a_payload_that_ends_in_its_descriptor_is_refused(payload: str) -> None:
    assert parse_payload(bytes.fromhex(payload)) == BadPacket("short vp8 payload")


def test_a_key_frame_without_its_start_code_is_refused() -> None:
    wrong = b"\x10" + KEY[:3] + b"\x9d\x01\x2b" + KEY[6:]
    assert parse_payload(wrong) == BadPacket("vp8 key frame without start code")


def test_random_bytes_give_a_fragment_of_themselves_or_a_reason() -> None:
    chance = random.Random(5)
    bad = 0
    for _ in range(5_000):
        payload = chance.randbytes(chance.randrange(12))
        parsed = parse_payload(payload)
        bad += isinstance(parsed, BadPacket)
        assert isinstance(parsed, BadPacket) or (parsed.data and payload.endswith(parsed.data))
    assert 500 < bad < 4_500
