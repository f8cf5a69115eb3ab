"""Who was asked to be forgotten, for what Redis does not have: events that wait on gateways' disks.

    microturn:{forgotten}:asked    sorted set by when (Unix ms): names of calls, and `caller:PSEUDONYM`

`microturn forget` writes it, each gateway reads it (`gateway/events/forgetting.py`), all of it after a restart. It
has what was asked in as long as an event may wait, the newest `MOST`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

LONGER_S: Final = 3_600
"""Than an event may wait (`events_give_up_s`)."""
MOST: Final = 50_000
CALLER: Final = "caller:"
NOTE: Final = """
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], ms, ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ms - 1000 * tonumber(ARGV[1]))
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[2]))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 'ok'
"""
"""ARGV: keep_s, most, then members."""
ASKED: Final = "return redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf', 'WITHSCORES')"
"""ARGV: since when. Members and times, in turns."""


def key(namespace: str) -> str:
    """Of the set."""
    return f"{namespace}:{{forgotten}}:asked"


def note(calls: Iterable[str], caller: str, events_wait_s: int) -> list[str | bytes | int]:
    """Arguments of `NOTE`; `caller` is a pseudonym, "" none."""
    return [events_wait_s + LONGER_S, MOST, *sorted(calls), *([CALLER + caller] if caller else [])]
