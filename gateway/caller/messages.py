"""SIP messages as a caller needs them: parse, build, and split a TCP stream (RFC 3261 sections 7, 18.3, 20).

Knows headers and bodies, nothing of transactions or sockets. One rule: bytes from a peer never raise; what
is no SIP message comes back as None.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

Address = tuple[str, int]

DEFAULT_PORT = 5060
DEFAULT_TLS_PORT = 5061
MAX_MESSAGE_BYTES = 65_535

# RFC 3261 section 7.3.3, and RFC 6665's two.
_COMPACT = {
    "c": "content-type",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "o": "event",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
}
_FOLD = re.compile(r"\r\n[ \t]+")
_TAG = re.compile(r";\s*tag\s*=\s*([^;,\s>]+)", re.IGNORECASE)
_BRANCH = re.compile(r";\s*branch\s*=\s*([^;,\s]+)", re.IGNORECASE)
_URI = re.compile(
    r"(?P<scheme>sips?):(?:(?P<user>[^@]+)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^:;?>\s]+)(?::(?P<port>\d{1,5}))?"
    r"(?P<parameters>(?:;[^?>\s]*)?)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class SipUri:
    """The parts of a SIP URI that routing needs."""

    user: str
    host: str
    port: int
    transport: str  # "udp", "tcp" or "tls"
    text: str  # as given, without angle brackets

    @property
    def address(self) -> Address:
        return self.host, self.port


def parse_uri(text: str) -> SipUri:
    """`sip:user@host:port;transport=tcp`, bare or in angle brackets. Raises ValueError for anything else."""
    bare = text.strip()
    if "<" in bare:
        bare = bare[bare.index("<") + 1 :].split(">")[0]
    match = _URI.match(bare)
    if match is None:
        raise ValueError(f"{text!r} is not a SIP URI; write sip:user@host:port")
    if match["scheme"].lower() == "sips":
        raise ValueError(f"{text!r}: this caller takes no sips:; write sip:user@host:port;transport=tls")
    found = re.search(r";\s*transport=(tcp|tls)\b", match["parameters"], re.IGNORECASE)
    transport = found[1].lower() if found else "udp"
    port = int(match["port"] or (DEFAULT_TLS_PORT if transport == "tls" else DEFAULT_PORT))
    if not 0 < port < 65536:
        raise ValueError(f"{text!r}: port {port} is out of range")
    return SipUri(match["user"] or "", match["host"].strip("[]"), port, transport, bare)


def is_loopback(host: str) -> bool:
    """True for localhost and loopback addresses; a name that would need a look-up is not loopback."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class Message:
    """One SIP request (`method`, `uri`) or response (`status`, `reason`). Header names are lower case,
    long form."""

    method: str = ""
    uri: str = ""
    status: int = 0
    reason: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str:
        """The first value of a header, or ''."""
        return next((value for key, value in self.headers if key == name), "")

    def values(self, name: str) -> list[str]:
        """All values of a header in order, comma lists of addresses taken apart."""
        return [part for key, value in self.headers if key == name for part in _split_commas(value)]

    @property
    def call_id(self) -> str:
        return self.header("call-id")

    @property
    def cseq(self) -> tuple[int, str]:
        """(number, method); (0, '') when it is missing or broken."""
        match = re.match(r"\s*(\d{1,10})\s+(\S+)", self.header("cseq"))
        return (int(match[1]), match[2].upper()) if match else (0, "")

    @property
    def branch(self) -> str:
        """The branch of the top Via, which names the transaction (RFC 3261 section 17.1.3)."""
        match = _BRANCH.search(self.header("via"))
        return match[1] if match else ""

    def tag(self, name: str) -> str:
        """The tag parameter of From or To, or ''."""
        value = self.header(name)
        match = _TAG.search(value[value.rfind(">") + 1 :])
        return match[1] if match else ""

    @property
    def retry_after_s(self) -> int | None:
        """Seconds of Retry-After (RFC 3261 section 20.33), its comment and parameters ignored."""
        match = re.match(r"\s*(\d{1,9})", self.header("retry-after"))
        return int(match[1]) if match else None

    def serialise(self) -> bytes:
        """The message's bytes with its Content-Length."""
        first = f"SIP/2.0 {self.status} {self.reason}" if self.status else f"{self.method} {self.uri} SIP/2.0"
        lines = [first, *(f"{_title(name)}: {value}" for name, value in self.headers)]
        lines += [f"Content-Length: {len(self.body)}", "", ""]
        return "\r\n".join(lines).encode() + self.body


def parse_message(data: bytes) -> Message | None:
    """One datagram (or one message of a stream) as a Message, or None. Never raises."""
    head, _, body = data.partition(b"\r\n\r\n")
    text = _FOLD.sub(" ", head.decode("utf-8", "replace").lstrip("\r\n"))
    first, *lines = text.split("\r\n")
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            return None
        key = name.strip().lower()
        headers.append((_COMPACT.get(key, key), value.strip()))
    length = next((value for key, value in headers if key == "content-length"), "")
    if length.isascii() and length.isdigit():
        body = body[: int(length[:9])]
    kept = tuple(header for header in headers if header[0] != "content-length")
    if match := re.fullmatch(r"SIP/2\.0 ([1-6]\d\d)(?: (.*))?", first):
        return Message(status=int(match[1]), reason=match[2] or "", headers=kept, body=body)
    if match := re.fullmatch(r"([A-Za-z]+) (\S+) SIP/2\.0", first):
        return Message(method=match[1].upper(), uri=match[2], headers=kept, body=body)
    return None


class StreamSplitter:
    """Cuts a TCP byte stream into messages by Content-Length (RFC 3261 section 18.3)."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Whole messages so far. Raises ValueError when the stream cannot be understood any more."""
        self._buffer += data
        messages = []
        while True:
            self._buffer = self._buffer.lstrip(b"\r\n")  # keep-alives, RFC 5626 section 4.4.1
            head, blank, _ = self._buffer.partition(b"\r\n\r\n")
            if not blank:
                break
            match = re.search(rb"(?im)^(?:content-length|l)\s*:\s*(\d{1,6})\s*$", head)
            size = len(head) + 4 + (int(match[1]) if match else 0)
            if len(self._buffer) < size:
                break
            messages.append(self._buffer[:size])
            self._buffer = self._buffer[size:]
        if len(self._buffer) > MAX_MESSAGE_BYTES:
            raise ValueError("the peer's SIP message is longer than 65,535 bytes")
        return messages


def _split_commas(value: str) -> list[str]:
    """Split at commas outside of quotes and angle brackets."""
    parts = re.findall(r'(?:"(?:\\.|[^"\\])*"|<[^>]*>|[^,"<])+', value)
    return [part.strip() for part in parts if part.strip()]


def _title(name: str) -> str:
    special = {"call-id": "Call-ID", "cseq": "CSeq"}
    return special.get(name) or "-".join(word.capitalize() for word in name.split("-"))
