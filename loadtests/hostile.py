"""Sends hostile SIP and RTP to a running gateway on this machine and checks that it goes on answering.

    python -m loadtests.hostile --target 127.0.0.1:5060 --sip 10000 --rtp 10000 --seed 1 \\
        --rtp-targets 127.0.0.1:40000 --torture ../shared/data/sip/rfc4475

Four stages, one after the other: the torture messages of RFC 4475, the messages that are known to have
killed a pjsua2 process, seeded mutations of valid SIP, and seeded mutations of RTP and RTCP.  Every 200
messages a clean OPTIONS must be answered within 2 s, or the run ends and the exit status is 1.  The last line
of stdout is JSON.

What is here knows nothing of the gateway's insides: it sees datagrams and answers.  The one rule: what is
sent depends on the seed and on our own port numbers alone; --replay keeps the last messages byte for byte.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import json
import random
import re
import socket
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

PROBE_EVERY_MESSAGES = 200
PROBE_TIMEOUT_S = 2.0
RETRANSMIT_S = 0.5  # T1, RFC 3261 section 17.1.1.1
BYE_TRIES = 5
RINGING_S = 1.0  # an INVITE that has only provisional answers after this time is cancelled
TCP_LIFE_S = 1.0  # a TCP connection carries one message and its answers
TCP_AT_ONCE = 32
TCP_SHARE = 10  # every n-th mutated message goes over TCP
FLOOD_INVITES = 33
FLOOD_S = 0.4  # 33 INVITEs within 0.5 s: select() ran out of handles, which are kept for 500 ms
MAX_DATAGRAM = 60_000  # bytes
KEPT_FOR_REPLAY = 200  # messages

# ------------------------------------------------------------------------------------------------------------
# Messages: pure functions of a random.Random
# ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Address:
    """An IPv4 address and a port, of us or of the target."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Hop:
    """The way a message takes: who sends it, to whom, over what."""

    local: Address
    target: Address
    transport: str = "UDP"  # or "TCP", as in Via


_TOKEN = "abcdefghijklmnopqrstuvwxyz0123456789"


def token(rng: random.Random, length: int = 10) -> str:
    """A random token (RFC 3261 section 25.1) of `length` characters."""
    return "".join(rng.choices(_TOKEN, k=length))


def offer(path: Hop, rtp_port: int = 40_000) -> bytes:
    """A valid SDP offer of audio (RFC 8866) with G.711, G.722, Opus and telephone events."""
    host = path.local.host
    return (
        f"v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
        f"m=audio {rtp_port} RTP/AVP 0 8 9 96 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n"
        "a=rtpmap:9 G722/8000\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1\r\n"
        "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\n"
        f"a=rtcp:{rtp_port + 1}\r\na=sendrecv\r\n"
    ).encode()


def request(
    rng: random.Random, path: Hop, method: str, body: bytes = b"", content_type: str = "application/sdp"
) -> bytes:
    """A valid request outside of a dialog (RFC 3261 section 8.1.1)."""
    target, local = path.target, path.local
    lines = [
        f"{method} sip:gw@{target} SIP/2.0",
        f"Via: SIP/2.0/{path.transport} {local};rport;branch=z9hG4bK{token(rng)}",
        "Max-Forwards: 70",
        f'From: "Hostile" <sip:hostile@{local}>;tag={token(rng, 8)}',
        f"To: <sip:gw@{target}>",
        f"Call-ID: {token(rng, 16)}@{local.host}",
        f"CSeq: {rng.randrange(1, 1000)} {method}",
        f"Contact: <sip:hostile@{local};transport={path.transport.lower()}>",
        "Allow: INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, UPDATE",
        "Supported: 100rel, timer, replaces",
        "User-Agent: hostile",
    ]
    if body:
        lines.append(f"Content-Type: {content_type}")
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def response(rng: random.Random, path: Hop, code: int, method: str, body: bytes = b"") -> bytes:
    """A response that nobody waits for (RFC 3261 section 8.2.6)."""
    _, _, rest = request(rng, path, method, body).partition(b"\r\n")
    return b"SIP/2.0 %d Whatever\r\n" % code + rest


