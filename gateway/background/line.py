"""Redis as tasks need it: the moves of `scripts`, by the connection of `gateway.state.client`.

`Away` when nobody answers: whoever called tries again. What is not to be understood counts as not there.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import structlog
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from gateway.background import scripts
from gateway.background.records import News, Order, State, Still, decode_order, decode_still, encode
from gateway.config import GatewaySettings
from gateway.state.address import Address
from gateway.state.client import Away, Client, Login

log = structlog.get_logger()

WAIT_MS: Final = 1_000
"""Longest wait of a read; below the client's patience."""
MOST_ATTEMPTS: Final = 3
"""A task that has cost so many workers their lives is given up."""
GONE: Final = ("NOGROUP", "UNBLOCKED")
"""The queue is not there any more: what a server says to who asks for it, and to who waits for it."""
FREE_MS: Final = 3_600_000
"""Idle time of a task that its worker gives back: anybody may have it at once."""


Asked = Literal["asked", "known", "full"]
_ASKED: Final[dict[bytes, Asked]] = {b"asked": "asked", b"known": "known", b"full": "full"}


@dataclass(frozen=True, slots=True)
class Taken:
    """A task that is this worker's now."""

    order: Order
    attempt: int
    left_ms: int
    said: str
    """What earlier attempts have published of the result already."""


