# SPDX-License-Identifier: GPL-3.0-or-later
"""Parsing, framing and the screen: whatever arrives, only BadMessage comes out."""

import contextlib
import random
import time
from pathlib import Path

import pytest

from gateway.sip.header import BadMessage, check_address, find, parse_via, split_values
from gateway.sip.message import MAX_MESSAGE_BYTES, Request, Response, StreamParser, parse, render, reply
from gateway.sip.sdp_screen import family_of, prefers_wideband, screen_body, screen_sdp

RFC4475 = Path(__file__).resolve().parents[4] / "shared" / "data" / "sip" / "rfc4475"

SDP = (
    b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
    b"m=audio 4000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
)


def invite(
    body: bytes = SDP, extra: bytes = b"", length: int | None = None, call_id: bytes = b"a@b"
) -> bytes:
    size = len(body) if length is None else length
    return (
        b"INVITE sip:bot@192.0.2.9 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKx;rport\r\n"
        b"Max-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:bot@c>\r\nCall-ID: " + call_id + b"\r\n"
        b"CSeq: 1 INVITE\r\nContent-Type: application/sdp\r\n" + extra + b"Content-Length: %d\r\n\r\n" % size
    ) + body


def status_of(data: bytes) -> int:
    with pytest.raises(BadMessage) as caught:
        parse(data)
    return caught.value.status


def test_what_is_not_understood_passes_byte_for_byte() -> None:
    data = invite(extra=b"x-ODD  :   a;;,,\r\n  folded \xff\r\nSUBJECT:b\r\ns: c\r\n")
    message = parse(data)
    assert isinstance(message, Request)
    assert render(message.start_line, message.headers, message.body) == data
    assert find(message.headers, b"x-odd") == b"a;;,, folded \xff"
    assert [h.value for h in message.headers if h.name == b"subject"] == [b"b", b"c"]


def test_compact_names_and_tags() -> None:
    data = (
        b"BYE sip:a@b SIP/2.0\r\nv: SIP/2.0/TCP h;branch=z9hG4bK1\r\n"
        b'f: "x;tag=no" <sip:a@b;tag=no>;tag=yes\r\n'
        b"t: sip:c@d ; tag = t1\r\ni: q\r\nCSeq: 7  BYE\r\nl: 0\r\n\r\n"
    )
    message = parse(data)
    assert isinstance(message, Request)
    assert (message.from_tag, message.to_tag, message.cseq, message.call_id) == (b"yes", b"t1", 7, b"q")
    assert (message.via.transport, message.via.host, message.via.port) == (b"TCP", b"h", None)


def test_datagram_is_cut_at_content_length_and_too_short_a_body_refused() -> None:
    message = parse(invite() + b"trailing")
    assert message.body == SDP
    assert status_of(invite(length=len(SDP) + 1)) == 400


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (invite(call_id=b"x" * 256), 400),
        (invite(call_id=b"x y"), 400),
        (invite(extra=b"X: " + b"y" * 2001 + b"\r\n"), 400),
        (invite(extra=b"X: 1\r\n" * 100), 400),
        (invite(extra=b"X: a\x00b\r\n"), 400),
        (invite(extra=b"X: a\nY: b\r\n"), 400),
        (invite(extra=b"no colon\r\n"), 400),
        (invite(extra=b"Call-ID: z\r\n"), 400),
        (invite(extra=b"l: 5\r\n"), 400),
        (invite().replace(b"1 INVITE", b"1 BYE"), 400),
        (invite().replace(b"CSeq: 1", b"CSeq: 2147483648"), 400),
        (invite().replace(b"SIP/2.0\r\nVia", b"SIP/3.0\r\nVia"), 505),
        (invite().replace(b"INVITE sip:", b"INVITE xyz:"), 416),
        (invite().replace(b"From: ", b"Frm: "), 400),
        (invite(body=b"v=0\r\n" * 1600), 513),
        (invite().replace(b":5060", b":99999"), 400),
        (b"\x16\x03\x01hello", 400),
        (b"x" * 9000, 513),
    ],
)
def test_the_dangerous_is_refused(data: bytes, status: int) -> None:
    assert status_of(data) == status


