"""What telephones and trunks say: SIP, SDP, digest, identities."""

from __future__ import annotations

from loadtests.fuzz.target import Script, Take, Target

INVITE = (
    b"INVITE sip:bot@198.51.100.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK-1;rport\r\n"
    b"Max-Forwards: 70\r\nFrom: <sip:alice@x>;tag=a\r\nTo: <sip:bot@x>\r\nCall-ID: c1\r\nCSeq: 1 INVITE\r\n"
    b"Contact: <sip:alice@192.0.2.1>\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%b"
)
SDP = (
    b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8 97 101\r\n"
    b"a=rtpmap:97 iLBC/8000\r\na=fmtp:97 mode=20\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n"
)
MESSAGES = (
    INVITE % (len(SDP), SDP),
    b"OPTIONS sip:bot@198.51.100.1 SIP/2.0\r\nv: SIP/2.0/TCP [2001:db8::1]:5060;branch=z9hG4bK-2\r\n"
    b"f: <sip:a@x>;tag=a\r\n"
    b"t: <sip:bot@x>\r\ni: c2\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 0\r\nl: 0\r\n\r\n",
    b"SIP/2.0 180 Ringing\r\nVia: SIP/2.0/UDP 198.51.100.1;branch=z9hG4bK-3\r\nFrom: <sip:a@x>;tag=a\r\n"
    b"To: <sip:b@x>;tag=b\r\nCall-ID: c1\r\nCSeq: 1 INVITE\r\n\r\n",
)
NOW_S = 1_790_000_000.0
RFC4475 = "sip/rfc4475"
DIGEST = (
    b'Digest realm="x", nonce="00000000000000000123456789abcdef0123456789abcdef", algorithm=MD5, qop="auth"',
    b'Digest username="a", realm="x", nonce="n", uri="sip:x", response="0", cnonce="c", nc=00000001, qop=auth',
)
IDENTITY = (
    b"eyJhbGciOiJFUzI1NiJ9.eyJhdHRlc3QiOiJBIn0.c2ln;info=<https://192.0.2.9/c.pem>;alg=ES256;ppt=shaken",
    b"..c2ln;info=<https://192.0.2.9/c.pem>",
)


def _messages() -> Take:
    from gateway.sip.message import parse, render

    def take(data: bytes) -> None:
        message = parse(data)
        assert render(b"x", message.headers, message.body)

    return take


def _stream() -> Take:
    """The same octets in pieces, as TCP brings them."""
    from gateway.sip.message import StreamParser

    def take(data: bytes) -> None:
        piece, rest = 1 + Script(data).number(1), data[1:]
        whole, in_pieces = StreamParser().feed(rest), []
        parser = StreamParser()
        for at in range(0, len(rest), piece):
            in_pieces += parser.feed(rest[at : at + piece])
        assert len(whole) == len(in_pieces), f"{len(whole)} at once, {len(in_pieces)} in pieces of {piece}"

    return take


def _router() -> Take:
    """Datagrams of peers and of workers, as they come, at a router of three workers."""
    from gateway.sip.flows import Flow
    from gateway.sip.header import BadMessage
    from gateway.sip.load import WorkerAddress
    from gateway.sip.message import parse
    from gateway.sip.routing import Router

    flows = (
        Flow("udp", "192.0.2.1", 5060), Flow("tcp", "192.0.2.2", 40_001, 7),
        Flow("worker", "127.0.0.1", 6000), Flow("tls", "192.0.2.3", 40_003, 7),
    )  # fmt: skip

    def take(data: bytes) -> None:
        router = Router(b"k" * 32, ("127.0.0.1", 5999), ("198.51.100.1", 5060))
        for number in range(3):
            router.add_worker(WorkerAddress(f"w{number}", "127.0.0.1", 6000 + number, 4, 0))
        for number, part in enumerate(data.split(b"\0\0")[:20]):
            source = flows[part[0] % len(flows)] if part else flows[0]
            for octets in (part[1:], part):
                now_ns = number * 100_000_000
                try:
                    sends = router.handle(parse(octets), source, now_ns)
                except BadMessage as bad:
                    sends = router.handle(bad, source, now_ns)
                sends += router.poll(now_ns)
                for send in sends:
                    if send.flow.kind == "worker":
                        parse(send.data)  # what is not sound does not get there
        assert sum(router.workers.loads().values()) <= 12

    return take


