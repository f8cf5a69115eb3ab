"""Every operation of `/v1`: the table by which requests are served and the document is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from gateway.api.v1 import shapes

Method = Literal["GET", "POST", "DELETE"]
Scope = Literal[
    "", "calls:read", "calls:write", "transcripts:read", "cdrs:read", "rules:read", "drain", "events:read",
]  # fmt: skip
SCOPES: Final[Mapping[str, str]] = {
    "calls:read": "see calls",
    "calls:write": "make calls, and say what becomes of live ones",
    "transcripts:read": "read what was said",
    "cdrs:read": "read call detail records",
    "rules:read": "read personas, trunks and rules",
    "drain": "see whether a gateway drains, and have it drain; not for tenants",
    "events:read": "follow events as they happen",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    name: str
    """`operationId`; what serves it is registered under this name."""
    method: Method
    path: str
    scope: Scope
    """What a token has to allow; empty is for everybody."""
    says: str
    gives: type[msgspec.Struct] | None = None
    """The answer's body; None is no body."""
    status: int = 200
    asks: type[msgspec.Struct] | None = None
    """The query."""
    takes: type[msgspec.Struct] | None = None
    """The body."""
    refuses: tuple[int, ...] = ()
    """Beside those that every operation may answer with."""
    media_type: str = "application/json"


CALL: Final = "/v1/calls/{call}"
AWAY: Final = (409, 503, 504)
"""Of what a call is told: it cannot do so now, its process is away, it does not answer."""

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation("openapi", "GET", "/v1/openapi.json", "", "This document", media_type="application/json"),
    Operation(
        "list_calls", "GET", "/v1/calls", "calls:read", "Live calls of all gateways",
        shapes.CallPage, asks=shapes.CallsAsked,
    ),
    Operation(
        "originate", "POST", "/v1/calls", "calls:write", "Make a call",
        shapes.Placed, 202, takes=shapes.CallWish, refuses=(402, 404, 409, 504),
    ),
    Operation(
        "get_call", "GET", CALL, "calls:read", "One call, live or as long as its state is kept",
        shapes.Call, refuses=(404,),
    ),
    Operation(
        "read_transcript", "GET", f"{CALL}/transcript", "transcripts:read",
        "What was said in a call, as long as that is kept", shapes.Transcript, asks=shapes.LinesAsked,
        refuses=(404,),
    ),
    Operation("hang_up", "DELETE", CALL, "calls:write", "Hang up", None, 204, refuses=(404, *AWAY)),
    Operation(
        "send_text", "POST", f"{CALL}/text", "calls:write", "Give the model a typed line", None, 204,
        takes=shapes.TextWish, refuses=(404, *AWAY),
    ),
    Operation(
        "send_digits", "POST", f"{CALL}/digits", "calls:write", "Send DTMF digits to the caller", None, 204,
        takes=shapes.DigitsWish, refuses=(404, *AWAY),
    ),
    Operation(
        "mute", "POST", f"{CALL}/mute", "calls:write", "One of the two is not heard by the other", None, 204,
        takes=shapes.MuteWish, refuses=(404, *AWAY),
    ),
    Operation(
        "unmute", "POST", f"{CALL}/unmute", "calls:write", "Heard again", None, 204,
        takes=shapes.MuteWish, refuses=(404, *AWAY),
    ),
    Operation(
        "transfer", "POST", f"{CALL}/transfer", "calls:write", "The caller goes on with somebody else",
        None, 202, takes=shapes.TransferWish, refuses=(404, *AWAY),
    ),
    Operation(
        "join", "POST", f"{CALL}/join", "calls:write", "A person is called, and joins the caller and the model",
        shapes.Placed, 202, takes=shapes.JoinWish, refuses=(402, 404, *AWAY),
    ),
    Operation(
        "leave", "DELETE", f"{CALL}/join", "calls:write", "Who has joined, or is called for it, is hung up",
        None, 204, refuses=(404, *AWAY),
    ),
    Operation(
        "get_recording", "GET", f"{CALL}/recording", "calls:read", "Whether a call is recorded now",
        shapes.Recording, refuses=(404,),
    ),
    Operation(
        "record", "POST", f"{CALL}/recording", "calls:write", "Start, pause, resume or stop the recording",
        shapes.Recording, takes=shapes.RecordingWish, refuses=(404, *AWAY),
    ),
    Operation(
        "list_cdrs", "GET", "/v1/cdrs", "cdrs:read", "Records of calls that are over", shapes.CdrPage,
        asks=shapes.CdrsAsked,
    ),
    Operation(
        "follow_events", "GET", "/v1/events", "events:read",
        "Events as they happen (server-sent events), from Last-Event-ID on",
        asks=shapes.EventsAsked, media_type="text/event-stream",
    ),
    Operation("list_personas", "GET", "/v1/personas", "rules:read", "Personas by name", shapes.Personas),
    Operation("list_trunks", "GET", "/v1/trunks", "rules:read", "Trunks", shapes.Trunks),
    Operation("list_rules", "GET", "/v1/rules", "rules:read", "Inbound rules, in order", shapes.RuleList),
    Operation("get_drain", "GET", "/v1/drain", "drain", "Whether this gateway takes new calls", shapes.Drain),
    Operation(
        "drain", "POST", "/v1/drain", "drain", "Take no new calls from now on; live ones go on",
        shapes.Drain, 202,
    ),
)  # fmt: skip

ALWAYS: Final = (400, 403, 405, 429, 503)
"""Any operation may refuse with these; with a scope 401 as well, with a body 408, 409, 413, 415 and 422."""
WITH_BODY: Final = (408, 409, 413, 415, 422)


def problems_of(operation: Operation) -> tuple[int, ...]:
    """Every status that it may refuse with."""
    found = {*ALWAYS, *operation.refuses}
    if operation.scope:
        found.add(401)
    if operation.method == "POST":
        found.update(WITH_BODY)
    return tuple(sorted(found))
