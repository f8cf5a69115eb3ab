"""What is kept of a call, as it lies in Redis: JSON, typed at the edge.

Times are Unix ms of the gateway's wall clock. A reader takes what it knows and leaves the rest, so that gateways
of two versions can share a server for the time of an upgrade; a field that is new has a default.

Caller data are in `Line.text`, `Task.request` and `Task.result` alone. Who called is a keyed pseudonym
(`cluster.parties`), by which all of one caller's calls are found and forgotten: no address, number or token.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

Door = Literal["sip", "webrtc"]
Speaker = Literal["caller", "model"]
Reason = Literal["over", "worker-lost", "stopped"]
"""A call that its worker says is over, whoever ended it; one that died with its worker; one that a stop cut off."""
MOST_RECORDINGS = 32
TaskState = Literal["asked", "running", "done", "failed", "cancelled"]


class Session(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call while it lives, and after."""

    call: str
    door: Door
    node: str
    """The gateway that has it."""
    worker: str
    """The process of that gateway."""
    began_ms: int
    persona: str = ""
    """What the model is to be in it; empty is the model server's own."""
    called: str = ""
    """The name or number of ours that was called, where a persona goes by it."""
    tenant: str = ""
    trunk: str = ""
    """Where a telephone call came from, by the setting `trunks`."""
    caller: str = ""
    """Pseudonym; empty when nothing was known of the caller."""
    recording: bool = False
    """Whether a rule allows that it is recorded."""
    resume: str = ""
    """What a resume token is checked against where its worker is gone: a hash."""
    ended_ms: int = 0
    """0 while it lives."""


class Leg(msgspec.Struct, frozen=True, omit_defaults=True):
    """One media connection of a call, by its number from 0."""

    number: int
    door: Door
    worker: str
    began_ms: int
    ended_ms: int = 0


class Spoken(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one of them said in one turn."""

    turn: int
    speaker: Speaker
    text: str
    played_samples: int = 0
    """Of the model's sound of that turn: what the caller really heard, at 16 kHz."""


class Line(Spoken, frozen=True, omit_defaults=True):
    """The same as it is kept."""

    piece: int = 0
    """A line that is longer than a record may be goes on in pieces 1, 2 ...; all have the same `played_samples`."""


class Task(msgspec.Struct, frozen=True, omit_defaults=True):
    """Work that the model has handed off; `key` makes doing it twice the same as once."""

    key: str
    state: TaskState
    asked_turn: int
    deadline_ms: int
    request: str = ""
    result: str = ""
    worker: str = ""


class Heard(msgspec.Struct, frozen=True, omit_defaults=True):
    """Summary of the heard ledger up to a turn, in samples at 16 kHz."""

    turn: int
    spoken_samples: int
    played_samples: int


class Cdr(msgspec.Struct, frozen=True, omit_defaults=True):
    """Call detail record; in the making while `ended_ms` is 0."""

    call: str
    door: Door
    node: str
    began_ms: int
    persona: str = ""
    tenant: str = ""
    trunk: str = ""
    legs: int = 1
    ended_ms: int = 0
    reason: Reason = "over"
    recording: bool = False
    adopted: bool = False
    """Its begin was not known to the gateway that ended it: `began_ms` is when it found the call."""
    disclosed: bool = False
    """Its caller has heard to the end that it talks to a machine."""
    consented: bool = False
    """Its caller has heard to the end that it is recorded."""
    recordings: tuple[str, ...] = ()
    """Names of its recordings, without folder and ending; the first `MOST_RECORDINGS`."""


Record = Session | Leg | Line | Task | Heard | Cdr
R = TypeVar("R", Session, Leg, Line, Task, Heard, Cdr)

encode = msgspec.json.encode


def decode(what: type[R], data: bytes) -> R:
    """`msgspec.DecodeError` for what is none."""
    return msgspec.json.decode(data, type=what)
