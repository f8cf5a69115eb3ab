# SPDX-License-Identifier: GPL-3.0-or-later
"""SIP messages as bytes in, values out (RFC 3261 section 7): parsing, framing and rendering.

This file knows no socket, clock or call.  Its one rule: whatever arrives, the only thing raised is
`BadMessage`.
A header keeps the octets it came with, so what is not understood here passes through unchanged.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from gateway.sip.header import (
    TOKEN,
    URI,
    BadMessage,
    Header,
    Via,
    check_address,
    parse_via,
    split_values,
    tag_of,
)

MAX_MESSAGE_BYTES: Final = 8_000
MAX_HEADERS: Final = 100
MAX_HEADER_BYTES: Final = 2_000
MAX_URI_BYTES: Final = 1_000
MAX_CALL_ID_BYTES: Final = 255
MAX_CSEQ: Final = 2**31 - 1  # RFC 3261 8.1.1.5

_CRLF: Final = b"\r\n"
_HEAD_END: Final = b"\r\n\r\n"
_NAME = re.compile(rb"(" + TOKEN + rb")[ \t]*", re.ASCII)
_URI = re.compile(URI)
_METHOD = re.compile(TOKEN)
_STRAY = re.compile(rb"\x00|\r(?!\n)|(?<!\r)\n")
_LINE_BREAK = re.compile(rb"\r\n(?![ \t])")  # a line that begins with white space continues the one before
_FOLD = re.compile(rb"[ \t]*\r\n[ \t]+")
_LENGTH = re.compile(rb"\r\n(?:content-length|l)[ \t]*:\s*([0-9]{1,9})[ \t]*(?=\r\n(?![ \t]))", re.I)
_CSEQ = re.compile(rb"([0-9]{1,24})[ \t]+(" + TOKEN + rb")")
_CALL_ID = re.compile(rb"[\x21-\x7e]+")
_STATUS_LINE = re.compile(rb"SIP/2\.0 ([1-6][0-9]{2}) ([^\r\n]*)")
_COMPACT: Final = {  # RFC 3261 7.3.3, 3515, 3892, 4028, 6665
    b"a": b"accept-contact", b"b": b"referred-by", b"c": b"content-type", b"d": b"request-disposition",
    b"e": b"content-encoding", b"f": b"from", b"i": b"call-id", b"j": b"reject-contact", b"k": b"supported",
    b"l": b"content-length", b"m": b"contact", b"o": b"event", b"r": b"refer-to", b"s": b"subject", b"t":
    b"to",
    b"u": b"allow-events", b"v": b"via", b"x": b"session-expires", b"y": b"identity",
}  # fmt: skip
_SINGLE: Final = frozenset(
    (b"from", b"to", b"call-id", b"cseq", b"max-forwards", b"content-length", b"content-type")
)
_ECHOED: Final = (b"via", b"from", b"to", b"call-id", b"cseq")  # RFC 3261 8.2.6.2


@dataclass(frozen=True, slots=True)
class Request:
    """A well-formed request.  `via` is the topmost Via; `from_tag` and `to_tag` are empty when there is
    none."""

    method: bytes
    uri: bytes
    headers: list[Header]
    body: bytes
    via: Via
    call_id: bytes
    cseq: int
    from_tag: bytes
    to_tag: bytes

    @property
    def start_line(self) -> bytes:
        return b"%b %b SIP/2.0" % (self.method, self.uri)

    def with_headers(self, headers: list[Header], via: Via) -> Request:
        """A copy with other headers, whose topmost Via is `via`."""
        return replace(self, headers=headers, via=via)


@dataclass(frozen=True, slots=True)
class Response:
    """A well-formed response.  `method` is that of its CSeq."""

    status: int
    start_line: bytes
    headers: list[Header]
    body: bytes
    via: Via
    method: bytes
    call_id: bytes
    cseq: int


Message = Request | Response


def parse(data: bytes) -> Message:
    """Parse one datagram (RFC 3261 18.3): octets past Content-Length are cut off, fewer are an error.

    Raises BadMessage, and nothing else, for whatever it refuses.
    """
    data = data.lstrip(_CRLF)
    end = data.find(_HEAD_END, 0, MAX_MESSAGE_BYTES)
    if end < 0:
        raise BadMessage(513 if len(data) > MAX_MESSAGE_BYTES else 400, "Headers Do Not End")
    message = _parse_head(data[: end + 2], len(data) - end - 4, stream=False)
    length = _content_length(message.headers)
    body = data[end + 4 :] if length is None else data[end + 4 : end + 4 + length]
    return replace(message, body=body) if body else message


def render(start_line: bytes, headers: Iterable[Header], body: bytes) -> bytes:
    """Octets of a message.  Content-Length is added where it is missing; a wrong one is the caller's
    fault."""
    lines = [start_line]
    has_length = False
    for name, _, raw in headers:
        lines.append(raw)
        has_length = has_length or name == b"content-length"
    if not has_length:
        lines.append(b"Content-Length: %d" % len(body))
    lines.append(b"")
    lines.append(body)
    return _CRLF.join(lines)


def reply(
    headers: Iterable[Header], status: int, reason: str, tag: bytes, extra: Iterable[Header] = ()
) -> bytes:
    """A response without a body to the request with `headers` (RFC 3261 8.2.6); `tag` goes to a To without
    one."""
    kept: list[Header] = []
    seen: set[bytes] = set()
    for header in headers:
        if header.name not in _ECHOED or (header.name != b"via" and header.name in seen):
            continue
        seen.add(header.name)
        if header.name == b"to" and status > 100 and not tag_of(header.value):
            header = Header.make(b"To", header.value + b";tag=" + tag)
        kept.append(header)
    kept.extend(extra)
    line = b"SIP/2.0 %d %b" % (status, reason.encode("ascii", "replace"))
    return render(line, kept, b"")


class StreamParser:
    """Frames messages on a stream (RFC 3261 18.3, keep-alive of RFC 5626 4.4.1).  Holds at most one
    message."""

    PING: Final[Literal["ping"]] = "ping"

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._dead = False

    def feed(self, data: bytes) -> list[Message | BadMessage | Literal["ping"]]:
        """Take octets; give messages, refusals and pings (to be answered by one CRLF) in order.

        After a `BadMessage` with `fatal` the connection must be closed; further octets are ignored.
        """
        return [item.parse() if isinstance(item, Framed) else item for item in self.frames(data)]

    def frames(self, data: bytes) -> list[Framed | BadMessage | Literal["ping"]]:
        """As `feed`, with messages that are not parsed yet."""
        found: list[Framed | BadMessage | Literal["ping"]] = []
        if self._dead:
            return found
        self._buffer += data
        try:
            while (item := self._next()) is not None:
                found.append(item)
        except BadMessage as bad:
            bad.fatal = self._dead = True
            self._buffer.clear()
            found.append(bad)
        return found

    def _next(self) -> Framed | Literal["ping"] | None:
        buffer = self._buffer
        if buffer[:4] == _HEAD_END:
            del buffer[:4]
            return self.PING
        if buffer[:2] == _CRLF and len(buffer) > 2 and buffer[2:3] != b"\r":
            del buffer[:2]  # a pong, or the CRLF that RFC 3261 7.5 allows before a start line
        if buffer[:1] == b"\r" and len(buffer) < 4:
            return None
        end = buffer.find(_HEAD_END, 0, MAX_MESSAGE_BYTES)
        if end < 0:
            if len(buffer) >= MAX_MESSAGE_BYTES:
                raise BadMessage(513, "Message Too Large")
            return None
        head = bytes(buffer[: end + 2])
        length = _stream_length(head)
        total = end + 4 + length
        if total > MAX_MESSAGE_BYTES:
            raise _refused(head, BadMessage(513, "Message Too Large"))
        if len(buffer) < total:
            return None
        body = bytes(buffer[end + 4 : total])
        del buffer[:total]
        return Framed(head, body)


@dataclass(frozen=True, slots=True)
class Framed:
    """A whole message of a stream; `head` ends with the last header's line break."""

    head: bytes
    body: bytes

    def parse(self) -> Message | BadMessage:
        """What it says, or why that is refused."""
        try:
            message = _parse_head(self.head, len(self.body), stream=True)
        except BadMessage as bad:
            return bad
        return replace(message, body=self.body) if self.body else message


