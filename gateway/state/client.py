"""redis-py, and nothing else: one server, Sentinel or Cluster, by the same few calls.

It knows no policy: what is tried again, and when, is the store's. Nothing here puts a command's arguments into a
message: they are callers' data.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio as aioredis
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from gateway.state.address import Address
from gateway.state.faults import Away as Away
from gateway.state.faults import Rejected as Rejected
from gateway.state.keys import key, keys
from gateway.state.lease import SCRIPT, Batch, Outcome

ANSWER_S: Final = 2.0
"""A server that takes longer counts as away."""
CLIENT_NAME: Final = "microturn"

_NOT_NOW = (
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
"""Answers that pass: a fail-over, memory, rules (ACL) that somebody is about to mend."""


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are to the server, and whom we trust there."""

    user: str = ""
    password: str = ""
    tls_ca: str = ""
    """PEM file; empty is the system's."""
    tls_cert: str = ""
    """PEM files of our own certificate, where the server asks for one."""
    tls_key: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is in Redis of one call: strings, hashes and a stream as they are."""

    session: bytes | None
    legs: dict[bytes, bytes]
    lines: list[bytes]
    """Oldest first."""
    tasks: dict[bytes, bytes]
    heard: bytes | None
    cdrs: dict[bytes, bytes]
    lease: bytes | None


class Client:
    """A connection to where the state is, made when it is needed. Belongs to one event loop."""

    def __init__(
        self, address: Address, login: Login, namespace: str, node: str, answer_s: float = ANSWER_S
    ) -> None:
        self._namespace, self._node, self._answer_s = namespace, node, answer_s
        self._is_cluster = address.kind == "cluster"
        self._sentinel: Sentinel | None = None
        self._redis = self._make(address, login)

    def _make(self, address: Address, login: Login) -> Any:
        common: dict[str, Any] = {
            "socket_timeout": self._answer_s,
            "socket_connect_timeout": self._answer_s,
            "retry": Retry(NoBackoff(), 0),
            "username": login.user or None,
            "password": login.password or None,
            "client_name": CLIENT_NAME,
            "protocol": 2,  # the script's answers are the same in all versions
        }
        tls: dict[str, Any] = {"ssl": True} if address.tls else {}
        if address.tls:
            tls |= {"ssl_ca_certs": login.tls_ca or None, "ssl_min_version": ssl.TLSVersion.TLSv1_2}
            tls |= {"ssl_certfile": login.tls_cert or None, "ssl_keyfile": login.tls_key or None}
        if address.kind == "unix":
            return aioredis.Redis(unix_socket_path=address.path, db=address.db, **common)
        if address.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in address.nodes]
            common["retry"] = Retry(NoBackoff(), 1)  # after a look at who has which slots now
            return aioredis.RedisCluster(startup_nodes=nodes, **common, **tls)
        if address.kind == "sentinel":
            asking = {k: v for k, v in common.items() if k.startswith("socket_") or k == "retry"} | tls
            servers = {"db": address.db, **common, **tls}
            sentinel = Sentinel(address.nodes, sentinel_kwargs=asking, **servers)  # type: ignore[no-untyped-call]
            self._sentinel = sentinel
            return sentinel.master_for(address.master)
        host, port = address.nodes[0]
        return aioredis.Redis(host=host, port=port, db=address.db, **common, **tls)

    async def ping(self) -> str:
        """Name and version of the server. `Away` when there is none."""
        try:
            if self._is_cluster:
                await self._redis.initialize()
                answer = await self._redis.info("server", target_nodes=aioredis.RedisCluster.RANDOM)
            else:
                answer = await self._redis.info("server")
        except (RedisError, RedisClusterException, OSError) as wrong:
            raise _away(wrong) from None
        name = answer.get("server_name", "redis")
        return f"{name} {answer.get(f'{name}_version', answer.get('redis_version', '?'))}"

    async def send(
        self, batches: Sequence[Batch], lease_ms: int, live_s: int
    ) -> list[Outcome | Away | Rejected]:
        """Each batch is done at once or not at all; at most one of a call. Nothing is raised.

        A cluster of which a part is away counts as away.
        """
        if not batches:
            return []
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for batch in batches:
                    names = keys(self._namespace, batch.call)
                    # not EVALSHA: a cluster's pipeline has none, and a server that was restarted knows no script
                    pipeline.eval(SCRIPT, len(names), *names, *batch.arguments(self._node, lease_ms, live_s))
                answers = await pipeline.execute(raise_on_error=False)
        except (RedisError, RedisClusterException, OSError) as wrong:
            return [_away(wrong)] * len(batches)
        return [_outcome(answer) for answer in answers]

    async def read(self, call: str, most_lines: int) -> Kept:
        """What is there of a call; of the transcript the newest lines. `Away` when nobody answers."""

        def of(part: Any) -> str:
            return key(self._namespace, call, part)

        try:
            newest = await self._redis.xrevrange(of("transcript"), count=most_lines)
            return Kept(
                session=await self._redis.get(of("session")),
                legs=await self._redis.hgetall(of("legs")),
                lines=[entry[b"line"] for _, entry in reversed(newest)],
                tasks=await self._redis.hgetall(of("tasks")),
                heard=await self._redis.get(of("heard")),
                cdrs=await self._redis.hgetall(of("cdr")),
                lease=await self._redis.get(of("lease")),
            )
        except (RedisError, RedisClusterException, OSError) as wrong:
            raise _away(wrong) from None

    async def script(self, text: str, names: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        """The answer of a script over keys of one slot. `Away` when nobody answers, `Rejected` for an error."""
        try:
            return await self._redis.eval(text, len(names), *names, *arguments)
        except (RedisError, RedisClusterException, OSError) as wrong:
            found = _failure(wrong)
            assert found is not None
            raise found from None

    async def owner(self, call: str) -> str:
        """The gateway that has the lease of a call; "" when none has. `Away` when nobody answers."""
        try:
            lease = await self._redis.get(key(self._namespace, call, "lease"))
        except (RedisError, RedisClusterException, OSError) as wrong:
            raise _away(wrong) from None
        return lease.partition(b" ")[0].decode(errors="replace") if lease else ""

    async def cdrs(self, places: Sequence[tuple[str, int]]) -> list[tuple[bytes | None, bytes | None]]:
        """Record and session of calls by name and begin (Unix ms); None for what is gone. `Away` without answer."""
        if not places:
            return []
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for call, began_ms in places:
                    pipeline.hget(key(self._namespace, call, "cdr"), str(began_ms))
                    pipeline.get(key(self._namespace, call, "session"))
                answers: list[bytes | None] = await pipeline.execute()
                return list(zip(answers[::2], answers[1::2], strict=True))
        except (RedisError, RedisClusterException, OSError) as wrong:
            raise _away(wrong) from None

    async def sessions(self) -> AsyncIterator[tuple[str, bytes]]:
        """Every call that has a session record, with it; in no order. `Away` when nobody answers."""
        pattern, taken = key(self._namespace, "*", "session"), re.compile(r"\{(.+)\}")
        try:
            async for name in self._redis.scan_iter(match=pattern, count=1000):
                record, found = await self._redis.get(name), taken.search(name.decode(errors="replace"))
                if record is not None and found is not None:
                    yield found[1], record
        except (RedisError, RedisClusterException, OSError) as wrong:
            raise _away(wrong) from None

    async def forget_tasks(self, calls: set[str]) -> None:
        """What was handed off in these calls, and what is told of them live. `Away` when nobody answers."""
        tasks, news = (f"{self._namespace}:{{tasks}}:{part}:*" for part in ("task", "news"))
        told = {call.encode() for call in calls}
        try:
            async for name in self._redis.scan_iter(match=tasks, count=1000):
                if await self._redis.hget(name, "call") in told:
                    await self._redis.delete(name, name.replace(b":task:", b":still:", 1))
            async for name in self._redis.scan_iter(match=news, count=1000):
                for entry, fields in await self._redis.xrange(name):
                    if fields.get(b"call") in told:
                        await self._redis.xdel(name, entry)
            feed = f"{self._namespace}:{{events}}:log"
            marks = [b'"call":"%b"' % call for call in told]
            for entry, fields in await self._redis.xrange(feed):
                if any(mark in fields.get(b"e", b"") for mark in marks):
                    await self._redis.xdel(feed, entry)
        except (RedisError, RedisClusterException, OSError) as wrong:
            raise _away(wrong) from None

    async def close(self) -> None:
        """All connections."""
        for client in (self._redis, *(self._sentinel.sentinels if self._sentinel else ())):
            await client.aclose()


def _outcome(answer: Any) -> Outcome | Away | Rejected:
    return _failure(answer) or Outcome.of(answer)


def _failure(answer: Any) -> Away | Rejected | None:
    """What went wrong, or None for an answer; raises what is no error of the server's or the way to it."""
    if isinstance(answer, _NOT_NOW) or (
        isinstance(answer, RedisError | RedisClusterException | OSError)
        and not isinstance(answer, ResponseError)
    ):
        return _away(answer)
    if isinstance(answer, BaseException):
        if not isinstance(answer, ResponseError):
            raise answer
        return Rejected(str(answer).split(" ", 1)[0][:24])
    return None


def _away(wrong: BaseException) -> Away:
    return Away(type(wrong.__cause__ or wrong).__name__)  # redis-py wraps what it met while connecting
