"""The session descriptions of a one-codec audio call (RFC 8866, offer and answer by RFC 3264).

Knows one audio stream over RTP/AVP with telephone events, nothing of dialogs. One rule: a description from
a peer never raises; what has no usable audio comes back as None.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

TELEPHONE_EVENT_PAYLOAD_TYPE = 101
PTIME_MS = 20

# RFC 3551 table 4: payload types that need no rtpmap. G.722 has 16 kHz audio on an 8 kHz RTP clock.
STATIC_PAYLOAD_TYPES = {0: "PCMU", 8: "PCMA", 9: "G722"}
_ANSWERS = {"sendonly": "recvonly", "recvonly": "sendonly", "inactive": "inactive"}


@dataclass(frozen=True, slots=True)
class RemoteAudio:
    """What a peer's description says about its audio stream."""

    host: str
    port: int
    codecs: dict[int, str]  # payload type -> upper-case encoding name, in the peer's order
    direction: str  # the peer's view: sendrecv, sendonly, recvonly or inactive

    @property
    def wants_audio(self) -> bool:
        """Whether we may send to it."""
        return (
            self.direction in ("sendrecv", "recvonly")
            and self.port != 0
            and self.host not in ("0.0.0.0", "::")
        )

    def payload_type(self, codec: str) -> int | None:
        """The peer's number for a codec, or None."""
        return next((number for number, name in self.codecs.items() if name == codec), None)


def describe(
    host: str, port: int, codec: str, payload_type: int, *, version: int = 1, direction: str = "sendrecv"
) -> bytes:
    """Our offer or answer: one codec, telephone-event, 20 ms packets. `version` grows with each change."""
    family = "IP6" if ":" in host else "IP4"
    lines = [
        "v=0",
        f"o=- {port} {version} IN {family} {host}",
        "s=microturn",
        f"c=IN {family} {host}",
        "t=0 0",
        f"m=audio {port} RTP/AVP {payload_type} {TELEPHONE_EVENT_PAYLOAD_TYPE}",
        f"a=rtpmap:{payload_type} {codec}/8000",
        f"a=rtpmap:{TELEPHONE_EVENT_PAYLOAD_TYPE} telephone-event/8000",
        f"a=fmtp:{TELEPHONE_EVENT_PAYLOAD_TYPE} 0-15",
        f"a=ptime:{PTIME_MS}",
        f"a={direction}",
        "",
    ]
    return "\r\n".join(lines).encode()


def parse_audio(body: bytes) -> RemoteAudio | None:
    """The first audio stream of a description, or None. Never raises."""
    host, session_host, port, numbers = "", "", -1, []
    names: dict[int, str] = {}
    direction = session_direction = ""
    in_audio = in_media = False
    for line in body.decode("utf-8", "replace").splitlines():
        kind, _, value = line.strip().partition("=")
        if kind == "m":
            in_media, in_audio = True, False
            match = re.match(r"audio (\d{1,5})(?:/\d+)? \S+((?: \d{1,3})+)", value)
            if match and port < 0:
                in_audio, port, numbers = True, int(match[1]), [int(n) for n in match[2].split()]
        elif kind == "c" and (match := re.match(r"IN IP[46] ([0-9A-Fa-f.:]+)", value)):
            host, session_host = (match[1], session_host) if in_audio else (host, session_host or match[1])
        elif kind == "a" and (in_audio or not in_media):
            if match := re.match(r"rtpmap:(\d{1,3}) ([^/\s]+)/\d+", value):
                names[int(match[1])] = match[2].upper()
            elif value in ("sendrecv", *_ANSWERS):
                direction, session_direction = (value, session_direction) if in_audio else (direction, value)
    address = host or session_host
    if not 0 <= port <= 65535 or not _is_address(address):
        return None
    codecs = {n: names.get(n) or STATIC_PAYLOAD_TYPES.get(n, "?") for n in numbers}
    return RemoteAudio(address, port, codecs, direction or session_direction or "sendrecv")


def answer_direction(offered: str) -> str:
    """Our direction in answer to the peer's (RFC 3264 section 6.1)."""
    return _ANSWERS.get(offered, "sendrecv")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