class TaskLine(Client):
    """One connection pool; belongs to one event loop."""

    def __init__(self, address: Address, login: Login, namespace: str, name: str) -> None:
        super().__init__(address, login, namespace, name)
        self._prefix = f"{namespace}:{{tasks}}:"

    # -- the gateway's half

    async def ask(self, order: Order, left_ms: int) -> Asked:
        """Put it into the queue, once."""
        told = await self._run(
            scripts.ASK, [self._queue, self._task(order.key)],
            encode(order), left_ms, scripts.MOST_QUEUED, scripts.KEEP_S,
            order.key, order.call, order.task, order.node, scripts.QUEUE_S,
        )  # fmt: skip
        return _ASKED[told]

    async def cancel(self, key: str) -> bool:
        """Nobody wants it any more; False when it was over."""
        told = await self._run(
            scripts.CANCEL, [self._queue, self._task(key), self._still(key)], scripts.GROUP
        )
        return bool(told == b"cancelled")

    async def news(self, node: str, after: str, most: int = 200) -> list[tuple[str, News | None]]:
        """Entries after that id, waited for up to `WAIT_MS`; None is one that cannot be read."""
        answer = await self._ask(self._redis.xread({self._news(node): after}, count=most, block=WAIT_MS))
        entries = answer[0][1] if answer else []
        return [(name.decode(), _news_of(fields)) for name, fields in entries]

    async def forget_news(self, node: str, names: list[str]) -> None:
        """They are with the call's worker."""
        if names:
            await self._ask(self._redis.xdel(self._news(node), *names))

    async def show(self, key: str, still: Still) -> bool:
        """What the camera shows, for whoever works at the task; False when nobody waits for it any more."""
        told = await self._run(
            scripts.SHOW, [self._task(key), self._still(key)], still.number, encode(still), scripts.STILL_S
        )
        return bool(told == b"ok")

    # -- the worker's half

    async def make_group(self) -> None:
        """Harmless when it is there."""
        await self._run(scripts.MEET, [self._queue], scripts.GROUP, scripts.QUEUE_S)

    async def take(self, worker: str, most: int) -> list[tuple[str, str]]:
        """New tasks as (queue entry, key), waited for up to `WAIT_MS`."""
        answer = await self._grouped(
            lambda: self._redis.xreadgroup(
                scripts.GROUP, worker, {self._queue: ">"}, count=most, block=WAIT_MS
            )
        )
        return _keys_of(answer[0][1] if answer else [])

    async def take_over(self, worker: str, most: int, idle_ms: int) -> list[tuple[str, str]]:
        """Tasks whose worker has given no sign of life for so long."""
        answer = await self._grouped(
            lambda: self._redis.xautoclaim(
                self._queue, scripts.GROUP, worker, min_idle_time=idle_ms, start_id="0-0", count=most
            )
        )
        return _keys_of(answer[1])

    async def begin(self, worker: str, entry: str, key: str) -> Taken | None:
        """None when nobody wants it any more."""
        node = await self._node_of(key)
        verdict, attempt, left_ms, order, said = await self._run(
            scripts.BEGIN, [self._queue, self._task(key), self._news(node), self._still(key)],
            scripts.MOST_NEWS, scripts.NEWS_S, scripts.GROUP, worker, entry, MOST_ATTEMPTS,
        )  # fmt: skip
        if verdict != b"go":
            return None
        return Taken(decode_order(order), int(attempt), int(left_ms), said.decode(errors="replace"))

    async def publish(
        self, taken: Taken, worker: str, state: State, text: str = "", note: str = "", said_bytes: int = 0
    ) -> bool:
        """News of a task; False when it is not this worker's any more."""
        order = taken.order
        told = await self._run(
            scripts.PUBLISH,
            [self._queue, self._task(order.key), self._news(order.node), self._still(order.key)],
            scripts.MOST_NEWS, scripts.NEWS_S, scripts.GROUP, worker, taken.attempt, state, text, note, said_bytes,
        )  # fmt: skip
        return bool(told == b"ok")

    async def renew(self, taken: Taken, worker: str, idle_ms: int = 0) -> bool:
        """A sign of life; False when it is not this worker's any more."""
        told = await self._run(
            scripts.RENEW, [self._queue, self._task(taken.order.key)],
            scripts.GROUP, taken.attempt, worker, idle_ms,
        )  # fmt: skip
        return bool(told == b"ok")

    async def give_back(self, taken: Taken, worker: str) -> None:
        """Another worker may have it at once."""
        await self.renew(taken, worker, FREE_MS)

    async def look(self, order: Order, most: int) -> int:
        """Ask its gateway for a picture; the number of the wish, 0 for a task that is over, -1 beyond `most`."""
        told = await self._run(
            scripts.LOOK, [self._task(order.key), self._news(order.node), self._still(order.key)],
            scripts.MOST_NEWS, scripts.NEWS_S, most,
        )  # fmt: skip
        return int(told)

    async def still(self, key: str) -> Still | None:
        """What was shown, which is then gone from here; waited for up to `WAIT_MS`."""
        answer = await self._ask(self._redis.blpop([self._still(key)], timeout=WAIT_MS / 1e3))
        try:
            return decode_still(answer[1]) if answer else None
        except msgspec.MsgspecError:
            return None

    async def reserve(self, call: str, tokens: int, money: int, most_tokens: int, most_money: int) -> bool:
        """Whether a call may cost so much more; what it costs then is counted. Money in millionths."""
        told = await self._run(
            scripts.RESERVE, [f"{self._prefix}spent:{call}"],
            tokens, money, most_tokens, most_money, scripts.SPENT_S,
        )  # fmt: skip
        return bool(told == 1)

    # -- inside

    @property
    def _queue(self) -> str:
        return f"{self._prefix}queue"

    def _task(self, key: str) -> str:
        return f"{self._prefix}task:{key}"

    def _still(self, key: str) -> str:
        return f"{self._prefix}still:{key}"

    def _news(self, node: str) -> str:
        return f"{self._prefix}news:{node}"

    async def _node_of(self, key: str) -> str:
        node = await self._ask(self._redis.hget(self._task(key), "node"))
        return (node or b"").decode(errors="replace")

    async def _run(self, script: str, names: list[str], *arguments: Any) -> Any:
        try:
            return await self._ask(self._redis.eval(script, len(names), *names, *arguments))
        except ResponseError as wrong:
            raise Away(wrong) from None

    async def _grouped(self, command: Any) -> Any:
        """With the group made anew where the server has forgotten it."""
        try:
            return await self._ask(command())
        except ResponseError as wrong:
            log.debug("the queue of tasks is gone, and made anew", reason=str(wrong).split(" ", 1)[0])
        await self.make_group()
        try:
            return await self._ask(command())
        except ResponseError as wrong:
            raise Away(wrong) from None

    async def _ask(self, answer: Any) -> Any:
        """Whoever is cancelled meanwhile leaves at once, and the command comes to its own end: Python 3.11's
        wait_for, which redis-py uses, may swallow a cancellation."""
        asking = asyncio.ensure_future(answer)
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(asking)
        except ResponseError as wrong:
            if str(wrong).startswith(GONE):
                raise
            raise Away(wrong) from None
        except (RedisError, RedisClusterException, OSError) as wrong:
            raise Away(wrong) from None


def task_line(settings: GatewaySettings, address: Address) -> TaskLine:
    """As it is set."""
    login = Login(
        user=settings.redis_user,
        password=settings.redis_password.get_secret_value(),
        tls_ca=settings.redis_tls_ca,
        tls_cert=settings.redis_tls_cert,
        tls_key=settings.redis_tls_key,
    )
    return TaskLine(address, login, settings.redis_namespace, settings.node_name)


def _keys_of(entries: Any) -> list[tuple[str, str]]:
    return [
        (name.decode(), fields[b"key"].decode(errors="replace"))
        for name, fields in entries
        if fields and b"key" in fields
    ]


def _news_of(fields: dict[bytes, bytes]) -> News | None:
    try:
        told = {name.decode(): value.decode() for name, value in fields.items()}
        return msgspec.convert(told, News, strict=False)  # the number is a text there
    except (ValueError, msgspec.MsgspecError):
        return None
