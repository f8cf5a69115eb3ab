"""SGLang's engine with one change: the requests of a tick travel to its scheduler as one message.

By itself it sends each request when it is packed. Its scheduler wakes up at the first and steps that call alone,
while the others are being packed, and they wait for that step and have another one.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sglang.srt.entrypoints.engine import Engine, init_tokenizer_manager
from sglang.srt.managers.tokenizer_manager import TokenizerManager


class Together:
    """Requests that are sent when all of them are there; those that fail before are not waited for."""

    def __init__(self, count: int, send: Callable[[list[Any]], Awaitable[None]]) -> None:
        self._awaited, self._send = count, send
        self._requests: list[Any] = []

    async def add(self, request: Any) -> None:
        """One of them is packed; the last one takes all with it."""
        self._requests.append(request)
        await self._look()

    def over(self, _: asyncio.Future[Any]) -> None:
        """One of them needs no waiting for: it is answered, or failed before it was packed."""
        self._awaited -= 1
        if self._requests:
            asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        if self._requests and len(self._requests) >= self._awaited:
            requests, self._requests = self._requests, []
            await self._send(requests)


class Front(TokenizerManager):
    """What packs requests in this process."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._together: Together | None = None

    @contextmanager
    def together(self, count: int) -> Iterator[Together]:
        """So many requests that are made in here are one message."""
        self._together = Together(count, self._send_batch_request)
        try:
            yield self._together
        finally:
            self._together = None

    async def _send_one_request(self, tokenized_obj: Any) -> None:
        if self._together is None:
            await super()._send_one_request(tokenized_obj)
        else:
            await self._together.add(tokenized_obj)


class GatheringEngine(Engine):
    """`sglang.Engine`, with `Front` as its `tokenizer_manager`."""

    init_tokenizer_manager_func = staticmethod(
        functools.partial(init_tokenizer_manager, TokenizerManagerClass=Front)
    )
