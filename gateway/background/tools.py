"""Tools that a model may call: a name, a JSON schema of what it takes, and a text that comes of it.

A call never raises: what went wrong is the tool's text, for the model to make something of. Everything has a bound:
time, length of what is given and of what comes back.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pydantic

from gateway.background.records import cut_text
from gateway.background.threads import Threads
from gateway.reading import read_json

MOST_RESULT_BYTES: Final = 8_192
MOST_ARGUMENT_BYTES: Final = 16_384
MOST_TOOLS: Final = 64


@dataclass(frozen=True, slots=True)
class Tool:
    """One of them."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of an object."""
    run: Callable[[dict[str, Any]], Awaitable[str]]


class Toolbox:
    """All that a worker has."""

    def __init__(self, tools: Iterable[Tool], patience_s: float) -> None:
        """`ValueError` for two of one name, or too many."""
        self._tools: dict[str, Tool] = {}
        self._patience_s = patience_s
        for tool in tools:
            if tool.name in self._tools:
                raise ValueError(f"two tools are called {tool.name!r}: leave one out")
            self._tools[tool.name] = tool
        if len(self._tools) > MOST_TOOLS:
            raise ValueError(f"{len(self._tools)} tools: a model is given {MOST_TOOLS} at most")

    def __iter__(self) -> Any:
        return iter(self._tools.values())

    async def call(self, name: str, arguments: str) -> str:
        """What comes of it, or what went wrong. `arguments` is JSON, as a model wrote it."""
        tool = self._tools.get(name)
        if tool is None:
            return cut_text(
                f"error: there is no tool {name[:60]!r}, only {', '.join(self._tools)}", MOST_RESULT_BYTES
            )
        try:
            given = read_json(arguments[:MOST_ARGUMENT_BYTES] or "{}", dict[str, Any])
            async with asyncio.timeout(self._patience_s):
                told = await tool.run(given)
        except msgspec.MsgspecError:
            return "error: the arguments are no JSON object"
        except TimeoutError:
            return f"error: no answer within {self._patience_s:g} s"
        except Exception as wrong:  # the edge of a tool, which is anybody's code
            return cut_text(f"error: {wrong}", MOST_RESULT_BYTES)
        return cut_text(told, MOST_RESULT_BYTES)


def of_function(function: Any, threads: Threads | None = None) -> Tool:
    """A plain function, or an async one, with annotated arguments; its documentation begins with what it does.

    A plain one runs in one of the `threads`, which goes on when its time is over: see there for what that costs.
    `ValueError` for one without annotations that JSON can carry.
    """
    threads = threads or Threads()
    name = function.__name__
    try:
        schema = pydantic.TypeAdapter(function).json_schema()
        checked = pydantic.validate_call(function)
    except pydantic.PydanticUserError as wrong:
        raise ValueError(f"tool {name!r}: its arguments have no JSON schema ({wrong.code})") from None
    if schema.get("type") != "object":
        raise ValueError(f"tool {name!r}: its arguments must be givable by name")

    async def run(arguments: dict[str, Any]) -> str:
        if inspect.iscoroutinefunction(function):
            told = await checked(**arguments)
        else:
            told = await threads.run(name, checked, **arguments)
        return told if isinstance(told, str) else msgspec.json.encode(told).decode()

    about = (inspect.getdoc(function) or name).partition("\n\n")[0]
    return Tool(name, about, schema, run)


def load(names: Iterable[str], threads: Threads | None = None) -> list[Tool]:
    """Functions by MODULE:FUNCTION; `ValueError` says which is not there."""
    tools = []
    for name in names:
        module, _, function = name.partition(":")
        try:
            tools.append(of_function(getattr(importlib.import_module(module), function), threads))
        except (ImportError, AttributeError) as wrong:
            raise ValueError(f"background_tools has {name!r}, which is not there: {wrong}") from None
    return tools