@dataclass(frozen=True, slots=True)
class Hostile:
    """One message to send, and what it is called in the report."""

    name: str
    data: bytes
    transport: str = "UDP"


def torture_messages(folder: Path) -> list[Hostile]:
    """The messages of RFC 4475 below `folder`, each over UDP and over TCP, as they are.

    Raises ValueError if there are none.
    """
    files = sorted(folder.rglob("*.dat"))
    if not files:
        raise ValueError(f"no *.dat file below {folder}: --torture wants the folder of the RFC 4475 messages")
    return [
        Hostile(f"{file.parent.name}/{file.stem}", file.read_bytes(), transport)
        for file in files
        for transport in ("UDP", "TCP")
    ]


def crash_messages(rng: random.Random, udp: Hop, tcp: Hop) -> list[Hostile]:
    """Single INVITEs that killed a pjsua2 2.15 with asserts.  The flood that did is `flood_messages`."""
    long = b"A" * 254  # PJ_MAX_HOSTNAME: one more than the resolver's buffer takes
    found: list[Hostile] = []
    for path in (udp, tcp):
        sdp = offer(path)
        host = path.local.host.encode()
        bodies = {
            "c= of 254": sdp.replace(b"c=IN IP4 " + host, b"c=IN IP4 " + long),
            "c= of 300": sdp.replace(b"c=IN IP4 " + host, b"c=IN IP4 " + b"A" * 300),
            "a=rtcp of 254": sdp + b"a=rtcp:40001 IN IP4 " + long + b"\r\n",
            "m=audio 0, no c=": sdp.replace(b"c=IN IP4 " + host + b"\r\n", b"").replace(
                b"audio 40000", b"audio 0"
            ),
            "iLBC mode=40": sdp.replace(b"RTP/AVP 0 8 9", b"RTP/AVP 97")
            + b"a=rtpmap:97 iLBC/8000\r\na=fmtp:97 mode=40\r\n",
        }
        for name, body in bodies.items():
            found.append(Hostile(name, request(rng, path, "INVITE", body), path.transport))
    return found


def flood_messages(rng: random.Random, path: Hop) -> list[Hostile]:
    """33 valid INVITEs, to be sent within `FLOOD_S` seconds."""
    return [Hostile("flood", request(rng, path, "INVITE", offer(path))) for _ in range(FLOOD_INVITES)]


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


# ------------------------------------------------------------------------------------------------------------
# The other side of the conversation: no socket, no clock
# ------------------------------------------------------------------------------------------------------------

_COMPACT = {"v": "via", "f": "from", "t": "to", "i": "call-id", "m": "contact", "l": "content-length"}


