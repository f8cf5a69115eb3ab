"""A model with tools, at an endpoint over real HTTP that does what a test wishes."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.background.agent import GO_ON, MOST_ROUNDS, NUMBER, TASK, TOKENS_PER_STILL, Agent, Eyes
from gateway.background.chat import Chat, ChatError, Said, Turn
from gateway.background.records import Order, Spoken, Still
from gateway.background.small_tools import Orders, calculate
from gateway.background.tools import Toolbox, load, of_function
from gateway.background.work import Doing, NoAnswer, Words
from tests.gateway.background.support import order
from tests.support.chat_server import (
    ChatServer,
    Plan,
    breaks_off,
    call_tool,
    endless_line,
    garbage,
    never,
    refuse,
    stream,
)

ANSWER_S = 0.5


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer.start() as started:
        yield started


class Meter:
    def __init__(self, most: int = 10**9) -> None:
        self.spent, self.most = 0, most
        self.corrections: list[tuple[int, int]] = []

    async def reserve(self, call: str, tokens_in: int, tokens_out: int) -> bool:
        if self.spent + tokens_in + tokens_out > self.most:
            return False
        self.spent += tokens_in + tokens_out
        return True

    async def correct(self, call: str, tokens_in: int, tokens_out: int) -> None:
        self.corrections.append((tokens_in, tokens_out))
        self.spent += tokens_in + tokens_out


def ask(
    server: ChatServer,
    *plans: Plan,
    task: Order | None = None,
    said: str = "",
    meter: Meter | None = None,
    tries: int = 3,
    eyes: Eyes | None = None,
) -> tuple[str, list[str]]:
    """What it says and does."""

    async def run() -> tuple[str, list[str]]:
        tools = Toolbox([of_function(calculate), of_function(Orders().look_up_order)], 1.0)
        chat = Chat(server.url, "secret", "tiny", ANSWER_S)
        agent = Agent(chat, tools, meter or Meter(), tries=tries, answer_tokens=50, eyes=eyes, seed=1)
        steps = []
        try:
            async for step in agent.answer(task or order(), said):
                steps.append(step)
        finally:
            await agent.close()
        words = "".join(step.text for step in steps if isinstance(step, Words))
        return words, [step.note for step in steps if isinstance(step, Doing)]

    if plans:
        server.plan(*plans)
    return asyncio.run(asyncio.wait_for(run(), 60))


def test_what_it_is_asked_and_what_it_says(server: ChatServer) -> None:
    lines = (Spoken(0, "caller", "3 plus 4"), Spoken(2, "model", "let me check ", 3_200))
    assert ask(server, stream("It is", " seven."), task=order(lines=lines)) == ("It is seven.", [])
    (asked,) = server.requests
    assert asked["model"] == "tiny" and asked["stream"] and asked["max_tokens"] == 50
    assert asked["stream_options"] == {"include_usage": True} and server.keys == ["Bearer secret"]
    system, user = asked["messages"]
    assert system == {"role": "system", "content": TASK}
    assert "caller: 3 plus 4\nmodel: let me check" in user["content"]
    (first, _) = asked["tools"]
    assert first["function"]["name"] == "calculate" and first["type"] == "function"
    assert first["function"]["parameters"]["properties"] == {
        "expression": {"title": "Expression", "type": "string"}
    }


def test_who_reads_numbers_is_asked_for_one(server: ChatServer) -> None:
    assert ask(server, stream("7"), task=order(reads="numbers"))[0] == "7"
    assert server.requests[0]["messages"][0]["content"] == NUMBER


def test_it_calls_a_tool_and_goes_on_with_what_came_of_it(server: ChatServer) -> None:
    words, done = ask(server, call_tool("calculate", '{"expression": "3 + 4"}'), stream("It is seven."))
    assert (words, done) == ("It is seven.", ["calculate"])
    *_, wanted, told = server.requests[1]["messages"]
    function = {"name": "calculate", "arguments": '{"expression": "3 + 4"}'}
    assert wanted["tool_calls"] == [{"id": "call-1", "type": "function", "function": function}]
    assert told == {"role": "tool", "tool_call_id": "call-1", "content": "7"}


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("calculate", '{"expression": "1/0"}', "error: nothing can be divided by zero"),
        ("calculate", '{"expression": 7}', "error: 1 validation error"),
        ("calculate", "{}", "error: 1 validation error"),
        ("calculate", "[1]", "error: the arguments are no JSON object"),
        ("calculate", '{"expression', "error: the arguments are no JSON object"),
        ("rm", "{}", "error: there is no tool 'rm', only calculate, look_up_order"),
        ("look_up_order", '{"number": "4"}', "Order 4 is shipped"),
    ],
)
def test_a_tool_that_fails_is_told_to_the_model(
    server: ChatServer, name: str, arguments: str, told: str
) -> None:
    assert ask(server, call_tool(name, arguments), stream("Sorry."))[0] == "Sorry."
    assert server.requests[1]["messages"][-1]["content"].startswith(told)


def test_a_model_that_only_calls_tools_is_stopped(server: ChatServer) -> None:
    with pytest.raises(NoAnswer, match="does not answer"):
        ask(server, call_tool("calculate", '{"expression": "1"}'))
    assert len(server.requests) == MOST_ROUNDS


@pytest.mark.parametrize(
    ("plan", "told", "tries"),
    [
        (refuse(500), "the endpoint answers 500, 3 times", 3),
        (refuse(401), "the endpoint answers 401, 1 time", 1),
        (refuse(302, Location="/elsewhere"), "the endpoint answers 302, 1 time", 1),
        (garbage, "the endpoint sends what is no chat completion, 3 times", 3),
        (endless_line, "the endpoint sends a line without an end, 3 times", 3),
        (breaks_off(), "the endpoint's answer breaks off, 3 times", 3),
        (never, r"the endpoint does not answer \(SocketTimeoutError\), 3 times", 3),
    ],
)
def test_what_an_endpoint_can_do_wrong(server: ChatServer, plan: Plan, told: str, tries: int) -> None:
    with pytest.raises(NoAnswer, match=told):
        ask(server, plan)
    assert len(server.requests) == tries
    pauses = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert all(pause > 0.15 for pause in pauses) and pauses == sorted(pauses), pauses


def test_it_is_asked_again_and_waits_as_it_is_told(server: ChatServer) -> None:
    assert ask(server, refuse(429, Retry_After="1"), stream("Here."))[0] == "Here."
    assert server.times[1] - server.times[0] >= 1.0


def test_an_answer_that_broke_off_goes_on_where_it_stopped(server: ChatServer) -> None:
    assert ask(server, breaks_off("It is ", "sev"), stream("en."))[0] == "It is seven."
    assert server.requests[1]["messages"][-2:] == [
        {"role": "assistant", "content": "It is sev"},
        {"role": "user", "content": GO_ON},
    ]


def test_a_task_that_another_worker_began_goes_on_likewise(server: ChatServer) -> None:
    assert ask(server, stream("seven."), said="It is ")[0] == "seven."
    assert server.requests[0]["messages"][-2] == {"role": "assistant", "content": "It is "}


def test_what_a_call_may_cost_is_looked_at_before_each_request(server: ChatServer) -> None:
    with pytest.raises(NoAnswer, match="cost what it may cost"):
        ask(server, meter=Meter(most=100))
    assert not server.requests
    meter = Meter()
    ask(server, stream("It is seven.", tokens_in=321, tokens_out=7), meter=meter)
    assert meter.spent == 328
    ask(server, breaks_off("It is "), stream("seven.", tokens_in=2, tokens_out=1), meter=meter)
    assert 328 < meter.spent < 1_500  # of the first one nobody says what it cost


def test_an_endless_answer_is_cut_off(server: ChatServer) -> None:
    def plan(exchange: Any) -> None:
        exchange.begin()
        while not exchange.stopped.is_set():
            exchange.delta(content=1_000 * "x")

    async def run() -> None:
        chat = Chat(server.url, "", "tiny", ANSWER_S)
        got = 0
        try:
            with pytest.raises(ChatError, match="no end"):
                async for event in chat.ask([], [], 1):
                    assert isinstance(event, Said | Turn)
                    got += 1
        finally:
            await chat.close()
        assert 100 < got < 400

    server.plan(plan)
    asyncio.run(asyncio.wait_for(run(), 30))


# -- the caller's camera


class Camera:
    def __init__(self, *stills: Still) -> None:
        self.stills = list(stills)

    async def look(self, order: Order) -> Still:
        return self.stills.pop(0)


def offered(asked: dict[str, Any]) -> list[str]:
    return [tool["function"]["name"] for tool in asked["tools"]]


def test_it_looks_and_is_shown_a_picture(server: ChatServer) -> None:
    meter, jpeg = Meter(), b"\xff\xd8" + 30_000 * b"\x00"
    camera = Camera(Still(1, jpeg), Still(2, reason="the camera is off"))
    plans = (call_tool("look", "{}"), call_tool("look", "{}"), stream("A parrot."))
    words, done = ask(server, *plans, task=order(camera=True), meter=meter, eyes=camera)
    assert (words, done) == ("A parrot.", ["look", "look"])
    first, second, third = server.requests
    assert offered(first) == ["calculate", "look_up_order", "look"]
    *_, wanted, told, picture = second["messages"]
    assert wanted["tool_calls"][0]["function"]["name"] == "look" and told["role"] == "tool"
    assert picture["role"] == "user" and picture["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()},
    }
    assert third["messages"][-1]["content"] == "error: the camera is off"
    into = [asked for asked, _ in meter.corrections]
    assert abs(into[1] - into[0] + TOKENS_PER_STILL) < 100, into  # not 13,000 for its base64


def test_without_a_camera_nothing_is_offered_and_a_look_says_so(server: ChatServer) -> None:
    camera = Camera()
    assert ask(server, call_tool("look", "{}"), stream("No."), eyes=camera)[0] == "No."
    assert "look" not in offered(server.requests[0])
    assert server.requests[1]["messages"][-1]["content"] == "error: the caller shows no camera"
    assert ask(server, call_tool("look", "{}"), stream("No."), task=order(camera=True))[0] == "No."
    assert "look" not in offered(server.requests[2])  # background_stills = 0
    assert "there is no tool 'look'" in server.requests[3]["messages"][-1]["content"]


def look() -> str:
    """A tool of somebody's own."""
    return "nothing"