def test_reply_has_what_the_request_had_and_a_tag() -> None:
    message = parse(invite())
    answer = parse(reply(message.headers, 503, "Busy", b"tag9"))
    assert isinstance(answer, Response)
    assert (answer.status, answer.method, answer.call_id) == (503, b"INVITE", b"a@b")
    assert find(answer.headers, b"to") == b"<sip:bot@c>;tag=tag9"
    assert find(answer.headers, b"via") == find(message.headers, b"via")


def test_values_are_split_outside_of_quotes_and_brackets() -> None:
    assert split_values(b'<sip:a,b@c>, "x, \\" y" <sip:d@e>,f') == [
        b"<sip:a,b@c>",
        b'"x, \\" y" <sip:d@e>',
        b"f",
    ]
    for bad in (b'"open', b"<open", b'a,,"b"'):
        with pytest.raises(BadMessage):
            split_values(bad)


def test_via_round_trip() -> None:
    via = parse_via(b"SIP / 2.0 / udp [2001:db8::1] : 5062 ; rport ;branch = z9hG4bKa")
    assert via.render() == b"SIP/2.0/UDP [2001:db8::1]:5062;rport;branch=z9hG4bKa"
    for bad in (b"SIP/2.0/UDP h;;", b"SIP/2.0/UDP h:0", b"UDP h", b"SIP/2.0/UDP h;a;a"):
        with pytest.raises(BadMessage):
            parse_via(bad)


GOOD_ADDRESSES = [
    b"sip:a@b", b"<sip:a@b>", b"Alice <sip:a@b>", b"Alice B. Cooper <sip:a@b>", b"alice<sip:a@b>",
    b'"Alice" <sip:a@b>', b'"" <sip:a@b>', b'"a \\" b \\\\" <sip:a@b>', b'"<sip:x@y>;tag=z, q" <sip:a@b>',
    b"\"J\xc3\xb6rg\" <sip:a@b>", b"tel:+49301234", b"<tel:+1;phone-context=x>;user=phone",
    b"<sip:a,b;c?d@e:5060;transport=tcp?h=v>", b"sip:[2001:db8::1]:5060", b"<sips:a@[::1]>;received=[::1]",
    b'<sip:a@b>;+sip.instance="<urn:uuid:1>" ; q = 0.5;ob', b"anonymous <sip:anonymous@anonymous.invalid>",
]  # fmt: skip
BAD_ADDRESSES = [
    b'";;"Hostile"" <sip:x@y>', b'"a"b" <sip:x@y>', b'"a" b <sip:x@y>', b'a "b" <sip:x@y>', b'"a <sip:x@y>',
    b'a" <sip:x@y>', b'"a\\" <sip:x@y>', b'"a" "b" <sip:x@y>', b'"a" sip:x@y', b"<sip:x@y", b"sip:x@y>",
    b"<<sip:x@y>>", b"<sip:x@y> <sip:x@y>", b'<sip:x"@y>', b"< sip:x@y>", b"<sip:x @y>", b"<>", b"<x@y>", b"x@y",
    b"a, b <sip:x@y>", b"a;b <sip:x@y>", b"<sip:x@y>;", b"<sip:x@y>;;q=1", b"<sip:x@y>;q=", b'<sip:x@y>;q="a',
    b'<sip:x@y>;q=a"b"', b'<sip:x@y>"', b"<sip:x@y>;q=<z>", b"<sip:x@y>, <sip:x@y>", b"sip:x@y?h=v",
]  # fmt: skip


@pytest.mark.parametrize("address", GOOD_ADDRESSES)
def test_well_formed_address_passes(address: bytes) -> None:
    data = invite(extra=b"Contact: @\r\n").replace(b"<sip:a@b>", address)
    data = data.replace(b"<sip:bot@c>", address + b";tag=t").replace(b"Contact: @", b"Contact: " + address)
    message = parse(data)
    assert isinstance(message, Request) and (message.from_tag, message.to_tag) == (b"1", b"t")


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_address_that_is_none_is_refused(address: bytes) -> None:
    assert status_of(invite().replace(b"<sip:a@b>", address)) == 400
    assert status_of(invite().replace(b"<sip:bot@c>", address)) == 400
    if address != b"<sip:x@y>, <sip:x@y>":  # a Contact may hold several
        assert status_of(invite(extra=b"Contact: " + address + b"\r\n")) == 400
        assert status_of(invite(extra=b"m: <sip:ok@x>, " + address + b"\r\n")) == 400


