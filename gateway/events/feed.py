"""Events of all gateways as they happen, for who follows them: a bounded stream in Redis.

    microturn:{events}:log    stream; entries `e` (the event) and `t` (its tenant), the newest `events_kept`

A follower has a place in it, the id of the last event that it got, and can go on from there at any gateway, after a
reconnect as after a restart. What the stream has dropped meanwhile is said, not passed over. One look every 0.2 s
says whether there is news, and only where somebody follows.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from gateway.events.records import Event

MOST_WAITING: Final = 2_000
"""While Redis is away; beyond it the oldest go, and are counted."""
AT_ONCE: Final = 100
LOOK_S: Final = 0.2
AWAY_S: Final = 1.0
QUIET_S: Final = 15.0
"""Followers hear that the line lives so often."""
LIFE_S: Final = 86_400
"""The stream is gone so long after its newest event."""
_ID: Final = re.compile(r"[0-9]{1,16}-[0-9]{1,10}")

Script = Callable[[str, Sequence[str], Sequence[str | bytes | int]], Awaitable[Any]]
"""Runs a script over keys of one slot; None when nobody answers."""

ADD: Final = """
for i = 3, #ARGV, 2 do redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'e', ARGV[i], 't', ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 'ok'
"""
"""ARGV: most, life_s, then event and tenant of each."""
NEWEST: Final = """
local found = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
return found[1] and found[1][1] or '0-0'
"""
PAGE: Final = """
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
local known = ARGV[1] == '0-0' or #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) > 0
return {first[1] and first[1][1] or '', known and 1 or 0,
        redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])}
"""
"""ARGV: place, count."""


class Entry(NamedTuple):
    """One event, as it is followed."""

    place: str
    packed: bytes
    tenant: str


class Missed(NamedTuple):
    """Events between a follower's place and the oldest that is left are gone."""

    place: str
    """Where it goes on."""


@dataclass(slots=True)
class FeedCounters:
    """Since the start of this process."""

    written: int = 0
    dropped: int = 0
    """That had no room while Redis was away."""
    missed: int = 0
    """Followers that came too late for what they asked for."""


class Feed:
    """Its `run` is to run; `put` returns at once."""

    def __init__(self, script: Script, namespace: str, most: int) -> None:
        self.counters = FeedCounters()
        self._script, self._key, self._most = script, f"{namespace}:{{events}}:log", most
        self._waiting: deque[tuple[bytes, str]] = deque()
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._followers: set[asyncio.Event] = set()
        self._newest = ""
        self._closing = False

    @property
    def followers(self) -> int:
        """How many follow here."""
        return len(self._followers)

    def put(self, event: Event, packed: bytes) -> None:
        """It happened."""
        self._waiting.append((packed, event.tenant))
        if len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            self.counters.dropped += 1
        self._wake.set()

    async def run(self) -> None:
        """Write what happens, and look for news, until cancelled, or `close` (`state.index.CdrIndex.run`)."""
        while not self._closing:
            if not await self.flush():
                await asyncio.sleep(AWAY_S)
                continue
            if self._followers:
                await self._look()
            try:
                async with asyncio.timeout(LOOK_S if self._followers else None):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    def close(self) -> None:
        """Ends `run`, and who follows."""
        self._closing = True
        for event in (self._wake, *self._followers):
            event.set()

    async def newest(self) -> str | None:
        """The place behind all that has happened; None when nobody answers."""
        told = await self._script(NEWEST, [self._key], [])
        return None if told is None else told.decode()

    async def follow(self, place: str) -> AsyncGenerator[Entry | Missed | None, None]:
        """What comes after that place, for ever; None when there was no news for a while."""
        news = asyncio.Event()
        self._followers.add(news)
        self._wake.set()
        try:
            while not self._closing:
                news.clear()
                told = await self._script(PAGE, [self._key], [place, AT_ONCE])
                if told is None:
                    await asyncio.sleep(AWAY_S)
                    yield None
                    continue
                first, known, entries = told[0].decode(), bool(told[1]), told[2]
                if not known and first and _order(place) < _order(first):
                    self.counters.missed += 1
                    yield Missed(first)
                for name, fields in entries:
                    place = name.decode()
                    found = dict(zip(fields[::2], fields[1::2], strict=True))
                    yield Entry(place, found[b"e"], found[b"t"].decode())
                if len(entries) < AT_ONCE and _order(self._newest or "0-0") <= _order(place):
                    try:
                        async with asyncio.timeout(QUIET_S):
                            await news.wait()
                    except TimeoutError:
                        yield None
        finally:
            self._followers.discard(news)

    # -- inside

    async def flush(self) -> bool:
        """What waits, to the server; False when it did not take all."""
        async with self._writing:
            while self._waiting:
                taken = list(self._waiting)[:AT_ONCE]
                told: list[str | bytes | int] = [self._most, LIFE_S]
                for packed, tenant in taken:
                    told += [packed, tenant]
                if await self._script(ADD, [self._key], told) is None:
                    return False
                self.counters.written += len(taken)
                for entry in taken:
                    if self._waiting and self._waiting[0] is entry:
                        self._waiting.popleft()
        return True

    async def _look(self) -> None:
        newest = await self.newest()
        if newest is not None and newest != self._newest:
            self._newest = newest
            for news in self._followers:
                news.set()


def is_place(place: str) -> bool:
    """Whether it looks like the id of an event."""
    return _ID.fullmatch(place) is not None


def _order(place: str) -> tuple[int, int]:
    ms, _, number = place.partition("-")
    return int(ms), int(number or 0)
