"""The live stream in a real Redis: bounded, resumed anywhere, and it says what it has dropped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.events import feed as feeds
from gateway.events.feed import Entry, Feed, Missed, is_place
from gateway.events.records import decode, encode
from tests.gateway.events.support import event
from tests.gateway.state.conftest import folder
from tests.gateway.state.server import NAMESPACE, StateServer, first_program, node, play, until

__all__ = ["folder"]

pytestmark = pytest.mark.redis


@contextlib.asynccontextmanager
async def feeding(server: StateServer, name: str, most: int = 1_000) -> AsyncIterator[Feed]:
    async with node(server.url, name) as here:
        await until(lambda: here.store.gauges()["state_connected"] == 1)
        feed = Feed(here.store.script, NAMESPACE, most)
        running = asyncio.create_task(feed.run())
        try:
            yield feed
        finally:
            feed.close()
            running.cancel()


def put(feed: Feed, *numbers: int) -> None:
    for number in numbers:
        feed.put(event(number), encode(event(number)))


async def take(feed: Feed, place: str, count: int) -> list[tuple[str, int]]:
    """So many events behind that place."""
    found: list[tuple[str, int]] = []
    async with asyncio.timeout(10), contextlib.aclosing(feed.follow(place)) as following:
        async for one in following:
            if isinstance(one, Entry):
                found.append((one.place, decode(one.packed).data["number"]))
                if len(found) == count:
                    break
    return found


def test_followers_get_what_happens_at_any_gateway_and_go_on_from_where_they_were(folder: Path) -> None:
    async def story() -> None:
        async with feeding(server, "left") as left, feeding(server, "right") as right:
            begin = await left.newest()
            assert begin == "0-0"
            following = asyncio.create_task(take(right, begin, 4))
            put(left, 1, 2)
            await until(lambda: left.counters.written == 2)
            put(right, 3)
            await until(lambda: right.counters.written == 1)
            put(left, 4)
            found = await following
            assert [number for _, number in found] == [1, 2, 3, 4]
            assert await take(left, found[1][0], 2) == found[2:]
            assert all(is_place(place) for place, _ in found) and await right.newest() == found[-1][0]
            put(left, *range(5, 305))  # more than a page
            assert [number for _, number in await take(right, found[-1][0], 300)] == list(range(5, 305))
            assert not left.followers and not right.followers

    server = StateServer(first_program(), folder).start()
    try:
        play(story())
        server.check_that_all_ends()
    finally:
        server.stop()


def test_what_the_stream_has_dropped_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MOST_WAITING", 400)
    monkeypatch.setattr(feeds, "AWAY_S", 0.05)

    async def story() -> None:
        async with feeding(server, "left", most=100) as left:
            put(left, 0)
            ((first, _),) = await take(left, "0-0", 1)
            put(left, *range(1, 400))
            await until(lambda: left.counters.written == 400)
            async with contextlib.aclosing(left.follow(first)) as following:
                missed = await anext(following)
                assert isinstance(missed, Missed) and left.counters.missed == 1
                after = await anext(following)
                assert isinstance(after, Entry) and after.place == missed.place
            server.kill()
            put(left, *range(450))
            assert left.counters.dropped == 50 and await left.newest() is None
            server.start()
            await until(lambda: left.counters.written == 800)

    server = StateServer(first_program(), folder).start()
    try:
        play(story())
    finally:
        server.stop()
