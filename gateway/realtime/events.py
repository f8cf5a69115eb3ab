"""What a client says: bytes to an event, or to the `error` that it is told. Bytes never raise.

Field names are the protocol's. What a client adds beyond them is left aside, as the protocol does; what is
nested and may be of any form (`session`, `item`, `response`) is looked at by whoever takes it.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.reading import reader

MOST_MESSAGE_BYTES: Final = 2 * 1024 * 1024
"""Of one event: half a minute of sound at 24 kHz, in base64."""
MOST_METADATA: Final = 16
MOST_METADATA_KEY: Final = 64
MOST_METADATA_VALUE: Final = 512
"""Of a response, as the protocol has it: pairs, and letters of each."""


class Event(msgspec.Struct, frozen=True, tag_field="type"):
    """Of a client."""

    event_id: str | None = None


class SessionUpdate(Event, frozen=True, tag="session.update"):
    """Choose."""

    session: dict[str, Any] = {}


class Append(Event, frozen=True, tag="input_audio_buffer.append", kw_only=True):
    """Sound, base64."""

    audio: str


class Commit(Event, frozen=True, tag="input_audio_buffer.commit"):
    """What was appended is an item."""


class Clear(Event, frozen=True, tag="input_audio_buffer.clear"):
    """What has not been heard yet is not to be."""


class ItemCreate(Event, frozen=True, tag="conversation.item.create", kw_only=True):
    """A typed line, or what a function gave."""

    item: dict[str, Any]
    previous_item_id: str | None = None


class ItemRetrieve(Event, frozen=True, tag="conversation.item.retrieve", kw_only=True):
    """Say it again."""

    item_id: str


class ItemDelete(Event, frozen=True, tag="conversation.item.delete", kw_only=True):
    """Out of the list: the model has no such way back."""

    item_id: str


class ItemTruncate(Event, frozen=True, tag="conversation.item.truncate", kw_only=True):
    """So much of our speech was heard."""

    item_id: str
    audio_end_ms: int
    content_index: int = 0


class ResponseCreate(Event, frozen=True, tag="response.create"):
    """Say something."""

    response: dict[str, Any] | None = None


class ResponseCancel(Event, frozen=True, tag="response.cancel"):
    """Be silent."""

    response_id: str | None = None


class OutputClear(Event, frozen=True, tag="output_audio_buffer.clear"):
    """Of WebRTC and SIP only: the same as a cancel here."""


class Text(Event, frozen=True, tag="microturn.text", kw_only=True):
    """A typed line without an item."""

    text: str


class Withdraw(Event, frozen=True, tag="microturn.withdraw", kw_only=True):
    """Nobody wants that task any more."""

    task: str


Known = (
    SessionUpdate | Append | Commit | Clear | ItemCreate | ItemRetrieve | ItemDelete | ItemTruncate | ResponseCreate
    | ResponseCancel | OutputClear | Text | Withdraw
)  # fmt: skip
TYPES: Final = tuple(str(kind.__struct_config__.tag) for kind in Known.__args__)
_decode = reader(msgspec.json.Decoder(Known).decode)


class _Named(msgspec.Struct, frozen=True):
    """As much as an error needs."""

    type: Any = None
    event_id: Any = None


_name = reader(msgspec.json.Decoder(_Named).decode)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, as the protocol's `error` has it."""

    code: str
    message: str
    param: str | None = None
    event_id: str | None = None


def read(data: str | bytes) -> Known | Fault:
    """One message."""
    try:
        event: Known = _decode(data)
    except msgspec.ValidationError as wrong:
        return _invalid(data, str(wrong))
    except msgspec.DecodeError as wrong:
        return Fault("invalid_json", f"not a JSON object: {wrong}"[:300])
    return event


def sound_of(audio: str) -> bytes | Fault:
    """What base64 says."""
    try:
        return binascii.a2b_base64(audio, strict_mode=True)
    except (binascii.Error, ValueError) as wrong:
        return Fault("invalid_value", f"audio is not base64: {wrong}"[:300], "audio")


def metadata_of(value: Any) -> dict[str, str] | Fault:
    """What a client wants to come back with a response."""
    where = "response.metadata"
    if value is None:
        return {}
    if not isinstance(value, dict):
        return Fault("invalid_type", "metadata is an object of texts", where)
    if len(value) > MOST_METADATA:
        told = f"{len(value)} pairs: at most {MOST_METADATA} are taken"
        return Fault("object_above_max_properties", told, where)
    for key, text in value.items():
        if len(key) > MOST_METADATA_KEY:
            told = f"{len(key)} letters: a key has at most {MOST_METADATA_KEY}"
            return Fault("string_above_max_length", told, where)
        if not isinstance(text, str):
            return Fault("invalid_type", "metadata is an object of texts", f"{where}.{key}")
        if len(text) > MOST_METADATA_VALUE:
            told = f"{len(text)} letters: a value has at most {MOST_METADATA_VALUE}"
            return Fault("string_above_max_length", told, f"{where}.{key}")
    return value


def _invalid(data: str | bytes, why: str) -> Fault:
    try:
        named = _name(data)
    except msgspec.DecodeError:
        return Fault("invalid_value", why[:300])
    event_id = named.event_id[:512] if isinstance(named.event_id, str) else None
    if named.type is None:
        return Fault("missing_required_parameter", "an event has a type", "type", event_id)
    if named.type not in TYPES:
        told = f"{str(named.type)[:80]!r} is not taken here: expected one of {', '.join(TYPES)}"
        return Fault("invalid_value", told, "type", event_id)
    missing = "missing required field" in why
    param = why.split("`")[1] if missing and why.count("`") >= 2 else _path(why)
    return Fault("missing_required_parameter" if missing else "invalid_type", why[:300], param, event_id)


def _path(why: str) -> str | None:
    """`Expected ..., got ... - at `$.item`` -> item."""
    _, dollar, path = why.partition("`$.")
    return path.rstrip("`") if dollar else None