def _screen() -> Take:
    from gateway.sip.sdp_policy import limit_codecs
    from gateway.sip.sdp_screen import family_of, prefers_wideband, screen_sdp

    def take(data: bytes) -> None:
        family_of(data), prefers_wideband(data)
        limit_codecs(data, ("PCMU", "PCMA"))
        screen_sdp(data, sound6=True)

    return take


def _bad_message() -> tuple[type[Exception], ...]:
    from gateway.sip.header import BadMessage

    return (BadMessage,)


def _headers() -> Take:
    from gateway.sip.header import Header, media_type, parse_via, split_values

    def take(data: bytes) -> None:
        list(split_values(data))
        media_type((Header.make(b"Content-Type", data),))
        parse_via(data)

    return take


def _digest() -> Take:
    from gateway.sip.digest import parameters

    return parameters


def _identity() -> Take:
    from dataclasses import replace

    from gateway.sip.header import Header
    from gateway.sip.message import Request, parse
    from gateway.sip.stir.identity import claim_of, number_of

    request = parse(MESSAGES[0])
    assert isinstance(request, Request)

    def take(data: bytes) -> None:
        number_of(data)
        claim_of(replace(request, headers=[*request.headers, Header.make(b"Identity", data)]), 60, NOW_S)

    return take


def _distrust() -> tuple[type[Exception], ...]:
    from gateway.sip.stir.verdict import Distrust

    return (Distrust,)


def _numbers() -> Take:
    from gateway.sip.stir.certificate import read_numbers

    return read_numbers


def _value_error() -> tuple[type[Exception], ...]:
    return (ValueError,)


def _certificates() -> Take:
    from gateway.sip.stir.certificate import trusted

    return lambda data: trusted(data, ())


def _caller_message() -> Take:
    from gateway.caller.messages import parse_message
    from gateway.caller.sdp import parse_audio

    def take(data: bytes) -> None:
        message = parse_message(data)
        parse_audio(message.body if message is not None else data)

    return take


def _uri() -> Take:
    from gateway.caller.messages import parse_uri

    return lambda data: parse_uri(data.decode("utf-8", "replace"))


SIGNALLING = (
    Target("sip-message", _messages, _bad_message, MESSAGES, RFC4475),
    Target("sip-stream", _stream, tuple, tuple(b"\x10" + one for one in MESSAGES), RFC4475),
    Target("sip-router", _router, tuple, (b"\0" + MESSAGES[0] + b"\0\0\2" + MESSAGES[2], *MESSAGES), RFC4475),
    Target("sip-sdp", _screen, _bad_message, (SDP,), "fuzz/sdp"),
    Target(
        "sip-header",
        _headers,
        _bad_message,
        (b"SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK", b'"a,b" <sip:x>;q="1", y'),
    ),
    Target("digest", _digest, tuple, DIGEST),
    Target("identity", _identity, _distrust, (*IDENTITY, b"<sip:+12155551212@x>")),
    Target(
        "certificate-numbers",
        _numbers,
        _value_error,
        (bytes.fromhex("300ba009160731323334353637"), b"\x30\x05\xa0\x03\x16\x01a"),
    ),
    Target(
        "certificate",
        _certificates,
        _distrust,
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",),
    ),
    Target("caller-message", _caller_message, tuple, MESSAGES, RFC4475),
    Target("caller-uri", _uri, _value_error, (b"sip:user@host:5060;transport=tcp", b"<sips:a@[::1]>")),
)
