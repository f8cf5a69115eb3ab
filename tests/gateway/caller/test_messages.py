"""SIP messages in and out, hostile bytes included."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gateway.caller.messages import Message, StreamSplitter, is_loopback, parse_message, parse_uri

SHARED = Path(__file__).parents[4] / "shared"  # beside the checkout, not part of it

OK = (
    b"SIP/2.0 200 OK\r\n"
    b"v: SIP/2.0/UDP 127.0.0.1:5066;rport;branch=z9hG4bKabc\r\n"
    b'f: "A, B" <sip:a@127.0.0.1>;tag=1\r\n'
    b"To: <sip:b@127.0.0.1;tag=wrong>\r\n ;tag=right\r\n"
    b"i: id@host\r\n"
    b"CSeq:  7   invite\r\n"
    b"Record-Route: <sip:p1;lr>, <sip:p2;lr>\r\n"
    b"Record-Route: <sip:p3;lr>\r\n"
    b"Retry-After: 18 (busy);duration=3600\r\n"
    b"l: 4\r\n\r\nbodyXX"
)


def test_compact_names_folding_lists_and_content_length() -> None:
    message = parse_message(OK)
    assert message is not None
    assert (message.status, message.reason, message.body) == (200, "OK", b"body")
    assert message.cseq == (7, "INVITE")
    assert message.branch == "z9hG4bKabc"
    assert (message.tag("from"), message.tag("to")) == ("1", "right")
    assert message.values("record-route") == ["<sip:p1;lr>", "<sip:p2;lr>", "<sip:p3;lr>"]
    assert message.retry_after_s == 18
    assert message.call_id == "id@host"


def test_a_request_survives_the_round_trip() -> None:
    message = Message("INVITE", "sip:a@h", headers=(("call-id", "1"), ("cseq", "1 INVITE")), body=b"v=0\r\n")
    assert parse_message(message.serialise()) == message
    assert b"\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\nContent-Length: 5\r\n\r\nv=0" in message.serialise()


def test_missing_or_broken_headers_are_empty() -> None:
    message = parse_message(b"OPTIONS sip:a SIP/2.0\r\nCSeq: x\r\nRetry-After: soon\r\n\r\n")
    assert message is not None
    assert (message.cseq, message.branch, message.call_id) == ((0, ""), "", "")
    assert message.tag("to") == ""
    assert message.retry_after_s is None


@pytest.mark.parametrize(
    "data", [b"", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"INVITE\r\n\r\n", b"\xff" * 99]
)
def test_what_is_no_sip_is_none(data: bytes) -> None:
    assert parse_message(data) is None


def test_mutated_messages_never_raise() -> None:
    rng = random.Random(1)
    torture = SHARED / "data/sip/rfc4475"
    seeds = [OK] + [path.read_bytes() for path in sorted(torture.rglob("*.dat"))]
    for _ in range(3000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        message = parse_message(bytes(data))
        if message is not None:
            assert message.cseq[0] >= 0
            message.branch, message.tag("to"), message.values("contact"), message.retry_after_s  # noqa: B018
            message.serialise()


def test_a_stream_is_cut_by_content_length() -> None:
    splitter = StreamSplitter()
    stream = b"\r\n\r\n" + OK[:-2] + OK[:-2]
    messages = [m for i in range(0, len(stream), 7) for m in splitter.feed(stream[i : i + 7])]
    assert messages == [OK[:-2], OK[:-2]]


def test_an_endless_stream_is_given_up() -> None:
    with pytest.raises(ValueError, match="65,535"):
        StreamSplitter().feed(b"X" * 70_000)


def test_uris() -> None:
    uri = parse_uri('"Bob" <sip:bob@127.0.0.1:5070;transport=TCP>;tag=1')
    assert (uri.user, uri.address, uri.transport) == ("bob", ("127.0.0.1", 5070), "tcp")
    assert parse_uri("sip:[::1]").address == ("::1", 5060)
    assert parse_uri("sip:127.0.0.1").transport == "udp"
    assert parse_uri("sip:bot@example.org;transport=TLS").address == ("example.org", 5061)
    assert parse_uri("sip:bot@example.org:5099;transport=tls").transport == "tls"
    for wrong in ("127.0.0.1:5060", "http://x", "sips:a@b", "sip:a@b:99999", ""):
        with pytest.raises(ValueError, match="sip|range"):
            parse_uri(wrong)


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("10.0.0.1", "0.0.0.0", "example.org", "127.0.0.1.example.org", "")))
