"""The data channel `microturn`, version 1: what docs/protocol.md says, as types.

One JSON object a message, both ways. What the browser sends is bounded in size and rate; what is wrong with
a message is said in an `error`, and the call goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from gateway.reading import reader

VERSION = 1
MAX_MESSAGE_BYTES = 4096
MAX_TEXT_BYTES = 1000
"""Of a typed line: with its line end it fits into one chunk."""
MESSAGES_PER_S = 10
MAX_BUFFERED_BYTES = 64 * 1024
"""What a browser that does not read is owed at most; newer messages are dropped, and counted."""
MOST_TURNS = 25


class Hello(msgspec.Struct, frozen=True, tag="hello", forbid_unknown_fields=False):
    """Browser: I speak this version."""

    version: int


class Text(msgspec.Struct, frozen=True, tag="text"):
    """Browser: a typed line for the model's next turn."""

    text: str


class Subscribe(msgspec.Struct, frozen=True, tag="subscribe"):
    """Browser: tell me of the turns, so many at a time; 0 ends it."""

    every_turns: int


class Bye(msgspec.Struct, frozen=True, tag="bye"):
    """Browser: I hang up."""


class Withdraw(msgspec.Struct, frozen=True, tag="withdraw"):
    """Browser: nobody wants that task any more."""

    task: str


Message = Hello | Text | Subscribe | Bye | Withdraw
_decode = reader(msgspec.json.Decoder(Message).decode)
TYPES = ("hello", "text", "subscribe", "bye", "withdraw")


class Wire(Protocol):
    """As much of `RTCDataChannel` as is used."""

    @property
    def readyState(self) -> str: ...
    @property
    def bufferedAmount(self) -> int: ...
    def send(self, data: Any) -> None: ...


class Channel:
    """One open data channel: decodes and bounds what comes in, encodes what goes out."""

    def __init__(self, wire: Wire, take: Callable[[Message], None]) -> None:
        self.dropped = 0
        self.refused = 0
        self.every_turns = 0
        self._wire, self._take = wire, take
        self._allowance = float(MESSAGES_PER_S)
        self._allowed_at_ns = 0

    def receive(self, data: object, now_ns: int) -> None:
        """One message from the browser; never raises."""
        size = len(data) if isinstance(data, str | bytes) else 0
        if not self._is_in_time(now_ns):
            self.fault("too-fast", f"more than {MESSAGES_PER_S} messages a second: this one was not taken")
        elif not isinstance(data, str):
            self.fault("not-json", "send text messages, one JSON object each")
        elif size > MAX_MESSAGE_BYTES:
            self.fault("too-long", f"{size} characters: a message has at most {MAX_MESSAGE_BYTES} bytes")
        else:
            self._decode(data)

    def send(self, kind: str, **fields: object) -> bool:
        """A message to the browser; False, and counted, when it does not read what it has."""
        wire = self._wire
        if wire.readyState != "open" or wire.bufferedAmount > MAX_BUFFERED_BYTES:
            self.dropped += 1
            return False
        wire.send(json.dumps({"type": kind, **fields}, ensure_ascii=False, separators=(",", ":")))
        return True

    def fault(self, code: str, message: str) -> None:
        """Say what was wrong with a message of the browser's."""
        self.refused += 1
        self.send("error", code=code, message=message)

    def _decode(self, data: str) -> None:
        try:
            message: Message = _decode(data)
        except msgspec.ValidationError as wrong:
            self.fault("unknown-type", f"{wrong}: expected one of {', '.join(TYPES)} with its fields"[:300])
            return
        except msgspec.DecodeError as wrong:
            self.fault("not-json", f"{wrong}"[:300])
            return
        if isinstance(message, Text) and len(message.text.encode(errors="replace")) > MAX_TEXT_BYTES:
            self.fault("too-long", f"a text has at most {MAX_TEXT_BYTES} bytes of UTF-8")
            return
        if isinstance(message, Subscribe):
            self.every_turns = max(0, min(message.every_turns, MOST_TURNS))
        self._take(message)

    def _is_in_time(self, now_ns: int) -> bool:
        """A bucket of `MESSAGES_PER_S` messages that fills in a second."""
        gained = (now_ns - self._allowed_at_ns) * MESSAGES_PER_S / 1e9
        self._allowance = min(float(MESSAGES_PER_S), self._allowance + gained)
        self._allowed_at_ns = now_ns
        if self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        return True
