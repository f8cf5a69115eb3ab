"""What is kept of a call, as it lies in Redis: JSON, typed at the edge.

Times are Unix ms of the gateway's wall clock. A reader takes what it knows and leaves the rest, so that gateways
of two versions can share a server for the time of an upgrade; a field that is new has a default.

Caller data are in `Line.text`, `Task.request` and `Task.result` alone. Who called is a keyed pseudonym
(`cluster.parties`), by which all of one caller's calls are found and forgotten: no address, number or token, unless
the operator has numbers kept, which are in `Session` alone.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from gateway.reading import read_json

Door = Literal["sip", "webrtc", "realtime"]
Speaker = Literal["caller", "model"]
MOST_RECORDINGS = 32
Reason = Literal["over", "worker-lost", "stopped", "lost"]
"""A call that its worker says is over, whoever ended it; one that died with its worker; one that a stop cut off;
one that ended while its gateway was away, so that nobody knows when."""
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
    number: str = ""
    """Of a telephone that called, where that is kept (`caller_numbers`)."""
    recording: bool = False
    """Whether a rule allows that it is recorded."""
    placed: bool = False
    """We called."""
    attestation: str = ""
    """See `Cdr`."""
    joined: str = ""
    """See `Cdr`."""
    engine: str = ""
    """What answers it, by its name among the setting `engines`; empty is the usual one."""
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


class Figures(msgspec.Struct, frozen=True, omit_defaults=True):
    """What its worker has measured of a call, up to now."""

    codec: str = ""
    """PCMU, PCMA, G722, OPUS."""
    turns: int = 0
    """Of 200 ms."""
    missed_turns: int = 0
    """Whose reply was not heard."""
    late_turns: int = 0
    """Of them, those whose reply came too late."""
    concealed_ms: int = 0
    """Of what the model heard, made up where sound was missing."""
    dropped_ms: int = 0
    """Left out to keep the delay down."""
    played_ms: int = 0
    """Of the model's sound, heard by the caller."""
    interruptions: int = 0
    """The model fell silent in the middle of what it was saying."""
    cuts: int = 0
    """The policy kept what it was saying from being heard."""
    packets: int = 0
    """Received of the caller."""
    lost_packets: int = 0
    loss: float = 0.0
    """Of those that were sent to us, 0 to 1."""
    jitter_ms: float = 0.0
    """Mean of RFC 3550's."""
    jitter_max_ms: float = 0.0
    delay_ms: float = 0.0
    """Mean of what waits in the jitter buffer."""
    round_trip_ms: float = 0.0
    """Mean, by RTCP; 0 where the other end told nothing."""
    mos: float = 0.0
    """Estimated by the E-model of what the model heard; 0 where nothing was heard."""
    tasks: int = 0
    """That the model handed off."""
    engine_ms: int = 0
    """Of the model server's steps, this call's part."""
    memory: str = ""
    """How the model got over the end of its context: `rolling 240`, it remembers the newest 240 s; empty where the
    call did not outlast it, or the engine has no such end."""


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
    placed: bool = False
    """We called."""
    handed_to: str = ""
    """Whom the caller was handed to, by the name of the target."""
    adopted: bool = False
    """Its begin was not known to the gateway that ended it: `began_ms` is when it found the call."""
    disclosed: bool = False
    """Its caller has heard to the end that it talks to a machine."""
    consented: bool = False
    """Its caller has heard to the end that it is recorded."""
    recordings: tuple[str, ...] = ()
    """Names of its recordings, without folder and ending; the first `MOST_RECORDINGS`."""
    attestation: str = ""
    """Of the number that called (STIR/SHAKEN): `verified A`, B or C, `failed WHY`, `absent`; empty where nobody
    looked."""
    joined: str = ""
    """Of a person's call: the call whose caller and model the person joined; it had no model of its own."""
    engine: str = ""
    """What answered it: see `Session`."""
    cause: str = ""
    """Who or what ended it: caller, model, api, handed-over, left-alone, no-rtp, no-answer, timeout, limit, lost,
    drain, safety, error."""
    figures: Figures = Figures()
    tokens: int = 0
    """Of the background models, both ways."""
    price_minute: float = 0.0
    """Of a call that we placed: its trunk's for the number that was called."""
    trunk_cost: float = 0.0
    """By that, to the second; a part of `cost`."""
    cost: float = 0.0
    """Estimated, by the prices of the settings."""


Record = Session | Leg | Line | Task | Heard | Cdr
R = TypeVar("R", Session, Leg, Line, Task, Heard, Cdr)

encode = msgspec.json.encode


def decode(what: type[R], data: bytes) -> R:
    """`msgspec.DecodeError` for what is none."""
    return read_json(data, what)
