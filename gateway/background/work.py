"""What whoever answers a task has to be: an iterator of words and notes, or a reason why there is no answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from gateway.background.records import Order


@dataclass(frozen=True, slots=True)
class Words:
    """More of the result."""

    text: str


@dataclass(frozen=True, slots=True)
class Doing:
    """What is done now, for people who watch."""

    note: str


Step = Words | Doing


class NoAnswer(Exception):
    """There will be none; the message is for people who watch, and holds nothing of what a caller said."""


class Answerer(Protocol):
    """Who answers. Belongs to one event loop."""

    def answer(self, order: Order, said: str) -> AsyncIterator[Step]:
        """The result in pieces, after what earlier attempts have `said` of it already. Raises `NoAnswer`."""
        ...

    async def close(self) -> None:
        """No more tasks come."""
        ...
