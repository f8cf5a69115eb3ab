"""Messages that are as they should be: pure functions of a random.Random.

What is hostile about them is put in by `known` and `mutations`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

MAX_DATAGRAM = 60_000  # bytes


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
