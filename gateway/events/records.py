"""What an event is: JSON, typed at every edge.

Its id is made from what happened, not by chance: an event that is told again after a crash has the id that it had,
and who has seen it drops it.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal, get_args

import msgspec

from gateway.reading import reader

Kind = Literal[
    "call.started", "call.ended", "call.dialled", "call.ringing", "call.failed", "call.transferring",
    "call.transferred", "call.transfer-failed", "call.joined", "call.left", "call.join-failed",
    "call.safety", "call.transcript", "call.handover", "task.asked", "task.done",
    "task.failed", "task.cancelled", "recording.began", "recording.paused", "recording.resumed",
    "recording.ended", "spend.reached",
]  # fmt: skip
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
DETAILS: Final = ("call.transcript",)
"""The first that are given up where there is no room."""
WITHOUT_WORDS: Final[tuple[Kind, ...]] = (
    "call.started", "call.ended", "call.dialled", "call.ringing", "call.failed", "call.transferring",
    "call.transferred", "call.transfer-failed", "call.joined", "call.left", "call.join-failed",
    "call.safety", "recording.began", "recording.paused",
    "recording.resumed", "recording.ended", "spend.reached",
)  # fmt: skip
"""Those that have nothing of what was said."""

WHO: Final = ("caller", "number")
"""Of `data`: by which somebody could be found."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened in a call."""

    id: str
    type: Kind
    at_ms: int
    """When it was told of (Unix ms)."""
    node: str
    call: str
    data: dict[str, Any]
    """By type: docs/programs.md, *Events*."""
    tenant: str = ""


encode = msgspec.json.encode
decode = reader(msgspec.json.Decoder(Event).decode)


def id_of(kind: Kind, call: str, began_ms: int, what: str = "") -> str:
    """Of what happened in the call of that name and begin; `what` tells things of one kind apart."""
    told = f"{kind}\n{call}\n{began_ms}\n{what}".encode()
    return f"evt_{hashlib.blake2s(told, digest_size=12).hexdigest()}"


def redacted(event: Event) -> Event:
    """What is told of it once its caller was forgotten: neither who called nor what was said. The id stays."""
    keeps = event.type in WITHOUT_WORDS
    data = {name: value for name, value in event.data.items() if keeps and name not in WHO}
    return msgspec.structs.replace(event, data=data | {"forgotten": True})
