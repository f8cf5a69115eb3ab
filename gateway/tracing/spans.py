"""Spans as they leave this process, their ids, and W3C trace context (https://www.w3.org/TR/trace-context/)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Value = str | int | float | bool
Kind = Literal["server", "internal", "consumer"]
SAMPLED: Final = 1
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_ZEROS = re.compile(r"0+")


@dataclass(frozen=True, slots=True)
class Context:
    """A span of a trace, as others refer to it."""

    trace: int
    """128 bits, not 0."""
    span: int
    """64 bits, not 0."""
    is_sampled: bool = True

    @property
    def traceparent(self) -> str:
        """As a header carries it."""
        return f"00-{self.trace:032x}-{self.span:016x}-{int(self.is_sampled):02x}"

    def below(self, name: str) -> Context:
        """A span of the same trace, the same for the same name."""
        return Context(self.trace, _number(f"{self.trace:032x} {name}", 8), self.is_sampled)


@dataclass(frozen=True, slots=True)
class Span:
    """One that is over. Times are Unix ns."""

    name: str
    context: Context
    parent: Context | None
    begun_ns: int
    ended_ns: int
    attributes: Mapping[str, Value] = field(default_factory=dict)
    kind: Kind = "internal"
    error: str = ""
    """Why it failed, in a word; empty where it did not."""
    parent_is_remote: bool = False


Sink = Callable[[Span], None]


def parse(header: str) -> Context | None:
    """A `traceparent`; None for what is none, as section 3.2 says: then a trace begins here."""
    match = _TRACEPARENT.fullmatch(header.strip())
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    if _ZEROS.fullmatch(match[2]) or _ZEROS.fullmatch(match[3]):
        return None
    return Context(int(match[2], 16), int(match[3], 16), bool(int(match[4], 16) & SAMPLED))


def of_call(call: str, asked: Context | None) -> Context:
    """The span of a call: in the trace of whoever asked for it, else in one that its name makes."""
    trace = asked.trace if asked is not None else _number(f"trace {call}", 16)
    return Context(trace, _number(f"call {call}", 8), asked is None or asked.is_sampled)


def _number(text: str, size: int) -> int:
    return int.from_bytes(hashlib.blake2s(text.encode(), digest_size=size).digest()) or 1