def test_contact_star_is_for_register() -> None:
    star = invite(extra=b"Contact: *\r\n")
    assert status_of(star) == 400
    parse(star.replace(b"INVITE", b"REGISTER"))


@pytest.mark.parametrize("unit", [b'"', b'\\"', b"a ", b"<", b";a=b", b"; ", b" ", b';a="', b"a"])
def test_long_address_is_judged_in_no_time(unit: bytes) -> None:
    started = time.perf_counter()
    for value in (unit * (1_900 // len(unit)), b"<sip:a@b>" + unit * (1_900 // len(unit))):
        for tail in (b"", b"!", b"\xff"):
            with contextlib.suppress(BadMessage):
                check_address(value + tail)
    assert time.perf_counter() - started < 0.5


def test_tag_in_a_name_or_uri_is_none() -> None:
    data = invite().replace(b"To: <sip:bot@c>", b'To: "x;tag=1" <sip:bot@c;tag=2>')
    message = parse(data)
    assert isinstance(message, Request) and message.to_tag == b""
    assert reply(message.headers, 486, "Busy", b"ours", ()).count(b";tag=ours") == 1


# ---- Streams ----


@pytest.mark.parametrize("step", [1, 7, 64, 100_000])
def test_stream_gives_the_same_messages_however_it_is_cut(step: int) -> None:
    stream = b"\r\n\r\n" + invite() + b"\r\n" + invite(call_id=b"second") + b"\r\n\r\n" + invite(body=b"")
    parser, found = StreamParser(), []
    for at in range(0, len(stream), step):
        found += parser.feed(stream[at : at + step])
    kinds = [item if isinstance(item, str) else item.call_id for item in found]  # type: ignore[union-attr]
    assert kinds == ["ping", b"a@b", b"second", "ping", b"a@b"]
    assert isinstance(found[1], Request) and found[1].body == SDP


def test_bad_message_in_a_stream_does_not_cost_the_next_one() -> None:
    items = StreamParser().feed(invite().replace(b"1 INVITE", b"1 BYE") + invite())
    assert isinstance(items[0], BadMessage) and not items[0].fatal and items[0].method == b"INVITE"
    assert isinstance(items[1], Request)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (invite().replace(b"Content-Length: %d\r\n" % len(SDP), b""), 400),
        (invite(extra=b"l: 3\r\n"), 400),
        (invite(length=MAX_MESSAGE_BYTES), 513),
        (b"x" * MAX_MESSAGE_BYTES, 513),
    ],
)
def test_stream_that_cannot_be_framed_ends(data: bytes, status: int) -> None:
    parser = StreamParser()
    (item,) = parser.feed(data)
    assert isinstance(item, BadMessage) and item.fatal and item.status == status
    assert parser.feed(invite()) == []


# ---- SDP ----


@pytest.mark.parametrize(
    "sdp",
    [
        SDP,
        SDP.replace(b"\r\n", b"\n"),
        SDP + b"m=audio 4002 RTP/AVP 0\r\nc=IN IP6 2001:db8::1\r\n",
        SDP + b"a=rtcp:4001 IN IP4 192.0.2.1\r\n",
        SDP + b"a=rtpmap:97 iLBC/8000\r\na=fmtp:97 mode=30\r\n",
        SDP + b"a=rtpmap:97 speex/8000\r\na=fmtp:97 mode=40\r\n",
    ],
)
def test_good_sdp_passes(sdp: bytes) -> None:
    screen_sdp(sdp)


SDP6 = SDP.replace(b"c=IN IP4 192.0.2.1", b"c=IN IP6 2001:db8::1")


