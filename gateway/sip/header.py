# SPDX-License-Identifier: GPL-3.0-or-later
"""One SIP header field: its octets, its values, Via and addresses (RFC 3261 sections 20 and 25.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

TOKEN: Final = rb"[A-Za-z0-9\-.!%*_+`'~]+"
URI: Final = rb"[A-Za-z][A-Za-z0-9+.\-]*:[^\s<>\"\x00-\x20\x7f]+"

_QUOTED: Final = rb'"(?:[^"\\]|\\.)*+"'
_VALUE = re.compile(rb"(?:" + _QUOTED + rb'|<[^>]*>|[^",<])+', re.S)
_VIA = re.compile(
    rb"SIP\s*/\s*2\.0\s*/\s*(" + TOKEN + rb")\s+(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+)"
    rb"\s*(?::\s*([0-9]{1,5}))?\s*((?:;.*)?)",
    re.I | re.S,
)
_GEN_VALUE: Final = rb"(?:" + TOKEN + rb"|\[[0-9A-Fa-f:.]+\]|" + _QUOTED + rb")"
_PARAM: Final = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*%b)?" % (TOKEN, _GEN_VALUE)
_NAME_ADDR: Final = rb"(?:%b|(?:%b[ \t]*+)*+)[ \t]*<%b>" % (_QUOTED, TOKEN, URI)
_ADDR_SPEC: Final = rb"[A-Za-z][A-Za-z0-9+.\-]*:[^\s<>\",;?\x00-\x20\x7f]+"  # with `,;?` only in <> (20.10)
_ADDRESS = re.compile(rb"(?:%b|%b)((?:%b)*+)[ \t]*" % (_NAME_ADDR, _ADDR_SPEC, _PARAM), re.S)
_TAG = re.compile(rb";[ \t]*tag[ \t]*=[ \t]*(" + TOKEN + rb")", re.I)
_QUOTED_OR_URI = re.compile(_QUOTED + rb"|<[^>]*>", re.S)


class Header(NamedTuple):
    """One header field.  `name` is lower case and in full, `value` unfolded and stripped, `raw` the line
    as it came."""

    name: bytes
    value: bytes
    raw: bytes

    @classmethod
    def make(cls, name: bytes, value: bytes) -> Header:
        """A header of our own; `name` as it shall be written."""
        return cls(name.lower(), value, name + b": " + value)


class BadMessage(Exception):
    """A peer's message that we refuse: SIP `status` and `reason`, and what is needed to answer it.

    `method` is empty for a response or for what was no SIP at all; that and ACK must not be answered.
    `headers` are the fields read so far.  `fatal` says that a stream cannot be framed any further.
    """

    def __init__(self, status: int, reason: str, extra: tuple[Header, ...] = (), fatal: bool = False) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.extra = extra
        self.fatal = fatal
        self.method = b""
        self.headers: list[Header] = []

    def about(self, method: bytes, headers: list[Header]) -> BadMessage:
        """The same, bound to the message that it is about."""
        self.method, self.headers = method, headers
        return self


@dataclass(frozen=True, slots=True)
class Via:
    """One Via value (RFC 3261 20.42); `params` have lower case names, None where no value is given."""

    transport: bytes
    host: bytes
    port: int | None
    params: dict[bytes, bytes | None]

    @property
    def branch(self) -> bytes:
        return self.params.get(b"branch") or b""

    @property
    def sent_by(self) -> bytes:
        return self.host if self.port is None else b"%b:%d" % (self.host, self.port)

    def render(self) -> bytes:
        tail = b"".join(b";" + k if v is None else b";%b=%b" % (k, v) for k, v in self.params.items())
        return b"SIP/2.0/%b %b%b" % (self.transport, self.sent_by, tail)


def find(headers: Iterable[Header], name: bytes) -> bytes | None:
    """Value of the first header called `name` (lower case, long form), or None."""
    for header in headers:
        if header.name == name:
            return header.value
    return None


def split_values(value: bytes) -> list[bytes]:
    """Split a header value at commas outside of quotes and angle brackets (RFC 3261 7.3.1)."""
    if b'"' not in value and b"<" not in value:
        return [part.strip() for part in value.split(b",")]
    parts, at = [], 0
    while True:
        match = _VALUE.match(value, at)
        if match is None:
            raise BadMessage(400, "Bad Header Value")
        parts.append(match[0].strip())
        at = match.end()
        if at == len(value):
            return parts
        if value[at : at + 1] != b",":
            raise BadMessage(400, "Bad Header Value")
        at += 1


def pop_value(headers: list[Header], name: bytes) -> list[Header]:
    """Without the first value of the first header `name`, which may hold several."""
    for at, header in enumerate(headers):
        if header.name == name:
            rest = split_values(header.value)[1:]
            kept = [Header.make(name.title(), b", ".join(rest))] if rest else []
            return headers[:at] + kept + headers[at + 1 :]
    return headers


def media_type(headers: Iterable[Header]) -> bytes:
    """Content-Type without parameters, lower case and without white space; empty when there is none."""
    value = find(headers, b"content-type") or b""
    return b"".join(value.split(b";", 1)[0].lower().split())


def parse_via(value: bytes) -> Via:
    """Parse one Via value; raises BadMessage(400)."""
    match = _VIA.fullmatch(value)
    if match is None:
        raise BadMessage(400, "Bad Via")
    transport, host, port, tail = match.groups()
    params: dict[bytes, bytes | None] = {}
    for item in tail.split(b";")[1:]:
        name, equals, text = item.partition(b"=")
        name = name.strip().lower()
        if not name or name in params:
            raise BadMessage(400, "Bad Via")
        params[name] = text.strip() if equals else None
    number = None if port is None else int(port)
    if number is not None and not 0 < number < 65536:
        raise BadMessage(400, "Bad Via")
    return Via(transport.upper(), host, number, params)


def check_address(value: bytes) -> None:
    """Raise BadMessage(400) unless a From, To or Contact value is a name-addr or addr-spec with parameters
    (25.1).

    Else pjsip would take an INVITE with `"a"b" <sip:c@d>` and ignore the BYE that carries the same: such a
    call would never end.
    """
    if not _ADDRESS.fullmatch(value):
        raise BadMessage(400, "Bad Address")


def tag_of(value: bytes) -> bytes:
    """Tag of a From or To value, empty without one."""
    match = _TAG.search(_QUOTED_OR_URI.sub(b"", value))
    return match[1] if match else b""
