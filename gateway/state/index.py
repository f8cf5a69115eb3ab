"""Which calls are over, by when: what call detail records are listed by. The records lie with their calls.

| key | type | holds | bound |
|---|---|---|---|
| `microturn:{cdrs}:all` | sorted set | `CALL BEGAN_MS` by the Unix ms of its end | `MOST_INDEXED` |
| `microturn:{cdrs}:of:TENANT` | sorted set | those of one tenant | the same; the oldest go first |

An entry is written when the call's end is: from a queue of its own, since it lies in another hash slot than the
call. What a gateway had in that queue when it was killed is in no list; the record is there all the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

MOST_INDEXED: Final = 200_000
MOST_WAITING: Final = 20_000
"""While Redis is away; beyond it the oldest go, and are counted."""
AT_ONCE: Final = 256
PAUSE_S: Final = 1.0

Script = Callable[[str, Sequence[str], Sequence[str | bytes | int]], Awaitable[Any]]
"""Runs a script over keys of one slot; None when nobody answers."""

ADD: Final = """
for part = 1, #KEYS do
  for i = 3, #ARGV, 2 do redis.call('ZADD', KEYS[part], ARGV[i], ARGV[i + 1]) end
  redis.call('ZREMRANGEBYRANK', KEYS[part], 0, -1 - ARGV[2])
  redis.call('ZREMRANGEBYSCORE', KEYS[part], '-inf', ARGV[3] - ARGV[1] * 1000)
  redis.call('EXPIRE', KEYS[part], ARGV[1])
end
return 'ok'
"""
"""ARGV: keep_s, most, then end and name of each entry."""

PAGE: Final = """
local order = ARGV[1] == 'newest' and 'ZREVRANGEBYSCORE' or 'ZRANGEBYSCORE'
return redis.call(order, KEYS[1], ARGV[2], ARGV[3], 'WITHSCORES', 'LIMIT', ARGV[4], ARGV[5])
"""
"""ARGV: order, from, to, offset, count."""


class Ended(NamedTuple):
    """A call that is over."""

    ended_ms: int
    name: str
    """`CALL BEGAN_MS`."""

    @property
    def call(self) -> str:
        """Its name."""
        return self.name.partition(" ")[0]

    @property
    def began_ms(self) -> int:
        """What tells calls of one name apart."""
        return int(self.name.partition(" ")[2] or 0)


class CdrIndex:
    """Its `run` is to run; `add` returns at once."""

    def __init__(self, script: Script, namespace: str, keep_s: int) -> None:
        self.dropped = 0
        """Entries that had no room while Redis was away."""
        self._script, self._prefix, self._keep_s = script, f"{namespace}:{{cdrs}}:", keep_s
        self._waiting: deque[tuple[str, Ended]] = deque()
        self._wake = asyncio.Event()
        self._closing = False

    @property
    def waiting(self) -> int:
        """Entries that are not with the server."""
        return len(self._waiting)

    def add(self, call: str, began_ms: int, ended_ms: int, tenant: str) -> None:
        """It is over."""
        self._waiting.append((tenant, Ended(ended_ms, f"{call} {began_ms}")))
        if len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled, or `close`: Python 3.11's wait_for, which redis-py uses, may swallow a cancellation."""
        while not self._closing:
            await self._wake.wait()
            self._wake.clear()
            while not await self.flush() and not self._closing:
                await asyncio.sleep(PAUSE_S)

    def close(self) -> None:
        """Ends `run`."""
        self._closing = True
        self._wake.set()

    async def flush(self) -> bool:
        """What waits, to the server; False when it did not take all."""
        while self._waiting:
            tenant = self._waiting[0][0]
            taken = [entry for its, entry in list(self._waiting)[:AT_ONCE] if its == tenant]
            names = [f"{self._prefix}all", *([f"{self._prefix}of:{tenant}"] if tenant else [])]
            told: list[str | bytes | int] = [self._keep_s, MOST_INDEXED]
            for entry in taken:
                told += [entry.ended_ms, entry.name]
            if await self._script(ADD, names, told) is None:
                return False
            sent = set(taken)
            self._waiting = deque(waiting for waiting in self._waiting if waiting[1] not in sent)
        return True

    async def page(
        self, tenant: str, since_ms: int, until_ms: int, order: str, after: tuple[int, str] | None, most: int
    ) -> list[Ended] | None:
        """So many at most, behind an entry; of one tenant or, with "", of all. None when nobody answers."""
        newest = order == "newest"
        if after is not None and newest:
            until_ms = min(until_ms, after[0])
        elif after is not None:
            since_ms = max(since_ms, after[0])
        bounds = [until_ms, since_ms] if newest else [since_ms, until_ms]
        name = f"{self._prefix}of:{tenant}" if tenant else f"{self._prefix}all"
        found: list[Ended] = []
        offset = 0
        while len(found) < most:
            told = await self._script(PAGE, [name], [order, *bounds, offset, most])
            if told is None:
                return None
            pairs = zip(told[::2], told[1::2], strict=True)
            entries = [Ended(int(score), word.decode()) for word, score in pairs]
            offset += len(entries)
            found += [
                entry for entry in entries if after is None or (entry < after if newest else entry > after)
            ]
            if len(entries) < most:
                break
        return found[:most]
