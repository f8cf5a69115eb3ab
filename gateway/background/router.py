"""Answers without a model: the caller's words go to a tool by fixed rules. It understands nothing else.

| the caller's newest words have | tool | who reads numbers gets |
|---|---|---|
| NUMBER `plus`, `minus`, `times`, `divided by` NUMBER | calculator | the value |
| `how many` ... NUMBER, `order` NUMBER | order look-up | how many items |
| `time`, `clock`, `date`, `day` | clock | nothing: there is no number for it |

The match that ends last counts. Where none does, or its tool fails, there is no answer, and the model is told so.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Literal

from gateway.background.records import Order
from gateway.background.small_tools import Orders, calculate, clock
from gateway.background.threads import Refused, Threads
from gateway.background.work import Doing, NoAnswer, Step, Words

_WORDS: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_NUMBERS: Final = {word: str(value) for value, word in enumerate(_WORDS)} | {"oh": "0"}
_SIGNS: Final = {
    "plus": "+",
    "minus": "-",
    "times": "*",
    "multiplied by": "*",
    "divided by": "/",
    "over": "/",
}
_NUMBER: Final = r"\d+(?:\.\d+)?"
_SIGN: Final = r"[-+*/]"
Tool = Literal["calculator", "orders", "clock"]
_RULES: Final[dict[Tool, re.Pattern[str]]] = {
    "calculator": re.compile(rf"{_NUMBER}(?: *{_SIGN} *{_NUMBER})+"),
    "orders": re.compile(r"(?:how many|order)\D{0,40}?((?:\d+ ?)+)"),
    "clock": re.compile(r"\b(?:time|clock|date|day)\b"),
}
NO_RULE: Final = "no rule for this question, and no model is set (background_url)"


@dataclass(frozen=True, slots=True)
class Route:
    """Which tool, and what it is given."""

    tool: Tool
    argument: str = ""


def words_of(order: Order) -> str:
    """What the caller said and typed, in small letters, numbers and signs as such."""
    said = [line.text for line in order.lines if line.speaker == "caller"]
    if re.match("(caller|model): ", order.request):
        parts = re.split(r"(?:^|; )(caller|model): ", order.request)
        said = [words for who, words in zip(parts[1::2], parts[2::2], strict=True) if who == "caller"]
    elif order.request:
        said = [order.request]
    text = re.sub(r"how-many", "how many", " ".join(said).lower())
    for name, sign in _SIGNS.items():
        text = re.sub(rf"\b{name}\b", f" {sign} ", text)
    text = re.sub(r"[a-z]+", lambda word: _NUMBERS.get(word[0], word[0]), text)
    return re.sub(r"\s+", " ", text)


def route(text: str) -> Route | None:
    """The match that ends last."""
    found: list[tuple[int, Route]] = []
    for tool, rule in _RULES.items():
        for match in rule.finditer(text):
            argument = match[1].replace(" ", "") if tool == "orders" else match[0]
            found.append((match.end(), Route(tool, argument)))
    return max(found, key=lambda match: match[0], default=(0, None))[1]


class Router:
    """`work.Answerer`."""

    def __init__(self, orders: Orders, threads: Threads | None = None) -> None:
        self._orders, self._threads = orders, threads or Threads()

    async def answer(self, order: Order, said: str) -> AsyncIterator[Step]:
        """The same words for the same question: those that were said already are left out."""
        way = route(words_of(order))
        if way is None:
            raise NoAnswer(NO_RULE)
        yield Doing(way.tool)
        try:
            text = await self._threads.run(way.tool, self._ask, way, order.reads == "numbers")
        except Refused as wrong:
            raise NoAnswer(str(wrong)) from None
        except ValueError as wrong:
            raise NoAnswer(f"{way.tool}: {type(wrong).__name__}") from None
        yield Words(text.removeprefix(said))

    async def close(self) -> None:
        """See `Answerer`."""

    def _ask(self, way: Route, number: bool) -> str:
        if way.tool == "calculator":
            value = calculate(way.argument)
            return value if number else f"{way.argument} is {value}."
        if way.tool == "clock":
            return f"It is {clock()}."
        if not number:
            return self._orders.look_up_order(int(way.argument[:18]))
        found = self._orders.find(int(way.argument[:18]))
        if found is None:
            raise ValueError("no such order")
        return str(found[1])
