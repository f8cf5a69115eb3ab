"""Seeded mutations of valid SIP: in the SDP, in the headers, in the bytes."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from loadtests.hostile.message import MAX_DATAGRAM, Hop, Hostile, offer, request, response

_JUNK: tuple[bytes, ...] = (
    b"", b"\0", b"%00", b"\xff" * 8, b"\xc0\x80", b"A" * 254, b"A" * 300, b"A" * 3000, b"-1", b"1e9",
    b"4294967296", b"99999999999999999999", b'"', b"<", b">", b"<<>>", b";", b";;", b",", b":", b"::", b"@",
    b"sip:", b"sips:", b"tel:+1", b"\r\n", b"\r\n ", b"\r\n\r\n", b"\n", b"\r", b"\t", b"%", b"%n%s",
    b"[::1]", b"[", b"]", b"0.0.0.0", b"255.255.255.255", b"999.1.1.1", b"no.such.host.invalid", b"\\",
    b'"\\', b"=?utf-8?q?=ff?=", b"()", b"((((((((", b"\xe2\x80\xae",
)  # fmt: skip
_NUMBERS: tuple[bytes, ...] = (
    b"0", b"-1", b"1", b"127", b"128", b"255", b"256", b"32768", b"65535", b"65536", b"2147483648",
    b"4294967295", b"4294967296", b"99999999999999999999", b"00000000000000001", b"1e9",
)  # fmt: skip
_SDP_LINES: tuple[bytes, ...] = (
    b"c=IN IP6 ::1", b"c=IN IP4 0.0.0.0", b"c=IN IP4 224.0.0.1/127/3", b"c=XX YY zz", b"a=ptime:0",
    b"a=ptime:-1", b"a=ptime:100000", b"a=maxptime:0", b"a=rtpmap:0 PCMU/0", b"a=rtpmap:96 opus/0/0",
    b"a=rtpmap:101 PCMU/8000", b"a=fmtp:96 " + b"a=b;" * 200, b"m=audio 40000 RTP/AVP",
    b"m=audio 0 RTP/AVP 0", b"m=audio 40002 RTP/SAVPF 111", b"m=video 40004 RTP/AVP 96",
    b"m=text 40006 RTP/AVP 98", b"m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
    b"m=image 40008 udptl t38", b"a=inactive", b"a=sendonly", b"a=rtcp:0", b"a=rtcp:40001 IN IP4 127.0.0.1",
    b"a=rtcp-mux", b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:xxx",
    b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz|2^20|1:4",
    b"a=fingerprint:sha-256 00", b"a=setup:actpass", b"a=ice-ufrag:abcd", b"a=ice-pwd:abcdefghijklmnopqrstuv",
    b"a=candidate:1 1 UDP 2130706431 127.0.0.1 40000 typ host", b"a=group:BUNDLE 0 1 2", b"b=AS:-1",
    b"k=clear:x", b"v=1", b"a=ssrc:1 cname:" + b"c" * 500, b"a=mid:" + b"m" * 300, b"a=rtpmap:97 iLBC/8000",
    b"a=fmtp:97 mode=40",
)  # fmt: skip
_HEADERS: tuple[bytes, ...] = (
    b"Require: 100rel", b"Require: nosuchthing", b"Proxy-Require: foo", b"Session-Expires: 1;refresher=uac",
    b"Min-SE: 0", b"Replaces: a;to-tag=b;from-tag=c", b"Refer-To: <sip:x@127.0.0.1:9>",
    b"Route: <sip:127.0.0.1:9;lr>", b"Expires: -1", b"Record-Route: <sip:127.0.0.1:9;lr>", b"Max-Forwards: 0",
    b"Max-Forwards: 256", b"Content-Encoding: gzip", b"Content-Type: multipart/mixed;boundary=x",
    b"Content-Type: multipart/mixed", b"Content-Disposition: ;;",
    b'Authorization: Digest username="a", realm=, nonce="", uri="", response="0"', b"Authorization: Digest",
    b"Proxy-Authorization: Basic AAAA", b"P-Asserted-Identity: <<<>", b"Event: presence", b"Accept: */*;q=9",
    b"RAck: 1 1", b"Contact: *", b"Contact: <sip:\0@h>", b"Subscription-State: active",
    b"Via: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK1", b"Content-Length: 0", b"Content-Length: -1",
    b"Content-Length: 999999", b"CSeq: 4294967296 INVITE", b"Join: x",
    b"Identity: eyJ.eyJ.x;info=<http://127.0.0.1:9/>;alg=none", b"Timestamp: 1e400 -1", b"Warning: 399",
    b"Date: x",
)  # fmt: skip


def _damage_bytes(rng: random.Random, data: bytes) -> bytes:
    """One mutation that knows nothing of the text's structure."""
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(6)
    if kind == 0 and at < len(data):
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + rng.choice(_JUNK) + data[at:]
    if kind == 2:
        return data[:at] + data[at + rng.randrange(1, 40) :]
    if kind == 3:
        numbers = list(re.finditer(rb"\d+", data))
        if numbers:
            found = rng.choice(numbers)
            return data[: found.start()] + rng.choice(_NUMBERS) + data[found.end() :]
    if kind == 4:
        marks = list(re.finditer(rb'[:;=@ ,/<>"]', data))
        if marks:
            found = rng.choice(marks)
            return data[: found.start()] + rng.choice(_JUNK) + data[found.end() :]
    return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]


