"""What a client may choose: done, left aside, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.realtime import RealtimeSessionCreateRequest

from gateway.realtime.session import Session, arguments_of
from gateway.realtime.sound import FORMATS


def of(wish: dict[str, Any]) -> tuple[Session, list[tuple[str, str | None]]]:
    session = Session("r-1", "digits")
    return session, [(fault.code, fault.param) for fault in session.update(wish)]


def test_what_is_told_is_of_the_protocol() -> None:
    told = Session("r-1", "digits").told()
    assert RealtimeSessionCreateRequest.model_validate(told).audio is not None
    assert told["audio"]["input"]["turn_detection"]["type"] == "semantic_vad"


@pytest.mark.parametrize("name", list(FORMATS))
def test_formats_both_ways(name: str) -> None:
    session, faults = of(
        {"audio": {"input": {"format": {"type": name}}, "output": {"format": {"type": name}}}}
    )
    assert not faults and session.hears.name == session.speaks.name == name


def test_formats_as_the_beta_named_them() -> None:
    session, faults = of({"input_audio_format": "g711_ulaw", "output_audio_format": "g711_alaw"})
    assert not faults and (session.hears.name, session.speaks.name) == ("audio/pcmu", "audio/pcma")


@pytest.mark.parametrize(
    ("wish", "code", "param"),
    [
        ({"type": "transcription"}, "unsupported_value", "session.type"),
        (
            {"audio": {"input": {"format": {"type": "audio/opus"}}}},
            "unsupported_value",
            "session.audio.input.format",
        ),
        (
            {"audio": {"output": {"format": {"type": "audio/pcm", "rate": 16_000}}}},
            "unsupported_value",
            "session.audio.output.format",
        ),
        (
            {"audio": {"input": {"turn_detection": None}}},
            "unsupported_value",
            "session.audio.input.turn_detection",
        ),
        (
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "interrupt_response": False}}}},
            "unsupported_value",
            "session.audio.input.turn_detection.interrupt_response",
        ),
        ({"output_modalities": ["text"]}, "unsupported_value", "session.output_modalities"),
        ({"tool_choice": "required"}, "unsupported_value", "session.tool_choice"),
        ({"tools": [{"type": "mcp"}]}, "unsupported_value", "session.tools[0]"),
        ({"tools": "x"}, "invalid_value", "session.tools"),
        ({"instructions": 7}, "invalid_value", "session.instructions"),
        ({"instructions": "persona: " + 300 * "x"}, "invalid_value", "session.instructions"),
        ({"colour": 1}, "unknown_parameter", "session.colour"),
        ({"audio": {"input": {"colour": 1}}}, "unknown_parameter", "session.audio.input.colour"),
        ({"audio": 7}, "invalid_type", "session.audio"),
    ],
)
def test_refused(wish: dict[str, Any], code: str, param: str) -> None:
    assert of(wish)[1] == [(code, param)]


def test_what_has_no_bearing_is_left_aside_and_said_so() -> None:
    session, faults = of(
        {
            "instructions": "You are kind.",
            "audio": {"output": {"voice": "marin"}, "input": {"noise_reduction": {"type": "near_field"}}},
            "max_output_tokens": 5,
        }
    )
    assert not faults and session.instructions == ""
    assert session.left_aside == [
        "session.instructions", "session.audio.output.voice", "session.audio.input.noise_reduction",
        "session.max_output_tokens",
    ]  # fmt: skip


def test_what_can_be_done_is_done_beside_what_is_refused() -> None:
    session, faults = of({"tool_choice": "required", "instructions": "Persona:  correct   482913 \nBe kind."})
    assert len(faults) == 1 and session.persona == "correct 482913"


def test_a_question_goes_to_the_function_of_that_name_or_to_the_only_one() -> None:
    one = {"type": "function", "name": "add", "parameters": {"properties": {"task": {"type": "string"}}}}
    other = {"type": "function", "name": "delegate"}
    session, _ = of({"tools": [one]})
    assert session.function_of("delegate") == one and session.function_of("hangup") is None
    session.update({"tools": [one, other]})
    assert session.function_of("delegate") == other
    session.update({"tool_choice": "none"})
    assert session.function_of("delegate") is None
    assert arguments_of(one, "3 plus 4") == '{"task": "3 plus 4"}'
    assert arguments_of(other, "3 plus 4") == '{"request": "3 plus 4"}'