@dataclass(frozen=True, slots=True)
class Parsed:
    """The little of a SIP message that ending a call takes; names of `headers` are in lower case."""

    start: str
    headers: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def first(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")


def parse(data: bytes) -> Parsed:
    """Reads a message of the target; never raises, an unreadable message has an empty start line."""
    head, _, _ = data.decode("latin-1").partition("\r\n\r\n")
    lines = re.sub(r"\r\n[ \t]+", " ", head).split("\r\n")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            name = name.strip().lower()
            headers.append((_COMPACT.get(name, name), value.strip()))
    return Parsed(lines[0], tuple(headers))


def plain(value: str) -> str:
    """From or To without its display name, which, mutated, the target echoes and then cannot read.

    Dialogs and transactions are matched by tag alone (RFC 3261 section 12.2.2).
    """
    found = re.search(r"<([^<>]*)>[^<>]*?;\s*tag\s*=\s*([^;\s]+)", value)
    return f"<{found[1]}>;tag={found[2]}" if found else value


@dataclass(slots=True)
class Waiting:
    """A BYE without an answer, or an INVITE with only a provisional one."""

    data: bytes
    due: float  # s, monotonic
    tries: int


@dataclass(slots=True)
class Agent:
    """Answers the target and ends every call (RFC 3261 sections 13.2.2.4, 15.1.1, 17.1.1.3).

    After each `receive` send what it returns; send what `poll` returns now and then.  `codes` counts every
    response, repeated ones too.
    """

    path: Hop
    rng: random.Random
    codes: Counter[str]
    hung_up: int = 0
    given_up: int = 0
    _ended: set[str] = field(default_factory=set)
    _byes: dict[str, Waiting] = field(default_factory=dict)
    _ringing: dict[str, Waiting] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        """Calls whose end is not confirmed."""
        return len(self._byes) + len(self._ringing)

    def receive(self, data: bytes, now: float) -> list[bytes]:
        """Takes one message of the target and returns the messages to send back."""
        message = parse(data)
        if not message.start.startswith("SIP/2.0 "):
            return self._answer(message)
        code = message.start[8:11]
        self.codes[code] += 1
        number, _, method = message.first("cseq").partition(" ")
        if not number.isdigit() or not code.isdigit():
            return []
        method = method.strip()
        caller = f"{message.first('call-id')} {plain(message.first('from'))}"
        dialog = f"{caller} {number}"
        if method == "BYE":
            self._byes.pop(dialog, None)
        if method != "INVITE":
            return []
        if code < "200":
            if dialog not in self._ringing:
                cancel = self._request("CANCEL", message, int(number), message.first("via"))
                self._ringing[dialog] = Waiting(cancel, now + RINGING_S, BYE_TRIES)
            return []
        self._ringing.pop(dialog, None)
        if code >= "300":
            return [self._request("ACK", message, int(number), message.first("via"))]
        replies = [self._request("ACK", message, int(number))]
        call = dialog + message.first("to")
        if call not in self._ended:
            self._ended.add(call)
            self.hung_up += 1
            bye = self._request("BYE", message, int(number) + 1)
            self._byes[f"{caller} {int(number) + 1}"] = Waiting(bye, now + RETRANSMIT_S, BYE_TRIES)
            replies.append(bye)
        return replies

    def poll(self, now: float) -> list[bytes]:
        """BYEs and CANCELs that are due; one that was sent `BYE_TRIES` times is given up."""
        found = []
        for table in (self._byes, self._ringing):
            for key, waiting in list(table.items()):
                if waiting.due <= now:
                    waiting.tries -= 1
                    waiting.due = now + RETRANSMIT_S
                    found.append(waiting.data)
                    if waiting.tries <= 0:
                        self.given_up += 1
                        del table[key]
        return found

    def _request(self, method: str, response: Parsed, number: int, via: str = "") -> bytes:
        """ACK, BYE or CANCEL for the INVITE of `response`; `via` if the branch must be the INVITE's."""
        path = self.path
        inside = method == "BYE" or not via
        uri = re.search(r"<([^>]*)>", response.first("contact")) if inside else None
        lines = [f"{method} {uri[1] if uri else f'sip:gw@{path.target}'} SIP/2.0"]
        lines.append(
            f"Via: {via or f'SIP/2.0/{path.transport} {path.local};rport;branch=z9hG4bK{token(self.rng)}'}"
        )
        lines.append("Max-Forwards: 70")
        if inside:
            lines += [f"Route: {route}" for route in reversed(response.all("record-route"))]
        to = plain(response.first("to"))
        if method == "CANCEL":
            to = re.sub(r";tag=.*", "", to)
        lines += [
            f"From: {plain(response.first('from'))}",
            f"To: {to}",
            f"Call-ID: {response.first('call-id')}",
        ]
        lines += [f"CSeq: {number} {method}", "Content-Length: 0", "", ""]
        return "\r\n".join(lines).encode("latin-1", "replace")

    def _answer(self, message: Parsed) -> list[bytes]:
        """200 to any request but ACK; nothing to what is no request."""
        method = message.start.partition(" ")[0]
        if not message.start.endswith("SIP/2.0") or method == "ACK":
            return []
        to = message.first("to")
        lines = [
            "SIP/2.0 200 OK",
            *(f"Via: {via}" for via in message.all("via")),
            f"From: {message.first('from')}",
        ]
        lines += [f"To: {to if 'tag=' in to else to + ';tag=h'}", f"Call-ID: {message.first('call-id')}"]
        lines += [f"CSeq: {message.first('cseq')}", "Content-Length: 0", "", ""]
        return ["\r\n".join(lines).encode("latin-1", "replace")]


def split_stream(buffer: bytearray) -> Iterator[bytes]:
    """Takes the whole messages out of what TCP has brought (RFC 3261 section 18.3)."""
    while True:
        while buffer[:2] == b"\r\n":
            del buffer[:2]
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = parse(bytes(buffer[:end])).first("content-length")
        total = end + 4 + (int(length) if length.isdigit() else 0)
        if len(buffer) < total:
            return
        yield bytes(buffer[:total])
        del buffer[:total]


# ------------------------------------------------------------------------------------------------------------
# Sockets
# ------------------------------------------------------------------------------------------------------------


class Silent(Exception):
    """The target did not answer a clean OPTIONS within `PROBE_TIMEOUT_S`."""


class Datagrams(asyncio.DatagramProtocol):
    """A UDP socket with an agent behind it."""

    def __init__(self, agent_of: Callable[[Address], Agent], target: Address) -> None:
        self._agent_of = agent_of
        self._target = (target.host, target.port)
        self.seen: dict[str, asyncio.Future[None]] = {}  # branch of a probe -> its answer
        self.agent: Agent
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)  # the loop's own is no subclass in 3.11
        self.agent = self._agent_of(Address(*transport.get_extra_info("sockname")[:2]))

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        for branch, answer in self.seen.items():
            if branch.encode() in data and not answer.done():
                answer.set_result(None)
        for reply in self.agent.receive(data, time.monotonic()):
            self.send(reply)

    def send(self, data: bytes) -> None:
        self.transport.sendto(data, self._target)


