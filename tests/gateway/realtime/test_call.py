"""A call by its events: what a client of the package `openai` would read. `Wire` holds each against its types."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import control
from gateway.realtime import events
from tests.gateway.realtime.wire import Line, tone

ASK = {"type": "function", "name": "ask", "parameters": {"properties": {"what": {"type": "string"}}}}


def begin_to_speak(line: Line, text: str = "one ") -> None:
    line.turn(tone(), text)
    line.turn(tone())


def test_it_begins_with_the_session() -> None:
    line = Line()
    assert line.types() == ["session.created"]
    assert line.wire.read[0]["session"]["model"] == "digits"


def test_what_the_model_says_is_a_response_in_the_order_of_the_protocol() -> None:
    line = Line()
    line.append(tone(4_800, 24_000))
    for text in ("one ", "", "two\n", "", "", ""):
        line.turn(tone() if text else None, text)
    kinds = list(dict.fromkeys(line.types()))
    assert kinds == [
        "session.created", "input_audio_buffer.committed", "conversation.item.added", "conversation.item.done",
        "response.created", "response.output_item.added", "response.content_part.added",
        "response.output_audio_transcript.delta", "response.output_audio.delta", "response.output_audio.done",
        "response.output_audio_transcript.done", "response.content_part.done", "response.output_item.done",
        "response.done",
    ]  # fmt: skip
    done = line.newest("response.done")["response"]
    assert done["status"] == "completed" and done["output"][0]["content"][0]["transcript"] == "one two\n"
    usage = done["usage"]
    assert usage["output_token_details"]["text_tokens"] == 2
    assert usage["output_token_details"]["audio_tokens"] == len(line.sound()) / 2 / 24_000 / 0.05
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_sound_is_sent_when_it_is_heard_and_silence_is_not() -> None:
    line = Line()
    for _ in range(10):
        line.turn()
    assert not line.of("response.created")
    begin_to_speak(line)
    before = len(line.of("response.output_audio.delta"))
    line.turn(tone())
    assert len(line.of("response.output_audio.delta")) == before + 10
    samples = np.frombuffer(line.sound(), np.int16)
    assert np.abs(samples).max() > 7_000


@pytest.mark.parametrize(("form", "frame"), [("audio/pcm", 960), ("audio/pcmu", 160), ("audio/pcma", 160)])
def test_sound_in_each_format(form: str, frame: int) -> None:
    line = Line()
    formats = {"input": {"format": {"type": form}}, "output": {"format": {"type": form}}}
    told = line.say(type="session.update", session={"type": "realtime", "audio": formats})
    assert [event["type"] for event in told] == ["session.updated"]
    begin_to_speak(line)
    assert len(line.sound()) % frame == 0 and line.sound()


def test_words_go_to_the_model_in_the_next_turn_and_wait_for_room() -> None:
    line = Line()
    item = {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "three\nplus four"}],
    }
    told = line.say(type="conversation.item.create", item=item)
    assert [event["type"] for event in told] == ["conversation.item.added", "conversation.item.done"]
    line.say(type="microturn.text", text="and five")
    for _ in range(4):
        line.turn()
    assert [chunk.text for chunk in line.chunks if chunk.text] == ["three plus four", "and five"]
    retrieved = line.say(type="conversation.item.retrieve", item_id=told[0]["item"]["id"])
    assert retrieved[0]["item"]["content"][0]["text"] == "three\nplus four"


def test_instructions_that_name_a_persona_are_one() -> None:
    line = Line()
    line.say(type="session.update", session={"instructions": "persona: interpret"})
    line.turn()
    line.turn()
    assert "persona interpret" in [chunk.text for chunk in line.chunks]
    other = Line(engine="moshi")
    told = other.say(type="session.update", session={"instructions": "persona: interpret"})
    assert told[0]["error"]["code"] == "unsupported_value"


def test_silence_for_the_caller_cancels_the_response() -> None:
    line = Line()
    begin_to_speak(line)
    for _ in range(3):
        line.append(tone(4_800, 24_000))
    line.turn(tone())
    line.turn(flush=True)
    done = line.newest("response.done")["response"]
    assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "turn_detected")
    started = line.newest("input_audio_buffer.speech_started")
    begin_to_speak(line, "two ")
    assert line.newest("input_audio_buffer.speech_stopped")["item_id"] == started["item_id"]


def test_silence_by_itself_does_not() -> None:
    line = Line()
    begin_to_speak(line)
    line.turn(flush=True)
    assert not line.of("input_audio_buffer.speech_started")
    for _ in range(6):
        line.turn()
    assert line.newest("response.done")["response"]["status"] == "completed"


def test_a_cancelled_response_is_not_heard_until_the_model_was_silent() -> None:
    line = Line()
    assert line.say(type="response.cancel")[0]["error"]["code"] == "response_cancel_not_active"
    begin_to_speak(line)
    line.say(type="response.cancel")
    done = line.newest("response.done")["response"]
    assert (done["status"], done["status_details"]["reason"]) == ("cancelled", "client_cancelled")
    before = len(line.sound())
    for _ in range(4):
        line.turn(tone(), "more ")
    assert len(line.sound()) == before
    line.turn()
    begin_to_speak(line, "again ")
    line.turn(tone())
    assert len(line.sound()) > before and line.call.leg.playout.ledger.withheld > 3 * 3_200


def test_who_asks_for_a_response_gets_one_even_if_there_is_nothing_to_say() -> None:
    line = Line()
    told = line.say(type="response.create", response={"metadata": {"client_event_id": "x"}})
    assert told[-1]["type"] == "response.created" and told[-1]["response"]["metadata"] == {
        "client_event_id": "x"
    }
    assert not line.say(type="response.create")
    assert line.say(type="response.create")[0]["error"]["code"] == "conversation_already_has_active_response"
    for _ in range(51):
        line.turn()
    done = line.of("response.done")[0]["response"]
    assert done["status"] == "completed" and done["output"] == []
    begin_to_speak(line)
    assert len(line.of("response.created")) == 2


def test_what_is_said_to_a_response_that_was_asked_for_comes_before_it_in_the_conversation() -> None:
    """Frameworks ask for one before anybody has spoken (found with Pipecat)."""
    line = Line()
    line.say(type="session.update", session={"audio": {"input": {"transcription": {"model": "any"}}}})
    line.say(type="response.create")
    line.append(tone(4_800, 24_000))
    line.turn(None, "", "heard one")
    assert not line.of("conversation.item.input_audio_transcription.completed")
    since = len(line.wire.read)
    begin_to_speak(line)
    asked = line.types(since)
    assert asked.index("conversation.item.input_audio_transcription.completed") < asked.index(
        "response.output_item.added"
    )
    items = [told["item"]["role"] for told in line.of("conversation.item.added")]
    assert items[-2:] == ["user", "assistant"] and len(line.of("response.created")) == 1
    assert line.newest("conversation.item.input_audio_transcription.completed")["transcript"] == "one"


@pytest.mark.parametrize(
    ("metadata", "code", "param"),
    [
        ({str(number): "" for number in range(17)}, "object_above_max_properties", "response.metadata"),
        ({"k" * 65: ""}, "string_above_max_length", "response.metadata"),
        ({"k": "v" * 513}, "string_above_max_length", "response.metadata.k"),
        ({"k": 1}, "invalid_type", "response.metadata.k"),
        ("k", "invalid_type", "response.metadata"),
    ],
)
def test_metadata_of_a_response_are_bounded(metadata: object, code: str, param: str) -> None:
    line = Line()
    told = line.say(type="response.create", event_id="mine", response={"metadata": metadata})
    error = told[-1]["error"]
    assert (error["code"], error["param"], error["event_id"]) == (code, param, "mine")
    assert not line.of("response.created")
    most = {f"{number:064}": "v" * 512 for number in range(16)}
    told = line.say(type="response.create", response={"metadata": most})
    assert told[-1]["response"]["metadata"] == most


def test_a_question_is_a_function_call_and_its_output_goes_the_way_of_tasks() -> None:
    line = Line(engine="echo")
    line.say(type="session.update", session={"tools": [ASK], "microturn": {"events": True}})
    line.turn(None, "", "delegate caller: 3 plus 4")
    called = line.newest("response.function_call_arguments.done")
    assert called["name"] == "ask" and json.loads(called["arguments"]) == {"what": "caller: 3 plus 4"}
    assert line.newest("response.done")["response"]["output"][0]["type"] == "function_call"
    assert not [told for told in line.told if isinstance(told, control.Delegated)]
    output = {"type": "function_call_output", "call_id": called["call_id"], "output": "7"}
    assert line.say(type="conversation.item.create", item=output)[-1]["type"] == "conversation.item.done"
    again = line.say(type="conversation.item.create", item=output)
    assert again[0]["error"]["param"] == "item.call_id"
    line.turn()
    line.turn()
    assert "result 7" in [chunk.text for chunk in line.chunks]
    states = [event["state"] for event in line.of("microturn.task")]
    assert states == ["asked", "done"]


def test_a_long_output_comes_in_pieces_none_of_which_is_lost() -> None:
    line = Line(engine="echo")
    line.say(type="session.update", session={"tools": [ASK]})
    line.turn(None, "", "delegate a story")
    words = [f"word{number}" for number in range(400)]
    output = {
        "type": "function_call_output", "output": " ".join(words),
        "call_id": line.newest("response.function_call_arguments.done")["call_id"],
    }  # fmt: skip
    line.say(type="conversation.item.create", item=output)
    for _ in range(20):
        line.turn()
    given = " ".join(chunk.text.removeprefix("result ") for chunk in line.chunks if chunk.text)
    assert given.split() == words


def test_without_functions_a_question_goes_to_background_workers() -> None:
    line = Line()
    line.turn(None, "", "delegate 3 plus 4")
    assert [told.request for told in line.told if isinstance(told, control.Delegated)] == ["3 plus 4"]
    assert not line.of("response.function_call_arguments.done")


def test_a_function_that_never_answers_fails_by_its_deadline() -> None:
    line = Line()
    line.say(type="session.update", session={"tools": [ASK]})
    line.turn(None, "", "delegate 3 plus 4")
    for _ in range(302):
        line.turn()
    assert "failed" in [chunk.text for chunk in line.chunks]
    assert not [told for told in line.told if isinstance(told, control.Withdrawn)]


def test_an_action_of_the_model_is_told_and_ends_the_call() -> None:
    line = Line()
    hang_up = {"type": "function", "name": "hangup"}
    line.say(type="session.update", session={"tools": [hang_up, ASK], "microturn": {"events": True}})
    line.turn(None, "", "hangup")
    assert line.newest("response.function_call_arguments.done")["name"] == "hangup"
    assert line.newest("microturn.action")["action"] == "hangup"
    assert line.ended == ["hangup"] and line.call.cause == "model" and line.wire.is_closed


def test_words_that_the_model_heard_are_the_items_transcript() -> None:
    line = Line()
    line.say(type="session.update", session={"audio": {"input": {"transcription": {"model": "any"}}}})
    line.append(tone(4_800, 24_000))
    line.turn(None, "", "heard three", "heard four")
    begin_to_speak(line)
    completed = line.newest("conversation.item.input_audio_transcription.completed")
    assert completed["transcript"] == "three four"


def test_truncation_is_answered_and_bounded() -> None:
    line = Line()
    begin_to_speak(line)
    item = line.newest("response.output_item.added")["item"]["id"]
    told = line.say(type="conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=100)
    assert told[0]["type"] == "conversation.item.truncated"
    told = line.say(type="conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=9_000)
    assert told[0]["error"]["param"] == "audio_end_ms"
    told = line.say(type="conversation.item.truncate", item_id="nobody", content_index=0, audio_end_ms=0)
    assert told[0]["error"]["param"] == "item_id"


def test_sound_beyond_the_bound_is_refused_and_told_once_a_turn() -> None:
    line = Line()
    for _ in range(16):
        assert not line.append(tone(48_000, 24_000))
    line.turn()
    errors = line.of("error")
    assert [event["error"]["code"] for event in errors] == ["input_audio_buffer_full"]
    assert errors[0]["error"]["message"].startswith("2000 ms")
    assert line.call.counts()["realtime_refused_us"] == 2_000_000


def test_clear_and_commit() -> None:
    line = Line()
    assert line.say(type="input_audio_buffer.commit")[0]["error"]["code"] == "input_audio_buffer_commit_empty"
    line.append(tone(48_000, 24_000))
    line.turn()
    assert line.say(type="input_audio_buffer.clear")[0]["type"] == "input_audio_buffer.cleared"
    line.turn()
    assert not line.chunks[-1].pcm[100:].any()
    assert line.say(type="input_audio_buffer.commit")[0]["type"] == "input_audio_buffer.committed"


def test_what_is_wrong_is_told_with_the_events_own_id() -> None:
    line = Line()
    told = line.say(type="conversation.item.delete", item_id="x", event_id="mine")
    assert told[0]["error"]["event_id"] == "mine" and line.call.counts()["realtime_errors"] == 1


NAMES = (
    *(
        "type",
        "audio",
        "input",
        "output",
        "format",
        "rate",
        "tools",
        "name",
        "parameters",
        "properties",
        "content",
    ),
    *(
        "text",
        "role",
        "item",
        "call_id",
        "voice",
        "turn_detection",
        "instructions",
        "tool_choice",
        "metadata",
    ),
)
_ANY: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**12) | st.text(max_size=8) | st.sampled_from(NAMES),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_whatever_comes_the_call_goes_on(data: st.DataObject) -> None:
    line = Line()
    for _ in range(5):
        kind = data.draw(st.sampled_from(events.TYPES))
        fields = {
            name: data.draw(_ANY)
            for name in ("session", "item", "response", "item_id", "audio_end_ms", "audio", "text", "task")
            if data.draw(st.booleans())
        }
        if isinstance(fields.get("item"), dict):
            fields["item"].setdefault("type", data.draw(st.sampled_from(("message", "function_call_output"))))
        line.say(type=kind, **fields)
        line.turn(tone(), "x ")
    assert not line.ended


def test_the_end_closes_what_is_open() -> None:
    line = Line()
    begin_to_speak(line)
    line.call.end("drain")
    assert line.newest("response.done")["response"]["status"] == "cancelled"
    assert line.call.cause == "drain" and line.wire.is_closed
