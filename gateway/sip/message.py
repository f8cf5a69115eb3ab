# SPDX-License-Identifier: GPL-3.0-or-later
"""SIP messages as bytes in, values out (RFC 3261 section 7): parsing, framing and the screen in front of
the workers.

This file knows no socket, clock or call.  Its one rule: whatever arrives, the only thing raised is
`BadMessage`.
A header keeps the octets it came with, so what is not understood here passes through unchanged.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

MAX_MESSAGE_BYTES: Final = 8_000
MAX_HEADERS: Final = 100
MAX_HEADER_BYTES: Final = 2_000
MAX_URI_BYTES: Final = 1_000
MAX_CALL_ID_BYTES: Final = 255
MAX_SDP_LINE_BYTES: Final = 200  # pjsua2 aborts on addresses of 254 and more
MAX_SDP_MEDIA: Final = 8
MAX_CSEQ: Final = 2**31 - 1  # RFC 3261 8.1.1.5

_CRLF: Final = b"\r\n"
_HEAD_END: Final = b"\r\n\r\n"
_TOKEN: Final = rb"[A-Za-z0-9\-.!%*_+`'~]+"
_NAME = re.compile(rb"(" + _TOKEN + rb")[ \t]*", re.ASCII)
_METHOD = re.compile(_TOKEN)
_STRAY = re.compile(rb"\x00|\r(?!\n)|(?<!\r)\n")
_LINE_BREAK = re.compile(rb"\r\n(?![ \t])")  # a line that begins with white space continues the one before
_FOLD = re.compile(rb"[ \t]*\r\n[ \t]+")
_LENGTH = re.compile(rb"\r\n(?:content-length|l)[ \t]*:\s*([0-9]{1,9})[ \t]*(?=\r\n(?![ \t]))", re.I)
_CSEQ = re.compile(rb"([0-9]{1,24})[ \t]+(" + _TOKEN + rb")")
_CALL_ID = re.compile(rb"[\x21-\x7e]+")
_STATUS_LINE = re.compile(rb"SIP/2\.0 ([1-6][0-9]{2}) ([^\r\n]*)")
_SCHEME = re.compile(rb"([A-Za-z][A-Za-z0-9+.\-]*):[^\s<>\"\x00-\x20\x7f]+")
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"', re.S)
_TAG = re.compile(rb";\s*tag\s*=\s*(" + _TOKEN + rb")", re.I)
_VALUE = re.compile(rb'(?:"(?:[^"\\]|\\.)*"|<[^>]*>|[^",<])+', re.S)
_VIA = re.compile(
    rb"SIP\s*/\s*2\.0\s*/\s*(" + _TOKEN + rb")\s+(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+)"
    rb"\s*(?::\s*([0-9]{1,5}))?\s*((?:;.*)?)",
    re.I | re.S,
)
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
        if header.name == b"to" and status > 100 and not _TAG.search(header.value):
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
        found: list[Message | BadMessage | Literal["ping"]] = []
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

    def _next(self) -> Message | BadMessage | Literal["ping"] | None:
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
        try:
            message = _parse_head(head, length, stream=True)
        except BadMessage as bad:
            return bad
        return replace(message, body=body) if body else message


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
    from_tag, to_tag = _tag_of(first[b"from"]), _tag_of(first[b"to"])
    via = parse_via(split_values(first[b"via"])[0])
    if is_response:
        assert status is not None
        return Response(int(status[1]), start_line, headers, b"", via, bytes(cseq[2]), call_id, int(cseq[1]))
    if cseq[2] != method:
        raise BadMessage(400, "CSeq Method Differs")
    return Request(method, uri, headers, b"", via, call_id, int(cseq[1]), from_tag, to_tag)


def _request_line(line: bytes) -> tuple[bytes, bytes]:
    parts = line.split(b" ")
    if len(parts) != 3 or not _METHOD.fullmatch(parts[0]):
        raise BadMessage(400, "Bad Request Line")
    method, uri, version = parts
    if version.upper() != b"SIP/2.0":
        raise BadMessage(505 if version[:4].upper() == b"SIP/" else 400, "Version Not Supported")
    if len(uri) > MAX_URI_BYTES:
        raise BadMessage(414, "Request-URI Too Long")
    scheme = _SCHEME.fullmatch(uri)
    if scheme is None:
        raise BadMessage(400, "Bad Request-URI")
    if scheme[1].lower() not in (b"sip", b"sips", b"tel"):
        raise BadMessage(416, "Unsupported URI Scheme")
    if b"?" in uri.rpartition(b"@")[2]:
        raise BadMessage(400, "Headers In Request-URI")  # RFC 3261 19.1.1
    return method, uri


def _tag_of(value: bytes) -> bytes:
    """Tag of a From or To value, empty without one; raises BadMessage(400) on unbalanced quotes or
    brackets."""
    plain = _QUOTED.sub(b"", value) if b'"' in value else value
    if b'"' in plain:
        raise BadMessage(400, "Unbalanced Quotes")
    before, bracket, rest = plain.partition(b"<")
    if bracket:
        uri, close, params = rest.partition(b">")
        if not close or b">" in before:
            raise BadMessage(400, "Unbalanced Brackets")
    else:
        uri, semicolon, rest = plain.partition(b";")
        params = semicolon + rest
    if b":" not in uri or b"<" in params or b">" in params:
        raise BadMessage(400, "Bad Address")
    match = _TAG.search(params)
    return match[1] if match else b""


# ---- The screen: what a worker must never see (each rule stands for an abort of pjsua2) ----

_ACCEPT_SDP = Header.make(b"Accept", b"application/sdp")
_SDP_TYPE = re.compile(rb"[a-z]=")
_RTPMAP_ILBC = re.compile(rb"a=rtpmap:\s*(\S+)\s+ilbc\s*/", re.I)
_FMTP = re.compile(rb"a=fmtp:\s*(\S+)\s+(.*)", re.I)
_ILBC_MODE = re.compile(rb"mode\s*=\s*([^;\s]*)", re.I)


def media_type(headers: Iterable[Header]) -> bytes:
    """Content-Type without parameters, lower case and without white space; empty when there is none."""
    value = find(headers, b"content-type") or b""
    return b"".join(value.split(b";", 1)[0].lower().split())


def screen_body(message: Message) -> None:
    """Raise BadMessage (400, 415, 488) unless the body is one that a worker may see."""
    if not message.body:
        return
    kind = media_type(message.headers)
    if not kind:
        raise BadMessage(400, "Content-Type Required")
    encoding = find(message.headers, b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise BadMessage(
            415, "Content-Encoding Not Supported", (Header.make(b"Accept-Encoding", b"identity"),)
        )
    if kind == b"application/sdp":
        screen_sdp(message.body)
    elif kind.startswith(b"multipart/") or message.method in (b"INVITE", b"ACK", b"PRACK", b"UPDATE"):
        raise BadMessage(415, "Unsupported Media Type", (_ACCEPT_SDP,))


def screen_sdp(body: bytes) -> None:
    """Raise BadMessage for SDP (RFC 4566) that is malformed (400) or that aborts a worker (488)."""
    if _STRAY.search(body.replace(_CRLF, b"\n").replace(b"\n", _CRLF)):
        raise BadMessage(400, "Bad SDP")
    lines = [line.rstrip(b"\r") for line in body.rstrip().split(b"\n")]
    session_address = False
    media_address: list[bool] = []  # one per m= line
    ilbc: set[bytes] = set()
    for line in lines:
        if len(line) > MAX_SDP_LINE_BYTES:
            raise _not_acceptable("SDP line too long")
        if not _SDP_TYPE.match(line):
            raise BadMessage(400, "Bad SDP")
        if line.startswith(b"m="):
            media_address.append(False)
            if len(media_address) > MAX_SDP_MEDIA:
                raise _not_acceptable("too many media lines")
        elif line.startswith(b"c="):
            _screen_address(line[2:].split())
            if media_address:
                media_address[-1] = True
            else:
                session_address = True
        elif line.startswith(b"a="):
            _screen_attribute(line, ilbc)
    if media_address and not session_address and not all(media_address):
        raise _not_acceptable("SDP without c=")
    for line in lines if ilbc else ():
        fmtp = _FMTP.match(line)
        if fmtp and fmtp[1] in ilbc and any(m not in (b"20", b"30") for m in _ILBC_MODE.findall(fmtp[2])):
            raise _not_acceptable("iLBC mode")


def prefers_wideband(body: bytes) -> bool:
    """Whether the first audio line of an SDP offer names G.722 (payload type 9, RFC 3551) first."""
    start = body.find(b"m=audio ")
    words = body[start : start + 200].splitlines()[0].split() if start >= 0 else []
    return len(words) > 3 and words[3] == b"9"


def _screen_attribute(line: bytes, ilbc: set[bytes]) -> None:
    lower = line[:9].lower()
    if lower.startswith(b"a=rtcp:"):
        words = line[7:].split()
        if not words or not words[0].isdigit() or len(words[0]) > 5:
            raise _not_acceptable("a=rtcp")
        if len(words) > 1:
            _screen_address(words[1:])
    elif lower == b"a=rtpmap:" and (match := _RTPMAP_ILBC.match(line)):
        ilbc.add(match[1])


def _screen_address(words: list[bytes]) -> None:
    """`IN IP4 address[/ttl]`.  Numeric only: a name would have a worker wait for the DNS with its media
    stopped."""
    if len(words) != 3 or words[0].upper() != b"IN" or len(words[2]) > 64:
        raise _not_acceptable("SDP address")
    try:
        version = ipaddress.ip_address(words[2].split(b"/", 1)[0].decode("ascii")).version
    except ValueError:
        raise _not_acceptable("SDP address") from None
    if words[1].upper() != b"IP%d" % version:
        raise _not_acceptable("SDP address")


def _not_acceptable(text: str) -> BadMessage:
    warning = Header.make(b"Warning", b'399 microturn "%b"' % text.encode())  # RFC 3261 20.43
    return BadMessage(488, "Not Acceptable Here", (warning,))
