"""The other side of the conversation: answers the target and ends every call. No socket, no clock."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from loadtests.hostile.message import Hop, token

RETRANSMIT_S = 0.5  # T1, RFC 3261 section 17.1.1.1
BYE_TRIES = 5
RINGING_S = 1.0  # an INVITE that has only provisional answers after this time is cancelled


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