def _stream_length(head: bytes) -> int:
    lengths = _LENGTH.findall(head)
    if len(lengths) != 1:  # RFC 3261 18.3: a stream cannot be framed without it
        raise _refused(head, BadMessage(400, "Content-Length Required"))
    return int(lengths[0])


def _refused(head: bytes, bad: BadMessage) -> BadMessage:
    """Bind `bad` to as much of the head as can be read."""
    lines = _LINE_BREAK.split(head[:-2])
    headers: list[Header] = []
    with contextlib.suppress(BadMessage):
        _read_headers(lines[1:], headers)
    return bad.about(_method_of(lines[0]), headers)


def _method_of(start_line: bytes) -> bytes:
    first = start_line.split(b" ", 1)[0]
    return first if not first.startswith(b"SIP/") and _METHOD.fullmatch(first) else b""


def _parse_head(head: bytes, body_bytes: int, stream: bool) -> Message:
    lines = _LINE_BREAK.split(head[:-2])
    headers: list[Header] = []
    try:
        if _STRAY.search(head):
            raise BadMessage(400, "Control Character")
        _read_headers(lines[1:], headers)
        if len(head) + 2 + body_bytes > MAX_MESSAGE_BYTES:
            raise BadMessage(513, "Message Too Large")
        return _assemble(lines[0], headers, body_bytes)
    except BadMessage as bad:
        raise bad.about(_method_of(lines[0]), headers) from None


