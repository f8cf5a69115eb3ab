"""The live stream of events: server-sent events, resumed by `Last-Event-ID` at any gateway."""

from __future__ import annotations

import asyncio
import contextlib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from aiohttp import web

from gateway.api.problem import Problem
from gateway.api.v1 import shapes
from gateway.api.v1.surface import Asked, no_state
from gateway.events.feed import Entry, Missed, is_place
from gateway.events.records import decode

if TYPE_CHECKING:
    from gateway.events.feed import Feed

MOST_FOLLOWERS: Final = 64
WRITE_S: Final = 30.0
"""Who does not read for so long is let go; it may go on from where it was."""
RETRY_MS: Final = 2_000


class Events:
    """Without a feed there are none."""

    def __init__(self, feed: Feed | None) -> None:
        self._feed = feed

    async def follow(self, asked: Asked) -> web.StreamResponse:
        """Until the client leaves, or the gateway stops."""
        feed = self._feed
        if feed is None:
            raise no_state()
        if feed.followers >= MOST_FOLLOWERS:
            raise Problem(503, "full", f"{MOST_FOLLOWERS} follow already", {"Retry-After": "10"})
        query: shapes.EventsAsked = asked.query
        place = asked.request.headers.get("Last-Event-ID") or query.after or await feed.newest()
        if place is None:
            raise Problem(503, "not-ready", "the state of calls is away", {"Retry-After": "2"})
        if not is_place(place):
            raise Problem(400, "bad-place", f"{place[:40]!r} is the id of no event")
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        with contextlib.suppress(ConnectionError, TimeoutError):
            await response.prepare(asked.request)
            await response.write(f"retry: {RETRY_MS}\n\n".encode())
            async with contextlib.aclosing(feed.follow(place)) as following:
                async for found in following:
                    if told := _told(asked, query.types, found):
                        async with asyncio.timeout(WRITE_S):
                            await response.write(told)
        return response


def _told(asked: Asked, types: str, found: Entry | Missed | None) -> bytes:
    """As the client gets it; a comment keeps the line alive. Of what is not its own it hears nothing."""
    if found is None:
        return b":\n\n"
    if isinstance(found, Missed):
        return f'event: missed\ndata: {{"until":"{found.place}"}}\n\n'.encode()
    kind = decode(found.packed).type
    if not asked.sees(found.tenant) or (
        types and not any(fnmatchcase(kind, one) for one in types.split(","))
    ):
        return b""
    return f"id: {found.place}\nevent: {kind}\ndata: ".encode() + found.packed + b"\n\n"