def test_a_tool_that_is_called_look_stops_the_start(server: ChatServer) -> None:
    chat = Chat(server.url, "", "tiny", 1.0)
    box = Toolbox([of_function(look)], 1.0)
    with pytest.raises(ValueError, match="background_stills = 0"):
        Agent(chat, box, Meter(), tries=1, answer_tokens=1, eyes=Camera())
    Agent(chat, box, Meter(), tries=1, answer_tokens=1)


# -- tools of one's own


def weather(city: str, days: int = 1) -> dict[str, object]:
    """How the weather will be.

    This is not for the model.
    """
    return {"city": city, "days": days}


async def slow() -> str:
    await asyncio.sleep(60)
    return "never"


def no_types(a, b):  # type: ignore[no-untyped-def]
    return a


def test_a_python_function_is_a_tool() -> None:
    (tool,) = (
        load([f"{__name__}:weather"]) if __name__ in __import__("sys").modules else [of_function(weather)]
    )
    assert tool.name == "weather" and tool.description == "How the weather will be."
    assert tool.parameters["required"] == ["city"]
    box = Toolbox([tool, of_function(slow)], 0.1)
    assert json.loads(asyncio.run(box.call("weather", '{"city": "Ulm", "days": "3"}'))) == {
        "city": "Ulm",
        "days": 3,
    }
    assert asyncio.run(box.call("slow", "")) == "error: no answer within 0.1 s"


def test_functions_that_are_none() -> None:
    with pytest.raises(ValueError, match="is not there"):
        load(["no.such.module:f"])
    with pytest.raises(ValueError, match="is not there"):
        load(["json:no_such_function"])
    with pytest.raises(ValueError, match="two tools"):
        Toolbox([of_function(weather), of_function(weather)], 1.0)