def _damage_lines(rng: random.Random, data: bytes, strangers: Sequence[bytes]) -> bytes:
    """One mutation of whole lines: doubled, removed, swapped, overlong, or a strange one put in."""
    lines = data.split(b"\r\n")
    kind = rng.randrange(6)
    at = rng.randrange(len(lines))
    if kind == 0:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif kind == 1 and len(lines) > 1:
        del lines[at]
    elif kind == 2:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines[at] += rng.choice((b"A", b";a=b", b",x", b" ")) * rng.choice((100, 255, 700))
    elif kind == 4:
        lines[at:at] = [lines[at]] * rng.choice((20, 60))
    else:
        lines.insert(at, rng.choice(strangers))
    return b"\r\n".join(lines)


def mutate(rng: random.Random, data: bytes, strangers: Sequence[bytes], times: int) -> bytes:
    """`times` random mutations of CRLF separated lines."""
    for _ in range(times):
        data = _damage_bytes(rng, data) if rng.random() < 0.5 else _damage_lines(rng, data, strangers)
    return data


def mutated_sip(rng: random.Random, path: Hop) -> Hostile:
    """A valid message with a few things wrong: in the SDP, in the headers, in the bytes, or cut off.

    The start line and the top Via of an INVITE stay whole, so that its answer comes back and a call that was
    set up can be hung up; in other messages nothing is spared.
    """
    kind = rng.choices(
        ("INVITE", "OPTIONS", "REGISTER", "INFO", "response", "other", "noise"), (40, 12, 12, 12, 12, 10, 2)
    )[0]
    if kind == "noise":
        return Hostile("noise", rng.randbytes(rng.randrange(0, 2000)), path.transport)
    body = b""
    if kind == "INVITE" or rng.random() < 0.2:
        body = offer(path)
        if rng.random() < 0.6:
            body = mutate(rng, body, _SDP_LINES, rng.randrange(1, 6))
    if kind == "response":
        code = rng.choice((99, 100, 180, 183, 200, 202, 302, 401, 407, 422, 487, 500, 603, 700, 1000))
        data = response(rng, path, code, rng.choice(("INVITE", "BYE", "OPTIONS", "REGISTER")), body)
    elif kind == "other":
        methods = (
            "BYE",
            "CANCEL",
            "ACK",
            "UPDATE",
            "PRACK",
            "REFER",
            "SUBSCRIBE",
            "NOTIFY",
            "MESSAGE",
            "PUBLISH",
            "X" * 90,
        )
        data = request(rng, path, rng.choice(methods), body)
    elif kind == "INFO":
        body, content_type = rng.choice(
            (
                (b"Signal=5\r\nDuration=160\r\n", "application/dtmf-relay"),
                (b"Signal=" + b"9" * 400 + b"\r\nDuration=-1\r\n", "application/dtmf-relay"),
                (b"Signal=\r\n", "application/dtmf-relay"),
                (b"Duration=160\r\n", "application/dtmf-relay"),
                (b"5", "application/dtmf"),
                (b"<?xml version='1.0'?><media_control/>", "application/media_control+xml"),
            )
        )
        data = request(
            rng,
            path,
            kind,
            mutate(rng, body, (b"Signal=!", b"Duration=1"), rng.randrange(0, 3)),
            content_type,
        )
    else:
        data = request(rng, path, kind, body)
    head, blank, body = data.partition(b"\r\n\r\n")
    spared = b""
    if kind == "INVITE":
        cut = head.index(b"\r\n", head.index(b"\r\n") + 2) + 2  # after the top Via
        spared, head = head[:cut], head[cut:]
    if kind != "INVITE" or rng.random() < 0.5:
        head = mutate(rng, head, _HEADERS, rng.randrange(1, 5))
    data = spared + head + blank + body
    if rng.random() < 0.05:
        data = data[: rng.randrange(len(spared), len(data) + 1)]
    return Hostile(kind, data[:MAX_DATAGRAM], path.transport)
