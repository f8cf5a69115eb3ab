"""What `/v1` takes and gives: JSON objects, each with its bounds. The OpenAPI document is made from these types.

Times are Unix ms. Within a version fields are only ever added, and a client ignores those that it does not know.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from gateway.state.records import Door, Figures, Reason

MOST_LISTED: Final = 200
MOST_LINES: Final = 2_000
MOST_TEXT_LETTERS: Final = 1_000
MOST_DIGITS: Final = 32
MOST_CURSOR_LETTERS: Final = 128

CallName = Annotated[str, Meta(pattern="^[brt]-[0-9a-f]{16,32}$", examples=["b-0123456789abcdef"])]
Name = Annotated[str, Meta(max_length=64)]
Cursor = Annotated[str, Meta(max_length=MOST_CURSOR_LETTERS, pattern="^[A-Za-z0-9_-]*$")]
Limit = Annotated[int, Meta(ge=1, le=MOST_LISTED)]
Ms = Annotated[int, Meta(ge=0, le=2**53)]


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends: a field that nobody knows is a slip, and refused."""


class Given(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a client gets."""


# -- what is wrong


class Problem(Given, frozen=True):
    """Why a request was not granted (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    """For a person."""
    code: str
    """For a program."""
    request: str = ""
    """The request's id, as in `X-Request-Id`."""


# -- calls


class CallsAsked(Shape, frozen=True):
    """Which live calls."""

    door: Literal["", "sip", "webrtc", "realtime"] = ""
    limit: Limit = 50
    cursor: Cursor = ""


class Call(Given, frozen=True):
    """A call, and where it is."""

    id: CallName
    door: Door
    state: Literal["live", "over"]
    node: Name
    began_ms: Ms
    persona: str = ""
    called: str = ""
    tenant: str = ""
    trunk: str = ""
    caller: str = ""
    """Pseudonym."""
    number: str = ""
    """That called, where numbers are kept."""
    recording: bool = False
    """Whether it may be recorded."""
    placed: bool = False
    """We called."""
    ended_ms: Ms = 0
    attestation: str = ""
    """Of the number that called (STIR/SHAKEN): `verified A`, B or C, `failed WHY`, `absent`; nothing where nobody
    looked."""
    joined: str = ""
    """Of a person's call: the call that the person joined."""
    engine: str = ""
    """What answers it, by its name in the settings; nothing is the usual one."""


class CallPage(Given, frozen=True):
    """Live calls of all gateways, the oldest first."""

    calls: list[Call]
    next: Cursor = ""
    """Ask with it for the following page; absent on the last."""
    silent: list[Name] = []
    """Gateways that did not answer: their calls are not in here."""


class LinesAsked(Shape, frozen=True):
    """How many lines."""

    limit: Annotated[int, Meta(ge=1, le=MOST_LINES)] = 500


class SaidLine(Given, frozen=True):
    """What one of the two said in a turn of 200 ms."""

    turn: int
    speaker: Literal["caller", "model"]
    text: str
    heard_ms: int = 0
    """Of the model's sound of that turn: what the caller really heard."""


class Transcript(Given, frozen=True):
    """The newest lines, in order; pieces are joined as they are."""

    id: CallName
    lines: list[SaidLine]
    more: bool = False
    """There are older ones: ask for more."""


class CallWish(Shape, frozen=True):
    """A call that we are to make."""

    to: Annotated[str, Meta(min_length=1, max_length=128)]
    """A number, or a name that the trunk knows."""
    trunk: Name
    caller_id: Annotated[str, Meta(max_length=64)] = ""
    """What the other end sees; nothing is the trunk's."""
    caller_name: Annotated[str, Meta(max_length=64)] = ""
    persona: Annotated[str, Meta(max_length=256)] = ""
    ring_s: Annotated[float, Meta(ge=1, le=180)] = 20.0
    """It is given up when nothing rings by then,"""
    answer_s: Annotated[float, Meta(ge=1, le=180)] = 60.0
    """or nobody answers; both from the beginning."""
    recording: bool = False
    """Whether it is recorded: 403 where its trunk does not allow that, or nothing is recorded."""
    minutes: Annotated[float, Meta(ge=0, le=1_440)] = 0.0
    """It is ended after so long, or what its trunk allows where that is less; where spending is capped as much is
    reserved: 402 `spend-cap` where that is not left."""
    engine: Annotated[str, Meta(max_length=32)] = ""
    """What answers, one of the setting `engines`; nothing is the usual one."""


class Placed(Given, frozen=True):
    """A call on its way: it is among the calls once it is answered; events say what becomes of it."""

    id: CallName
    node: Name


class TextWish(Shape, frozen=True):
    """A typed line for the model, which takes it in its next turn."""

    text: Annotated[str, Meta(min_length=1, max_length=MOST_TEXT_LETTERS)]


class DigitsWish(Shape, frozen=True):
    """DTMF digits towards the caller, one after another."""

    digits: Annotated[str, Meta(pattern=f"^[0-9A-D*#]{{1,{MOST_DIGITS}}}$", examples=["42#"])]


class MuteWish(Shape, frozen=True):
    """Who is not heard by the other: the caller by the model, or the model by the caller."""

    who: Literal["caller", "model"] = "caller"


class TransferWish(Shape, frozen=True):
    """Whom the caller is handed to, one of the two. Events say what becomes of it."""

    target: Name = ""
    """One of the setting `transfers`, or"""
    call: Annotated[str, Meta(pattern="^([brt]-[0-9a-f]{16,32})?$")] = ""
    """whom we talk to in that call, which we made and which was answered."""


class JoinWish(Shape, frozen=True):
    """Whom we are to call, so that he joins the caller and the model. Events say what becomes of it."""

    to: Annotated[str, Meta(min_length=1, max_length=128)]
    """A number, or a name that the trunk knows."""
    trunk: Name
    model: Literal["speaks", "listens"] = "speaks"
    """What the model does while the person is there; it hears both in either case."""
    caller_id: Annotated[str, Meta(max_length=64)] = ""
    """What the person sees; nothing is the trunk's."""
    caller_name: Annotated[str, Meta(max_length=64)] = ""
    ring_s: Annotated[float, Meta(ge=1, le=180)] = 20.0
    """It is given up when nothing rings by then,"""
    answer_s: Annotated[float, Meta(ge=1, le=180)] = 60.0
    """or the person does not answer; both from the beginning. The caller goes on with the model meanwhile."""
    minutes: Annotated[float, Meta(ge=0, le=1_440)] = 0.0
    """The person's call is ended after so long, or what its trunk allows where that is less."""


class RecordingWish(Shape, frozen=True):
    """What becomes of the recording."""

    action: Literal["start", "pause", "resume", "stop"]


class Recording(Given, frozen=True):
    """Whether a call is recorded now."""

    id: CallName
    allowed: bool
    """Whether it may be."""
    state: Literal["off", "on", "paused"]
    file: str = ""
    """Name of the newest one, without its folder and ending."""


# -- call detail records


class CdrsAsked(Shape, frozen=True):
    """Which records: of calls that ended within a time, the bounds included."""

    since_ms: Ms = 0
    until_ms: Ms = 2**53
    order: Literal["newest", "oldest"] = "newest"
    limit: Limit = 50
    cursor: Cursor = ""


class CallRecord(Given, frozen=True):
    """Call detail record of a call that is over."""

    call: CallName
    door: Door
    node: Name
    began_ms: Ms
    ended_ms: Ms
    reason: Reason
    persona: str = ""
    tenant: str = ""
    trunk: str = ""
    legs: int = 1
    recording: bool = False
    placed: bool = False
    """We called."""
    handed_to: str = ""
    """Whom the caller was handed to."""
    adopted: bool = False
    """Its begin was not known to the gateway that ended it."""
    disclosed: bool = False
    """Its caller has heard to the end that it talks to a machine,"""
    consented: bool = False
    """and that it is recorded."""
    recordings: tuple[str, ...] = ()
    """Names, without folder and ending."""
    caller: str = ""
    """Pseudonym,"""
    number: str = ""
    """number that called, where numbers are kept, and"""
    called: str = ""
    """name of ours that was called: all until the call's state is gone, or was forgotten."""
    attestation: str = ""
    """Of the number that called (STIR/SHAKEN): `verified A`, B or C, `failed WHY`, `absent`; nothing where nobody
    looked."""
    joined: str = ""
    """Of a person's call: the call whose caller and model the person joined; it had no model of its own."""
    engine: str = ""
    """What answered it, by its name in the settings; nothing is the usual one."""
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


class CdrPage(Given, frozen=True):
    """Records of all gateways, by when their calls ended."""

    cdrs: list[CallRecord]
    next: Cursor = ""


# -- events


class EventsAsked(Shape, frozen=True):
    """Which events."""

    types: Annotated[str, Meta(max_length=256)] = ""
    """Types or patterns of them, with commas between: call.*,task.done; nothing is all."""
    after: Annotated[str, Meta(max_length=32)] = ""
    """As the header Last-Event-ID; nothing begins with what comes."""


# -- what is set


class Persona(Given, frozen=True):
    """What the model is to be for who calls that name; the usual one has no name."""

    name: str
    persona: str


class Trunk(Given, frozen=True):
    """Where telephone calls come from."""

    name: str
    hosts: list[str]
    calls: int = 0
    """At once, on all gateways; 0 is as many as there is room for."""
    tenant: str = ""


class Rule(Given, frozen=True):
    """What becomes of a call; the first that matches decides."""

    name: str
    called: str = ""
    source: list[str] = []
    headers: dict[str, str] = {}
    persona: str = ""
    tenant: str = ""
    trunk: str = ""
    recording: bool = False
    attestation: list[str] = []
    engine: str = ""


class Personas(Given, frozen=True):
    """All that are set."""

    personas: list[Persona]


class Trunks(Given, frozen=True):
    """All that are set."""

    trunks: list[Trunk]


class RuleList(Given, frozen=True):
    """In the order in which they are asked."""

    rules: list[Rule]
    calls_without_rule: Literal["take", "refuse"]


class Drain(Given, frozen=True):
    """Whether this gateway takes new calls, and how many live in it."""

    node: Name
    draining: bool
    calls: int