def _read_headers(lines: list[bytes], headers: list[Header]) -> list[Header]:
    """Append to `headers`, which on an error holds what came before it."""
    if len(lines) > MAX_HEADERS:
        del lines[MAX_HEADERS:]
        _read_headers(lines, headers)
        raise BadMessage(400, "Too Many Headers")
    wrong: BadMessage | None = None
    for line in lines:
        name, colon, value = line.partition(b":")
        match = _NAME.fullmatch(name)
        if not colon or match is None:
            wrong = BadMessage(400, "Bad Header")
            continue
        if len(line) > MAX_HEADER_BYTES:
            wrong = BadMessage(400, "Header Too Long")
            continue
        if b"\n" in value:
            value = _FOLD.sub(b" ", value)
        key = match[1].lower()
        headers.append(Header(_COMPACT.get(key, key), value.strip(b" \t"), line))
    if wrong is not None:
        raise wrong
    return headers


def _content_length(headers: list[Header]) -> int | None:
    """Octets announced, or None.  Raises BadMessage(400) when it is no number or is given twice."""
    values = [header.value for header in headers if header.name == b"content-length"]
    if not values:
        return None
    if len(values) > 1 or not values[0].isdigit() or len(values[0]) > 9:
        raise BadMessage(400, "Bad Content-Length")
    return int(values[0])


def _assemble(start_line: bytes, headers: list[Header], body_bytes: int) -> Message:
    is_response = start_line.startswith(b"SIP/")
    if is_response:
        status = _STATUS_LINE.fullmatch(start_line)
        if status is None:
            raise BadMessage(400, "Bad Status Line")
    else:
        method, uri = _request_line(start_line)
    first: dict[bytes, bytes] = {}
    for header in headers:
        if header.name not in first:
            first[header.name] = header.value
        elif header.name in _SINGLE:
            raise BadMessage(400, "Repeated Header")
    for name in _ECHOED:
        if not first.get(name):
            raise BadMessage(400, f"Missing {name.decode().title()}")
    call_id = first[b"call-id"]
    if len(call_id) > MAX_CALL_ID_BYTES or not _CALL_ID.fullmatch(call_id):
        raise BadMessage(400, "Bad Call-ID")
    cseq = _CSEQ.fullmatch(first[b"cseq"])
    if cseq is None or int(cseq[1]) > MAX_CSEQ:
        raise BadMessage(400, "Bad CSeq")
    length = _content_length(headers)
    if length is not None and length > body_bytes:
        raise BadMessage(400, "Body Too Short")
    check_address(first[b"from"])
    check_address(first[b"to"])
    via = parse_via(split_values(first[b"via"])[0])
    if is_response:
        assert status is not None
        return Response(int(status[1]), start_line, headers, b"", via, bytes(cseq[2]), call_id, int(cseq[1]))
    if cseq[2] != method:
        raise BadMessage(400, "CSeq Method Differs")
    if b"contact" in first:
        _check_contacts(method, headers)
    from_tag, to_tag = tag_of(first[b"from"]), tag_of(first[b"to"])
    return Request(method, uri, headers, b"", via, call_id, int(cseq[1]), from_tag, to_tag)


def _check_contacts(method: bytes, headers: list[Header]) -> None:
    """Raises BadMessage(400) for a Contact that is no list of addresses; `*` is for REGISTER (20.10)."""
    for header in headers:
        if header.name == b"contact" and (method, header.value) != (b"REGISTER", b"*"):
            for value in split_values(header.value):
                check_address(value)


def _request_line(line: bytes) -> tuple[bytes, bytes]:
    parts = line.split(b" ")
    if len(parts) != 3 or not _METHOD.fullmatch(parts[0]):
        raise BadMessage(400, "Bad Request Line")
    method, uri, version = parts
    if version.upper() != b"SIP/2.0":
        raise BadMessage(505 if version[:4].upper() == b"SIP/" else 400, "Version Not Supported")
    if len(uri) > MAX_URI_BYTES:
        raise BadMessage(414, "Request-URI Too Long")
    if not _URI.fullmatch(uri):
        raise BadMessage(400, "Bad Request-URI")
    if uri.partition(b":")[0].lower() not in (b"sip", b"sips", b"tel"):
        raise BadMessage(416, "Unsupported URI Scheme")
    if b"?" in uri.rpartition(b"@")[2]:
        raise BadMessage(400, "Headers In Request-URI")  # RFC 3261 19.1.1
    return method, uri
