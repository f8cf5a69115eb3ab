"""POSTs that are sent twice are done once: their answers wait in Redis under the `Idempotency-Key`.

    microturn:{once-9f86d081884c7d65...}:answer     by whose token it is and its key

    nothing ----- the first one ----------------> under way, for `UNDER_WAY_S`: another one gets 409
    under way --- answered ---------------------> answered, for `KEPT_S`: another one gets the same answer
    under way --- not granted for now (5xx) ----> nothing: it may be sent again
    under way --- the gateway died -------------> nothing, after `UNDER_WAY_S`; whether it was done is not known

The same key with another request is refused with 422. Where Redis does not answer, nothing is done: 503.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web

from gateway.api.problem import Problem
from gateway.reading import read_json

UNDER_WAY_S: Final = 60
KEPT_S: Final = 86_400
MOST_BODY_BYTES: Final = 16_384
REPLAYED: Final = "Idempotency-Replayed"

BEGIN: Final = """
local known = redis.call('GET', KEYS[1])
if known then return known end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return ''
"""
END: Final = """
local known = redis.call('GET', KEYS[1])
if known ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
return 1
"""

Script = Callable[[str, Sequence[str], Sequence[str | bytes | int]], Awaitable[Any]]
"""Runs a script over keys of one slot; None when nobody answers."""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """As it is kept."""

    request: str
    """What was asked: a hash."""
    by: str
    """Of the one that does it, by chance."""
    status: int = 0
    """0 while it is under way."""
    content_type: str = ""
    location: str = ""
    body: str = ""


@dataclass(frozen=True, slots=True)
class Once:
    """The keys of one cluster, in `namespace`."""

    script: Script
    namespace: str

    async def do(
        self, key: str, whose: str, asked: str, work: Callable[[], Awaitable[web.Response]]
    ) -> web.Response:
        """The answer of `work`, or the one that was given before. `whose` keeps clients apart."""
        name = self._name(key, whose)
        mine = Answer(hashlib.sha256(asked.encode()).hexdigest(), secrets.token_hex(8))
        packed = msgspec.json.encode(mine)
        known = await self.script(BEGIN, [name], [packed, UNDER_WAY_S])
        if known is None:
            told = "whether this was done before is not known: the state of calls is away"
            raise Problem(503, "not-ready", told, {"Retry-After": "2"})
        if known:
            return _again(read_json(known, Answer), mine)
        done: bytes = b""
        try:
            response = await work()
            done = msgspec.json.encode(_kept(mine, response)) if response.status < 500 else b""
        except Problem as problem:
            if problem.status < 500 and problem.status != 429:
                done = msgspec.json.encode(_kept(mine, problem.response()))
            raise
        finally:
            await self.script(END, [name], [packed, done, KEPT_S])
        return response

    def _name(self, key: str, whose: str) -> str:
        mark = hashlib.sha256(f"{whose}\n{key}".encode()).hexdigest()[:32]
        return f"{self.namespace}:{{once-{mark}}}:answer"


def _kept(mine: Answer, response: web.Response) -> Answer:
    body = bytes(response.body) if isinstance(response.body, bytes | bytearray) else b""
    assert len(body) <= MOST_BODY_BYTES, f"an answer of {len(body)} bytes is not kept"
    return msgspec.structs.replace(
        mine, status=response.status, content_type=response.content_type if body else "",
        location=response.headers.get("Location", ""), body=body.decode(),
    )  # fmt: skip


def _again(known: Answer, mine: Answer) -> web.Response:
    if known.request != mine.request:
        raise Problem(
            422, "key-reused", "that Idempotency-Key was used for another request: give each its own"
        )
    if not known.status:
        raise Problem(409, "under-way", "the same request is under way", {"Retry-After": "1"})
    headers = {REPLAYED: "true", "Cache-Control": "no-store"}
    headers |= {"Location": known.location} if known.location else {}
    return web.Response(
        body=known.body.encode() or None, status=known.status, headers=headers,
        content_type=known.content_type or None,
    )  # fmt: skip