def udp_socket(host: str, port: int = 0) -> socket.socket:
    """A bound UDP socket with a receive buffer for bursts; raises OSError if the port is taken."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


@dataclass(slots=True)
class Stage:
    """A line of the report."""

    name: str
    sent: int = 0
    seconds: float = 0.0
    probes: int = 0
    slowest_probe_ms: float = 0.0


@dataclass(slots=True)
class Options:
    """The command line, checked."""

    target: Address
    rtp_targets: tuple[Address, ...] = ()
    sip: int = 10_000
    rtp: int = 10_000
    seed: int = 1
    rate_hz: float = 500.0
    torture: Path | None = None
    rtp_seeds: tuple[bytes, ...] = ()
    rtcp_seeds: tuple[bytes, ...] = ()
    source: str = "127.0.0.1"
    replay: Path | None = None


class Sender:
    """Runs the stages: paces, probes, and keeps the books."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.codes: Counter[str] = Counter()
        self.stages: list[Stage] = []
        self.agents: list[Agent] = []
        self.tcp_refused = False
        self._due = 0.0
        self._last: deque[bytes] = deque(maxlen=KEPT_FOR_REPLAY)
        self._tcp: set[asyncio.Task[None]] = set()
        self._rng = random.Random(
            f"{options.seed} agent"
        )  # tags and branches of answers, not of what is sent

    # -- plumbing --

    def _agent(self, local: Address, transport: str = "UDP") -> Agent:
        agent = Agent(Hop(local, self.options.target, transport), self._rng, self.codes)
        self.agents.append(agent)
        return agent

    async def _open(self, host: str, port: int = 0) -> Datagrams:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_datagram_endpoint(
            lambda: Datagrams(self._agent, self.options.target), sock=udp_socket(host, port)
        )
        return protocol

    async def _pace(self) -> None:
        """Returns when the next message is due; after a stall at most 10 ms are made up for."""
        now = time.monotonic()
        self._due = max(self._due + 1 / self.options.rate_hz, now - 0.01)
        if self._due > now:
            await asyncio.sleep(self._due - now)
        for link in self.links:
            for data in link.agent.poll(now):
                link.send(data)

    async def _probe(self, stage: Stage) -> None:
        """A clean OPTIONS, repeated as over a lossy network; any answer will do.  Raises Silent."""
        link = self.probe_link
        branch = token(self._rng, 16)
        data = request(self._rng, link.agent.path, "OPTIONS").replace(
            b"branch=z9hG4bK", b"branch=z9hG4bK" + branch.encode()
        )
        answer = asyncio.get_running_loop().create_future()
        link.seen[branch] = answer
        begin = time.monotonic()
        try:
            while not answer.done():
                left = begin + PROBE_TIMEOUT_S - time.monotonic()
                if left <= 0:
                    raise Silent
                link.send(data)
                await asyncio.wait((answer,), timeout=min(RETRANSMIT_S, left))
        finally:
            del link.seen[branch]
            stage.probes += 1
            stage.slowest_probe_ms = max(stage.slowest_probe_ms, (time.monotonic() - begin) * 1000)

    async def _deliver(self, message: Hostile, link: Datagrams) -> None:
        self._last.append(message.data)
        if message.transport == "TCP" and not self.tcp_refused and len(self._tcp) < TCP_AT_ONCE:
            task = asyncio.create_task(self._over_tcp(message.data))
            self._tcp.add(task)
            task.add_done_callback(self._tcp.discard)
        else:
            link.send(message.data)

    async def _over_tcp(self, data: bytes) -> None:
        """One connection for one message; lives `TCP_LIFE_S`, or until the target closes it."""
        target = self.options.target
        try:
            reader, writer = await asyncio.open_connection(
                target.host, target.port, local_addr=(self.options.source, 0)
            )
        except OSError:
            self.tcp_refused = True
            return
        agent = self._agent(Address(*writer.get_extra_info("sockname")[:2]), "TCP")
        buffer = bytearray()
        try:
            async with asyncio.timeout(TCP_LIFE_S):
                writer.write(data)
                while chunk := await reader.read(65536):
                    buffer += chunk
                    for message in split_stream(buffer):
                        for reply in agent.receive(message, time.monotonic()):
                            writer.write(reply)
        except (OSError, TimeoutError):
            pass  # the target's right with such messages
        finally:
            writer.close()

    async def _run(self, name: str, messages: Iterator[Hostile], link: Datagrams) -> None:
        stage = Stage(name)
        self.stages.append(stage)
        begin = time.monotonic()
        try:
            for message in messages:
                await self._pace()
                await self._deliver(message, link)
                stage.sent += 1
                if stage.sent % PROBE_EVERY_MESSAGES == 0:
                    await self._probe(stage)
            await self._probe(stage)
        finally:
            stage.seconds = time.monotonic() - begin

    # -- stages --

    async def run(self) -> bool:
        """All stages; False as soon as the target is silent, Silent if it was before the first message."""
        options = self.options
        link = await self._open(options.source)
        self.probe_link = await self._open(options.source)
        self.links = [link, self.probe_link]
        await self._probe(Stage("before"))
        alive = True
        try:
            if options.torture is not None:
                await self._run(
                    "torture", iter(torture_messages(options.torture)), await self._torture_link(link)
                )
            await self._crash(link)
            await self._run("sip", self._mutations(link.agent.path), link)
            if options.rtp_targets and options.rtp:
                await self._rtp()
            await self._settle()
        except Silent:
            alive = False
            self._keep()
        for task in self._tcp:
            task.cancel()
        await asyncio.gather(*self._tcp, return_exceptions=True)
        for one in self.links:
            one.transport.close()
        return alive

    async def _torture_link(self, link: Datagrams) -> Datagrams:
        """Torture messages have Vias without rport: answers go to port 5060 of the address they came from."""
        for host in (self.options.source, "127.0.0.2"):
            try:
                found = await self._open(host, 5060)
            except OSError:
                continue
            self.links.append(found)
            return found
        return link

    async def _crash(self, link: Datagrams) -> None:
        rng = random.Random(f"{self.options.seed} crash")
        path = link.agent.path
        tcp = Hop(path.local, path.target, "TCP")
        await self._run("crash", iter(crash_messages(rng, path, tcp)), link)
        stage = self.stages[-1]
        begin = time.monotonic()
        for message in flood_messages(rng, path):
            self._last.append(message.data)
            link.send(message.data)
            stage.sent += 1
            await asyncio.sleep(FLOOD_S / FLOOD_INVITES)
        await self._probe(stage)
        stage.seconds += time.monotonic() - begin

    def _mutations(self, path: Hop) -> Iterator[Hostile]:
        rng = random.Random(f"{self.options.seed} sip")
        tcp = Hop(path.local, path.target, "TCP")
        for index in range(self.options.sip):
            yield mutated_sip(rng, tcp if index % TCP_SHARE == TCP_SHARE - 1 else path)

    async def _rtp(self) -> None:
        options = self.options
        rng = random.Random(f"{options.seed} rtp")
        streams = {target: RtpStream.start(rng) for target in options.rtp_targets}
        stage = Stage("rtp")
        self.stages.append(stage)
        begin = time.monotonic()
        with udp_socket(options.source) as sock:
            for index in range(options.rtp):
                await self._pace()
                target = rng.choice(options.rtp_targets)
                rtcp = rng.random() < 0.25
                data = (mutated_rtcp if rtcp else mutated_rtp)(
                    rng, streams[target], options.rtcp_seeds if rtcp else options.rtp_seeds
                )
                # RTCP at its own port and, as with rtcp-mux (RFC 5761), at the media port.
                port = target.port + (1 if rtcp and rng.random() < 0.7 else 0)
                with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                    sock.sendto(data, (target.host, port))
                stage.sent += 1
                if (index + 1) % PROBE_EVERY_MESSAGES == 0:
                    await self._probe(stage)
        await self._probe(stage)
        stage.seconds = time.monotonic() - begin

    async def _settle(self) -> None:
        """Waits until every call that came about is ended, or given up."""
        while any(link.agent.waiting for link in self.links) or self._tcp:
            await asyncio.sleep(0.05)
            await self._pace()

    def _keep(self) -> None:
        if self.options.replay is not None:
            self.options.replay.mkdir(parents=True, exist_ok=True)
            for index, data in enumerate(self._last):
                (self.options.replay / f"{index:03d}.bin").write_bytes(data)


