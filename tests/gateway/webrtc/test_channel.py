"""The data channel's messages, on a wire that remembers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.webrtc.channel import (
    MAX_BUFFERED_BYTES,
    MAX_TEXT_BYTES,
    MESSAGES_PER_S,
    Bye,
    Channel,
    Hello,
    Message,
    Subscribe,
    Text,
    Withdraw,
)
from media.timebase import NS_PER_S


class Wire:
    readyState = "open"
    bufferedAmount = 0

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, data: Any) -> None:
        self.sent.append(json.loads(data))


class Line:
    def __init__(self) -> None:
        self.wire, self.taken = Wire(), list[Message]()
        self.channel = Channel(self.wire, self.taken.append)
        self.now_ns = NS_PER_S

    def receive(self, data: object) -> None:
        self.now_ns += NS_PER_S
        self.channel.receive(data, self.now_ns)

    def codes(self) -> list[str]:
        return [message["code"] for message in self.wire.sent if message["type"] == "error"]


def test_the_five_messages_of_a_browser() -> None:
    line = Line()
    for message in (
        {"type": "hello", "version": 1},
        {"type": "text", "text": "Grüße"},
        {"type": "subscribe", "every_turns": 99},
        {"type": "withdraw", "task": "1-ab"},
        {"type": "bye"},
    ):
        line.receive(json.dumps(message))
    assert line.taken == [Hello(1), Text("Grüße"), Subscribe(99), Withdraw("1-ab"), Bye()]
    assert line.channel.every_turns == 25  # bounded
    assert not line.wire.sent


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("{", "not-json"),
        ('{"type":"hello","version":1,"x":' + "[" * 2000, "not-json"),
        ("[1]", "unknown-type"),
        ('{"type":"dance"}', "unknown-type"),
        ('{"type":"text"}', "unknown-type"),
        ('{"type":"text","text":7}', "unknown-type"),
        (b"\x00\x01", "not-json"),
        (None, "not-json"),
        ("x" * 5000, "too-long"),
        (json.dumps({"type": "text", "text": "x" * (MAX_TEXT_BYTES + 1)}), "too-long"),
        (
            json.dumps({"type": "text", "text": "ü" * (MAX_TEXT_BYTES // 2 + 1)}, ensure_ascii=False),
            "too-long",
        ),
    ],
)
def test_what_is_wrong_is_said_and_the_channel_goes_on(data: object, code: str) -> None:
    line = Line()
    line.receive(data)
    assert line.codes() == [code]
    line.receive('{"type":"bye"}')
    assert line.taken == [Bye()]


def test_a_flood_is_refused_and_then_forgiven() -> None:
    line = Line()
    for _ in range(3 * MESSAGES_PER_S):
        line.channel.receive('{"type":"text","text":"a"}', NS_PER_S)
    assert len(line.taken) == MESSAGES_PER_S
    assert line.codes() == ["too-fast"] * 2 * MESSAGES_PER_S
    line.now_ns = NS_PER_S
    line.receive('{"type":"bye"}')
    assert line.taken[-1] == Bye()


def test_a_browser_that_does_not_read_is_owed_no_more_than_the_bound() -> None:
    line = Line()
    line.wire.bufferedAmount = MAX_BUFFERED_BYTES + 1
    assert not line.channel.send("caption", turn=1, text="a")
    line.wire.bufferedAmount = 0
    assert line.channel.send("caption", turn=2, text="ü")
    assert line.wire.sent == [{"type": "caption", "turn": 2, "text": "ü"}]
    assert line.channel.dropped == 1


@given(st.one_of(st.text(), st.binary(), st.integers(), st.recursive(st.none(), st.lists).map(json.dumps)))
def test_nothing_that_a_browser_sends_raises(data: object) -> None:
    line = Line()
    line.receive(data)
    assert len(line.taken) + line.channel.refused == 1