@pytest.mark.parametrize(
    ("sdp", "family"),
    [
        (SDP, 4),
        (SDP6, 6),
        (SDP6.replace(b"\r\n", b"\n"), 6),
        (SDP6 + b"c=IN IP4 192.0.2.1\r\n", 4),
        (SDP + b"c=IN ip6 2001:db8::1\r\nm=audio 4002 RTP/AVP 0\r\n", 6),
        (SDP.replace(b"audio 4000", b"audio 0") + b"m=audio 2 RTP/AVP 0\r\nc=IN IP6 ::1\r\n", 6),
        (b"v=0\r\nc=IN IP6 ::1\r\nm=video 4 RTP/AVP 9\r\nm=audio 5 RTP/AVP 0\r\nc=IN IP4 10.0.0.1\r\n", 4),
        (SDP6.replace(b"audio 4000", b"audio 0"), 0),
        (b"v=0\r\nc=IN IP6 ::1\r\nm=video 4 RTP/AVP 9\r\n", 0),
    ],
)
def test_the_family_is_that_of_the_first_sound_in_use(sdp: bytes, family: int) -> None:
    assert family_of(sdp) == family
    screen_sdp(sdp, sound6=True)
    if family == 6:
        with pytest.raises(BadMessage):
            screen_sdp(sdp)


@pytest.mark.parametrize(
    ("sdp", "family6", "told"),
    [
        (SDP, False, b""), (SDP6, True, b""), (SDP6, None, b""), (SDP6, False, b"IPv4"), (SDP, True, b"IPv6"),
        (SDP.replace(b"audio 4000", b"audio 0"), True, b""),
    ],
)  # fmt: skip
def test_a_call_keeps_to_its_family(sdp: bytes, family6: bool | None, told: bytes) -> None:
    invited = parse(invite(body=sdp))
    assert isinstance(invited, Request)
    if not told:
        screen_body(invited, True, family6)
        return
    with pytest.raises(BadMessage) as caught:
        screen_body(invited, True, family6)
    assert caught.value.status == 488 and told in caught.value.extra[0].value


@pytest.mark.parametrize(
    ("sdp", "status"),
    [
        (SDP.replace(b"c=IN IP4 192.0.2.1\r\n", b""), 488),
        (SDP.replace(b"c=IN IP4 192.0.2.1\r\n", b"").replace(b"audio 4000", b"audio 0"), 488),
        (SDP.replace(b"c=IN IP4 192.0.2.1\r\n", b"") + b"c=IN IP4 1.2.3.4\r\nm=video 0 RTP/AVP 31\r\n", 488),
        (SDP.replace(b"c=IN IP4 192.0.2.1", b"c=IN IP4 " + b"1" * 180), 488),
        (SDP.replace(b"c=IN IP4 192.0.2.1", b"c=IN IP4 host.example"), 488),
        (SDP.replace(b"c=IN IP4 192.0.2.1", b"c=IN IP6 192.0.2.1"), 488),
        (SDP.replace(b"c=IN IP4 192.0.2.1", b"c=IN IP4"), 488),
        (SDP + b"a=rtcp:4001 IN IP4 " + b"1" * 100 + b"\r\n", 488),
        (SDP + b"a=RTCP:x\r\n", 488),
        (SDP.replace(b"c=IN IP4 192.0.2.1", b"c=IN IP6 2001:db8::1"), 488),
        (SDP.replace(b"c=IN IP4 192.0.2.1\r\n", b"") + b"c=IN IP6 2001:db8::1\r\n", 488),
        (SDP + b"a=x:" + b"y" * 200 + b"\r\n", 488),
        (SDP + b"m=audio 1 RTP/AVP 0\r\n" * 8, 488),
        (SDP + b"a=fmtp:97 x=1;mode=25\r\na=rtpmap:97 iLBC/8000\r\n", 488),
        (SDP + b"a=fmtp:97 MODE = 020\r\na=rtpmap:97 ILBC/8000\r\n", 488),
        (SDP + b"a=x\ry\r\n", 400),
        (SDP + b"a=x\0y\r\n", 400),
        (SDP + b"\r\nm=audio\r\n", 400),
        (b"hello", 400),
    ],
)
def test_sdp_that_aborts_a_worker_is_refused(sdp: bytes, status: int) -> None:
    with pytest.raises(BadMessage) as caught:
        screen_sdp(sdp)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("media", "wideband"),
    [
        (b"m=audio 4000 RTP/AVP 9 0 8", True),
        (b"m=audio 4000 RTP/AVP 9", True),
        (b"m=audio 4000/2 RTP/SAVP 9 101", True),
        (b"m=audio 4000 RTP/AVP 0 9", False),
        (b"m=audio 4000 RTP/AVP 96 9", False),
        (b"m=audio 4000 RTP/AVP", False),
        (b"m=video 4000 RTP/AVP 9\r\nm=audio 4000 RTP/AVP 0", False),
        (b"m=audio 4000 RTP/AVP 0\r\nm=audio 4002 RTP/AVP 9", False),
        (b"i=m=audio 1 RTP/AVP 9\r\nm=audio 4000 RTP/AVP 0", False),
        (b"", False),
    ],
)
def test_offer_prefers_wideband_when_g722_is_first(media: bytes, wideband: bool) -> None:
    for end in (b"", b"\r\n", b"\n"):
        assert prefers_wideband(SDP[: SDP.index(b"m=")] + media + end) is wideband