# ------------------------------------------------------------------------------------------------------------
# Command line
# ------------------------------------------------------------------------------------------------------------


def loopback(text: str) -> Address:
    """`host:port` of this machine.  Raises ValueError for anything else: no tool against other people."""
    host, colon, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        address = ipaddress.IPv4Address(host)
        number = int(port)
    except ValueError:
        raise ValueError(f"{text!r} is no IPv4 address and port, such as 127.0.0.1:5060") from None
    if not address.is_loopback:
        raise ValueError(f"{text!r} is not on this machine: only 127.0.0.0/8 may be attacked")
    if not colon or not 0 < number < 65536:
        raise ValueError(f"{text!r}: the port must be 1 to 65535")
    return Address(host, number)


def options_of(arguments: Sequence[str]) -> Options:
    """Reads the command line.  Raises ValueError for values that cannot be used; exits on syntax errors."""
    parser = argparse.ArgumentParser(
        prog="loadtests.hostile", description=__doc__.split("\n", 1)[0] if __doc__ else None
    )
    parser.add_argument(
        "--target", required=True, metavar="HOST:PORT", help="SIP port of the gateway, on this machine"
    )
    parser.add_argument("--rtp-targets", default="", metavar="HOST:PORT,...", help="RTP ports of live calls")
    parser.add_argument("--sip", type=int, default=10_000, help="mutated SIP messages (default %(default)s)")
    parser.add_argument(
        "--rtp", type=int, default=10_000, help="mutated RTP and RTCP packets (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=500.0, help="messages per second (default %(default)s)")
    parser.add_argument("--torture", type=Path, help="folder of the RFC 4475 messages, *.dat")
    parser.add_argument("--rtp-seeds", type=Path, help="folder of RTP packets to mutate, one a file")
    parser.add_argument("--rtcp-seeds", type=Path, help="folder of RTCP packets to mutate, one a file")
    parser.add_argument(
        "--source", default="127.0.0.1", help="own address in 127.0.0.0/8 (default %(default)s)"
    )
    parser.add_argument(
        "--replay", type=Path, help="folder for the last 200 messages, if the target falls silent"
    )
    given = parser.parse_args(arguments)
    if given.rate <= 0 or given.sip < 0 or given.rtp < 0:
        raise ValueError("--rate must be above 0, --sip and --rtp not below")
    loopback(f"{given.source}:1")
    return Options(
        target=loopback(given.target),
        rtp_targets=tuple(loopback(text) for text in given.rtp_targets.split(",") if text),
        sip=given.sip,
        rtp=given.rtp,
        seed=given.seed,
        rate_hz=given.rate,
        torture=given.torture,
        rtp_seeds=_contents(given.rtp_seeds),
        rtcp_seeds=_contents(given.rtcp_seeds),
        source=given.source,
        replay=given.replay,
    )


def _contents(folder: Path | None) -> tuple[bytes, ...]:
    if folder is None:
        return ()
    found = tuple(file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file())
    if not found:
        raise ValueError(f"{folder} has no files")
    return found


def report(sender: Sender, alive: bool) -> dict[str, object]:
    """The JSON line: messages sent by stage, responses by status code, the longest silence.

    `longest_silence_ms` is the longest time from a clean OPTIONS to its answer, or waited for it in vain.
    `left_open` counts calls whose BYE or CANCEL had no answer.
    """
    sent = {stage.name: stage.sent for stage in sender.stages}
    return {
        **{name: sent.get(name, 0) for name in ("torture", "crash", "sip", "rtp")},
        "answered_by_code": dict(sorted(sender.codes.items())),
        "alive": alive,
        "longest_silence_ms": round(max((stage.slowest_probe_ms for stage in sender.stages), default=0.0), 1),
        "hung_up": sum(agent.hung_up for agent in sender.agents),
        "left_open": sum(agent.given_up + agent.waiting for agent in sender.agents),
        "tcp": not sender.tcp_refused,
        "seed": sender.options.seed,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """0: the target answered to the end; 1: it fell silent; 2: it never answered, or a bad command line."""
    try:
        options = options_of(sys.argv[1:] if arguments is None else arguments)
        sender = Sender(options)
        alive = asyncio.run(sender.run())
    except (ValueError, OSError) as error:
        print(f"hostile: {error}", file=sys.stderr)
        return 2
    except Silent:
        print(
            f"hostile: {options.target} does not answer an OPTIONS over UDP: is the gateway up?",
            file=sys.stderr,
        )
        return 2
    print(f"{'stage':<10}{'sent':>8}{'seconds':>9}{'probes':>8}{'slowest':>11}")
    for stage in sender.stages:
        line = f"{stage.name:<10}{stage.sent:>8}{stage.seconds:>9.1f}{stage.probes:>8}"
        print(f"{line}{stage.slowest_probe_ms:>8.1f} ms")
    if not alive:
        stage = sender.stages[-1]
        print(f"silent in stage {stage.name}, at or before message {stage.sent} of it, seed {options.seed}")
    print(json.dumps(report(sender, alive)))
    return 0 if alive else 1


if __name__ == "__main__":
    sys.exit(main())
