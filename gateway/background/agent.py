"""Answers by a model with tools: it is asked, calls what it wants, and is asked again, a few times at most.

A request that fails is tried again with longer and longer pauses. What was said already stays said: the model is
given it as its own beginning, and goes on from there; so it is with a task that another worker began.
"""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Protocol

import msgspec

from gateway.background.chat import Chat, ChatError, Said, ToolCall, Turn
from gateway.background.conversation import written
from gateway.background.records import Order, Still
from gateway.background.tools import Toolbox
from gateway.background.work import Doing, NoAnswer, Step, Words

MOST_ROUNDS: Final = 6
"""Requests with tool calls between them."""
FIRST_PAUSE_S: Final = 0.25
BYTES_PER_TOKEN: Final = 3
"""For a guess beforehand: English has four."""
TOKENS_PER_STILL: Final = 400
"""Likewise: 320x240 are 85 to 300, by endpoint."""
LOOK: Final = "look"
LOOK_IS: Final = (
    "What the caller's camera shows now: one small picture. Only for questions about what can be seen."
)

TASK: Final = (
    "You work in the background for a voice assistant that is in a live call and goes on talking to the caller. "
    "It has handed the caller's last question to you. Find the answer, with the tools where they help, and write "
    "what it is to tell the caller: one to three short sentences of plain text that can be spoken. No markup, no "
    "questions."
)
NUMBER: Final = (
    "You work in the background for a voice assistant that is in a live call. It has handed the caller's last "
    "question to you. It can only read whole numbers from 0 to 20: answer with that number in digits and nothing "
    "else, or with the word none."
)
GO_ON: Final = "Your answer broke off there. Go on exactly where it stopped, without repeating anything."


class Meter(Protocol):
    """What a call may still cost."""

    async def reserve(self, call: str, tokens_in: int, tokens_out: int) -> bool:
        """Count it; False when that would be more than the call may cost, and nothing is counted."""
        ...

    async def correct(self, call: str, tokens_in: int, tokens_out: int) -> None:
        """By so much more, or less, than was reserved."""
        ...


class Eyes(Protocol):
    """What the caller shows."""

    async def look(self, order: Order) -> Still:
        """A picture of now, or why there is none."""
        ...