# ---- Unlucky input ----


@pytest.mark.skipif(not RFC4475.is_dir(), reason=f"the RFC 4475 messages are not at {RFC4475}")
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("valid/wsinv", 0), ("valid/esc01", 0), ("valid/escnull", 0), ("valid/longreq", 0),
        ("valid/lwsdisp", 0), ("valid/dblreq", 0), ("valid/semiuri", 0), ("valid/transports", 0),
        ("valid/mpart01", 0), ("valid/unreason", 0), ("valid/noreason", 0), ("valid/esc02", 0),
        ("valid/intmeth", 400),  # a NUL in a quoted string is legal, and refused on purpose
        ("invalid/badinv01", 400), ("invalid/clerr", 400), ("invalid/ncl", 400), ("invalid/scalar02", 400),
        ("invalid/scalarlg", 400), ("invalid/quotbal", 400), ("invalid/ltgtruri", 400),
        ("invalid/lwsruri", 400), ("invalid/lwsstart", 400), ("invalid/trws", 400), ("invalid/escruri", 400),
        ("invalid/badvers", 505), ("invalid/mismatch01", 400), ("invalid/mismatch02", 400),
        ("invalid/bigcode", 400), ("invalid/insuf", 400), ("invalid/unkscm", 416),
        ("invalid/novelsc", 416), ("invalid/multi01", 400), ("invalid/mcl01", 400), ("invalid/test", 400),
    ],
)  # fmt: skip
def test_rfc4475(name: str, status: int) -> None:
    data = (RFC4475 / f"{name}.dat").read_bytes()
    if status:
        assert status_of(data) == status
    else:
        parse(data)


def test_mutated_and_random_octets_raise_nothing_else() -> None:
    rng = random.Random(4475)
    seeds = [
        invite(),
        invite(extra=b'Route: <sip:a,b@c;lr>, "x" <sip:d>\r\n'),
        reply(parse(invite()).headers, 200, "OK", b"t"),
    ]
    for number in range(5_000):
        data = bytearray(rng.choice(seeds) if number % 10 else rng.randbytes(rng.randrange(300)))
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(data) + 1)
            choice = rng.randrange(3)
            if choice == 0 and at < len(data):
                data[at] = rng.randrange(256)
            elif choice == 1:
                del data[at : at + rng.randrange(20)]
            else:
                data[at:at] = rng.choice(
                    [b"\r\n", b"\r\n ", b";", b",", b'"', b"<", b":", b"\0", rng.randbytes(5)]
                )
        try:
            message = parse(bytes(data))
            screen_sdp(message.body)
        except BadMessage as bad:
            assert 400 <= bad.status < 700
        for item in StreamParser().feed(bytes(data)):
            assert isinstance(item, BadMessage | Request | Response | str)
