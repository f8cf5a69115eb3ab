"""Session descriptions of a one-codec call."""

from __future__ import annotations

import random

import pytest

from gateway.caller.sdp import answer_direction, describe, parse_audio


def test_our_offer_is_understood() -> None:
    body = describe("127.0.0.1", 4000, "PCMA", 8, version=3)
    audio = parse_audio(body)
    assert audio is not None
    assert (audio.host, audio.port, audio.direction) == ("127.0.0.1", 4000, "sendrecv")
    assert audio.codecs == {8: "PCMA", 101: "TELEPHONE-EVENT"}
    assert audio.payload_type("PCMA") == 8
    assert audio.payload_type("PCMU") is None
    assert audio.wants_audio


def test_static_types_need_no_rtpmap_and_the_media_address_wins() -> None:
    audio = parse_audio(
        b"v=0\r\nc=IN IP4 127.0.0.1\r\na=sendonly\r\nm=video 9 RTP/AVP 96\r\nc=IN IP4 127.0.0.3\r\n"
        b"m=audio 5000 RTP/AVP 9 0\r\nc=IN IP4 127.0.0.2\r\n"
    )
    assert audio is not None
    assert (audio.host, audio.codecs, audio.direction) == ("127.0.0.2", {9: "G722", 0: "PCMU"}, "sendonly")
    assert not audio.wants_audio


@pytest.mark.parametrize(
    ("line", "wanted"), [("a=inactive", False), ("a=recvonly", True), ("c=IN IP4 0.0.0.0", False)]
)
def test_hold(line: str, wanted: bool) -> None:
    audio = parse_audio(b"c=IN IP4 127.0.0.1\r\nm=audio 5000 RTP/AVP 0\r\n" + line.encode())
    assert audio is not None
    assert audio.wants_audio is wanted


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"m=audio 5000 RTP/AVP 0", b"c=IN IP4 127.0.0.1\r\nm=video 1 RTP/AVP 0", b"m=audio x"],
)
def test_no_usable_audio(body: bytes) -> None:
    assert parse_audio(body) is None


def test_mutations_never_raise() -> None:
    rng = random.Random(2)
    for _ in range(3000):
        data = bytearray(describe("127.0.0.1", 4000, "PCMU", 0))
        for _ in range(rng.randrange(8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        parse_audio(bytes(data))


def test_answers_mirror_the_offer() -> None:
    assert [answer_direction(d) for d in ("sendrecv", "sendonly", "recvonly", "inactive")] == [
        "sendrecv",
        "recvonly",
        "sendonly",
        "inactive",
    ]
