# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a transferred call may be sent: the operator's list, and what one Refer-To asks for (RFC 3515 2.1)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from gateway.sip.header import BadMessage, Header, check_address, split_values

MAX_TARGET_BYTES: Final = 255
DEFAULT_PORT: Final = 5060

_TRANSPORTS: Final[dict[bytes, Literal["udp", "tcp", "tls"]]] = {b"udp": "udp", b"tcp": "tcp", b"tls": "tls"}
_PATTERN = re.compile(
    r"(\[[0-9a-f:.]+\]|(?:\*\.)?[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::([0-9]{1,5}))?", re.ASCII
)
_IN_BRACKETS = re.compile(rb'(?:"(?:[^"\\]|\\.)*+"|[^"<])*+<([^>]*)>', re.S)
_SIP_URI = re.compile(
    rb"sip:(?:[^@<>?\s\"]+@)?(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::([0-9]{1,5}))?((?:;[^;@<>?\s\"]+)*)", re.I
)


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to call: `uri` becomes the Request-URI, the rest is where it is sent (without RFC 3263's SRV)."""

    uri: bytes
    host: str
    port: int
    transport: Literal["udp", "tcp", "tls"]
    name: str = ""
    """Whose certificate it has to show, with TLS."""

    @property
    def is_numeric(self) -> bool:
        """Whether `host` is an address already."""
        return _address(self.host) is not None


class Targets:
    """Hosts that callers may have themselves transferred to: `HOST`, `HOST:PORT`, `*.DOMAIN`, `*.DOMAIN:PORT`.

    Without a port any port is meant.  Raises ValueError for what is no such pattern.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._allowed = [_pattern(text) for text in patterns]

    def __bool__(self) -> bool:
        return bool(self._allowed)

    def allows(self, target: Target) -> bool:
        """Whether the operator listed this host."""
        return any(
            port in (None, target.port)
            and (target.host.endswith(host[1:]) if host.startswith("*.") else target.host == host)
            for host, port in self._allowed
        )


def target_of(headers: Iterable[Header]) -> Target:
    """What a REFER asks for.  Raises BadMessage: 400 unless there is exactly one Refer-To (RFC 3515 2.4.2),
    403 for what we do not dial: other schemes, methods and transports, and headers (as Replaces) in the URI."""
    values = [value for h in headers if h.name == b"refer-to" for value in split_values(h.value)]
    if len(values) != 1:
        raise BadMessage(400, "One Refer-To Required")
    check_address(values[0])
    match = _IN_BRACKETS.match(values[0])
    uri = match[1] if match else values[0].split(b";")[0].strip()
    if len(uri) > MAX_TARGET_BYTES:
        raise BadMessage(414, "Refer-To Too Long")
    return _target(uri)


def target_of_uri(uri: bytes) -> Target:
    """Where an address of the operator's own leads.  Raises BadMessage(403) for what we do not dial."""
    return _target(uri, tls=True)


def _target(uri: bytes, tls: bool = False) -> Target:
    match = _SIP_URI.fullmatch(uri)
    if match is None or not uri.isascii():
        raise BadMessage(403, "Target Not Supported")
    params: dict[bytes, bytes] = {}
    kept = []
    for item in match[3].split(b";")[1:]:
        name, _, value = item.lower().partition(b"=")
        if name in params or name in (b"maddr", b"lr"):  # would lead elsewhere
            raise BadMessage(403, "Target Not Supported")
        params[name] = value
        if name != b"method":  # RFC 3261 19.1.5: no part of the Request-URI
            kept.append(b";" + item)
    transport = params.get(b"transport", b"udp")
    port = int(match[2] or DEFAULT_PORT)
    bad = params.get(b"method", b"invite") != b"invite" or not 0 < port < 65536
    if bad or transport not in ((b"udp", b"tcp", b"tls") if tls else (b"udp", b"tcp")):
        raise BadMessage(403, "Target Not Supported")
    host = _plain(match[1].decode("ascii"))
    short = uri[: match.start(3)] + b"".join(kept)
    return Target(short, host, port, _TRANSPORTS[transport])


def _plain(host: str) -> str:
    """As it is compared: lower case, no brackets, no dot at the end, addresses in one way of writing."""
    host = host.lower().strip("[]").rstrip(".")
    return _address(host) or host


def _address(host: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def _pattern(text: str) -> tuple[str, int | None]:
    match = _PATTERN.fullmatch(text.lower())
    port = int(match[2]) if match and match[2] else None
    if match is None or port == 0 or (port or 0) > 65535:
        raise ValueError(
            f"{text!r} is no target: give HOST, HOST:PORT or *.DOMAIN, such as pbx.example.net or 192.0.2.7:5060"
        )
    return _plain(match[1]), port