class Agent:
    """`work.Answerer`."""

    def __init__(
        self,
        chat: Chat,
        tools: Toolbox,
        meter: Meter,
        *,
        tries: int,
        answer_tokens: int,
        eyes: Eyes | None = None,
        seed: int | None = None,
    ) -> None:
        """With `eyes` it may `look`; `ValueError` when a tool has that name already."""
        if eyes is not None and any(tool.name == LOOK for tool in tools):
            raise ValueError(
                f"a tool is called {LOOK!r}, as the worker's own is: background_stills = 0 takes it out"
            )
        self._eyes = eyes
        self._chat, self._tools, self._meter = chat, tools, meter
        self._tries, self._answer_tokens = tries, answer_tokens
        self._schemas = [_schema(t.name, t.description, t.parameters) for t in tools]
        self._random = random.Random(seed)

    async def answer(self, order: Order, said: str) -> AsyncIterator[Step]:
        """See `Answerer`."""
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": NUMBER if order.reads == "numbers" else TASK},
            {"role": "user", "content": _question(order)},
        ]
        schemas = self._schemas
        if self._eyes is not None and order.camera:
            schemas = [*schemas, _schema(LOOK, LOOK_IS, {"type": "object", "properties": {}})]
        for _ in range(MOST_ROUNDS):
            turn = Turn()
            async for step in self._round(order, messages, schemas, said):
                if isinstance(step, Turn):
                    turn = step
                else:
                    said += step.text
                    yield step
            if not turn.calls:
                return
            messages.append(
                {"role": "assistant", "content": said or None, "tool_calls": _as_json(turn.calls)}
            )
            said = ""
            shown: list[dict[str, Any]] = []
            for call in turn.calls:
                yield Doing(call.name[:60])
                told, jpeg = await self._do(order, call)
                if jpeg:
                    shown.append(_picture(jpeg))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": told})
            messages += shown  # after all of them: what a tool says can only be text there
        raise NoAnswer(f"the model calls tools and does not answer, {MOST_ROUNDS} times")

    async def close(self) -> None:
        """See `Answerer`."""
        await self._chat.close()

    async def _do(self, order: Order, call: ToolCall) -> tuple[str, bytes]:
        """What a tool says, and a JPEG where it shows something."""
        if call.name != LOOK or self._eyes is None:
            return await self._tools.call(call.name, call.arguments), b""
        if not order.camera:
            return "error: the caller shows no camera", b""
        still = await self._eyes.look(order)
        return ("Here it is.", still.jpeg) if still.jpeg else (f"error: {still.reason}", b"")

    async def _round(
        self, order: Order, messages: list[dict[str, Any]], schemas: list[dict[str, Any]], said: str
    ) -> AsyncIterator[Words | Turn]:
        """One answer of the model, however often it has to be asked for it."""
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, self._tries + 1):
            asked = messages
            if said:
                asked = [
                    *messages,
                    {"role": "assistant", "content": said},
                    {"role": "user", "content": GO_ON},
                ]
            reserved = await self._reserve(order.call, asked, schemas)
            heard, turn = "", Turn()
            try:
                async for event in self._chat.ask(asked, schemas, self._answer_tokens):
                    if isinstance(event, Said):
                        heard += event.text
                        yield Words(event.text)
                    else:
                        turn = event
                yield turn
                return
            except ChatError as wrong:
                if not wrong.passes or attempt == self._tries:
                    raise NoAnswer(f"{wrong}, {attempt} time{'s' * (attempt > 1)}") from None
                wait_s = max(wrong.retry_after_s, pause_s * self._random.uniform(0.75, 1.25))
            finally:
                await self._correct(order.call, reserved, heard, turn)
            said += heard
            await asyncio.sleep(wait_s)
            pause_s *= 2

    async def _reserve(
        self, call: str, messages: list[dict[str, Any]], schemas: list[dict[str, Any]]
    ) -> tuple[int, int]:
        pictures = [message for message in messages if isinstance(message["content"], list)]
        texts = [message for message in messages if not isinstance(message["content"], list)]
        size = len(msgspec.json.encode(texts)) + len(msgspec.json.encode(schemas))
        wanted = size // BYTES_PER_TOKEN + 1 + TOKENS_PER_STILL * len(pictures), self._answer_tokens
        if not await self._meter.reserve(call, *wanted):
            raise NoAnswer("this call has cost what it may cost")
        return wanted

    async def _correct(self, call: str, reserved: tuple[int, int], heard: str, turn: Turn) -> None:
        """What the endpoint says that it was, or what it must have been; a refusal may have cost the input, too."""
        out = turn.tokens_out if turn.tokens_out is not None else len(heard.encode()) // BYTES_PER_TOKEN + 1
        into = turn.tokens_in if turn.tokens_in is not None else reserved[0]
        await self._meter.correct(call, into - reserved[0], out - reserved[1])


def _question(order: Order) -> str:
    parts = []
    if conversation := written(order.lines):
        parts.append(
            f"The conversation so far, as it was heard by a machine; the model is the assistant:\n{conversation}"
        )
    if order.request:
        parts.append(f"What the assistant handed to you:\n{order.request}")
    return "\n\n".join(parts)


def _schema(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


def _picture(jpeg: bytes) -> dict[str, Any]:
    url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    return {
        "role": "user",
        "content": [
            {"type": "text", "text": "What the caller's camera shows now:"},
            {"type": "image_url", "image_url": {"url": url}},
        ],
    }


def _as_json(calls: list[ToolCall]) -> list[dict[str, Any]]:
    return [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
        for c in calls
    ]
