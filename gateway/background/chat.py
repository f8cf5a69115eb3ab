"""One request to an OpenAI-compatible endpoint: `POST /chat/completions`, answered as server-sent events.

    Said(text) ...  and at the end  Turn(calls, tokens in and out)

What comes back is typed where it comes in, and bounded: a line, an answer, its number of tool calls. Anything else
is a `ChatError` that says whether it may pass. Its one rule: nothing here tries again.

aiohttp and not a client library: that is here already, its reader has a bound for a line, and a server's garbage
would come out of the client libraries as whatever their models raise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError

from gateway.reading import reader

MOST_LINE_BYTES: Final = 1 << 17
MOST_ANSWER_BYTES: Final = 1 << 18
MOST_CALLS: Final = 8
PASSING: Final = (408, 409, 425, 429, 500, 502, 503, 504)
MOST_RETRY_AFTER_S: Final = 30.0
_MOST_TOKENS: Final = 10_000_000


class ChatError(Exception):
    """The message is for people, and holds nothing of the conversation."""

    def __init__(self, reason: str, *, passes: bool, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.passes, self.retry_after_s = passes, retry_after_s


@dataclass(frozen=True, slots=True)
class Said:
    """More of the answer."""

    text: str


@dataclass(slots=True)
class ToolCall:
    """What the model wants to be called; `arguments` is JSON as it wrote it."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Turn:
    """The end of an answer."""

    calls: list[ToolCall] = field(default_factory=list)
    tokens_in: int | None = None
    """As the endpoint says; None where it does not."""
    tokens_out: int | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = reader(msgspec.json.Decoder(_Event).decode)


class Chat:
    """One endpoint and model; belongs to one event loop."""

    def __init__(self, url: str, key: str, model: str, answer_s: float) -> None:
        self._url, self._model = f"{url}/chat/completions", model
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=answer_s, sock_read=answer_s)
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], most_tokens: int
    ) -> AsyncIterator[Said | Turn]:
        """Pieces as they come, and one `Turn` last. Raises `ChatError`."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, read_bufsize=MOST_LINE_BYTES)
        wish: dict[str, Any] = {
            "model": self._model, "messages": messages, "max_tokens": most_tokens,
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        if tools:
            wish["tools"] = tools
        try:
            async with self._session.post(
                self._url, data=msgspec.json.encode(wish), allow_redirects=False,
                headers={**self._headers, "Content-Type": "application/json", "Accept": "text/event-stream"},
            ) as answer:  # fmt: skip
                if answer.status != 200:
                    raise _refusal(answer)
                async for event in _events(answer.content):
                    yield event
        except (aiohttp.ClientError, TimeoutError, OSError) as wrong:
            raise ChatError(f"the endpoint does not answer ({type(wrong).__name__})", passes=True) from None

    async def close(self) -> None:
        """Its connections."""
        if self._session is not None:
            await self._session.close()


def _refusal(answer: aiohttp.ClientResponse) -> ChatError:
    try:
        wait_s = float(answer.headers.get("Retry-After", "0"))
    except ValueError:  # a date: we have a pause of our own
        wait_s = 0.0
    wait_s = min(wait_s, MOST_RETRY_AFTER_S) if wait_s > 0 else 0.0
    return ChatError(
        f"the endpoint answers {answer.status}", passes=answer.status in PASSING, retry_after_s=wait_s
    )


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[Said | Turn]:
    turn, calls, size, ended = Turn(), dict[int, ToolCall](), 0, False
    while True:
        try:
            line = await content.readline()
        except (ValueError, HttpProcessingError):  # by version of aiohttp
            raise ChatError("the endpoint sends a line without an end", passes=True) from None
        size += len(line)
        if size > MOST_ANSWER_BYTES:
            raise ChatError("the endpoint's answer has no end", passes=True)
        if not line:
            break
        data = line.strip()
        if not data.startswith(b"data:"):  # comments, other fields, the blank between events
            continue
        data = data[5:].strip()
        if data == b"[DONE]":
            ended = True
            break
        event = _event(data)
        if event.usage is not None:
            turn.tokens_in = max(0, min(event.usage.prompt_tokens, _MOST_TOKENS))
            turn.tokens_out = max(0, min(event.usage.completion_tokens, _MOST_TOKENS))
        for choice in event.choices[:1]:
            ended = ended or choice.finish_reason is not None
            if choice.delta is not None:
                _note_calls(calls, choice.delta.tool_calls or ())
                if choice.delta.content:
                    yield Said(choice.delta.content)
    if not ended:
        raise ChatError("the endpoint's answer breaks off", passes=True)
    turn.calls = [call for _, call in sorted(calls.items()) if call.name]
    yield turn


def _event(data: bytes) -> _Event:
    try:
        event: _Event = _decode(data)
    except msgspec.MsgspecError:
        raise ChatError("the endpoint sends what is no chat completion", passes=True) from None
    if event.error is not None:
        raise ChatError("the endpoint reports an error", passes=True)
    return event


def _note_calls(calls: dict[int, ToolCall], deltas: Sequence[_Call]) -> None:
    for delta in deltas:
        if delta.index not in calls and len(calls) >= MOST_CALLS:
            continue
        call = calls.setdefault(delta.index, ToolCall())
        call.id = delta.id or call.id
        if delta.function is not None:
            call.name = call.name or delta.function.name or ""
            call.arguments += delta.function.arguments or ""
