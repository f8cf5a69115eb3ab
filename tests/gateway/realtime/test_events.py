"""Bytes of a client: an event, or what is wrong with it; never an exception."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.realtime import RealtimeClientEvent

from gateway.realtime import events
from gateway.realtime.events import Fault, read, sound_of


def test_every_event_of_the_package_is_known() -> None:
    union = get_args(RealtimeClientEvent)[0]
    theirs = {get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(union)}
    assert theirs == {kind for kind in events.TYPES if not kind.startswith("microturn.")}


def test_fields_arrive() -> None:
    event = read(b'{"type":"input_audio_buffer.append","audio":"AAA=","event_id":"x","more":1}')
    assert isinstance(event, events.Append) and (event.audio, event.event_id) == ("AAA=", "x")


@pytest.mark.parametrize(
    ("data", "code", "param"),
    [
        ("", "invalid_json", None),
        ("[]", "invalid_value", None),
        ('{"session":' + '{"a":' * 5000, "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
        ("{}", "missing_required_parameter", "type"),
        ('{"type":7}', "invalid_value", "type"),
        ('{"type":"session.upgrade"}', "invalid_value", "type"),
        ('{"type":"input_audio_buffer.append"}', "missing_required_parameter", "audio"),
        ('{"type":"input_audio_buffer.append","audio":7}', "invalid_type", "audio"),
        (
            '{"type":"conversation.item.truncate","item_id":"a","audio_end_ms":1.5}',
            "invalid_type",
            "audio_end_ms",
        ),
    ],
)
def test_what_is_wrong_is_named(data: str | bytes, code: str, param: str | None) -> None:
    fault = read(data)
    assert isinstance(fault, Fault) and (fault.code, fault.param) == (code, param), fault


def test_an_event_that_is_wrong_keeps_its_id() -> None:
    fault = read(json.dumps({"type": "nonsense", "event_id": "mine"}))
    assert isinstance(fault, Fault) and fault.event_id == "mine"


def test_base64_is_base64() -> None:
    assert sound_of("AAEC") == b"\x00\x01\x02"
    for wrong in ("A", "A!==", "é", "AAEC\n"):
        assert isinstance(sound_of(wrong), Fault), wrong


_VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_bytes_never_raise(data: bytes | str) -> None:
    read(data)


@given(st.sampled_from(events.TYPES), st.dictionaries(st.text(max_size=12), _VALUES, max_size=5))
def test_forms_never_raise(kind: str, fields: dict[str, Any]) -> None:
    read(json.dumps({**fields, "type": kind}))
