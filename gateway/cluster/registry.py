"""This gateway among the others: announces itself once a second, and asks whether a limit has room.

One message at a time, each with the next number, so that none overtakes another; calls that come meanwhile ask
together in the next one. When the server does not answer, a call is taken by what this gateway alone counts; what
it holds is told as a whole when the server is back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
import structlog

from gateway.cluster import node, scripts
from gateway.cluster.node import Node
from gateway.cluster.permits import Permits
from gateway.reading import read_json
from gateway.state.faults import Away, Rejected

log = structlog.get_logger()

FRESH_S: Final = 0.05
"""News are told at once, and then no more for so long."""


@dataclass(frozen=True, slots=True)
class Times:
    """Of announcements."""

    announce_s: float = 1.0
    alive_ms: int = 3_500
    """Three announcements may fail before the others think that it is gone."""
    take_s: float = 0.25
    """A caller is not kept waiting for longer."""
    live_s: int = 3_600
    """What is there of gateways that are all gone, is gone as well after so long."""


@dataclass(slots=True)
class ClusterCounters:
    """Since the start of this process."""

    announcements: int = 0
    announcements_failed: int = 0
    permits_taken: int = 0
    permits_refused: int = 0
    """A limit was full."""
    permits_unchecked: int = 0
    """Taken by what this gateway alone counts: the server did not answer."""
    joined: int = 0
    """More than once: the server had forgotten this gateway."""
    names_lost: int = 0
    """Another gateway has this one's name."""


@dataclass(slots=True, eq=False)
class Wish:
    """A call that waits for its permit; the answer is the limit that is full, "", or None: nobody answered."""

    call: str
    limits: Mapping[str, int]
    answer: asyncio.Future[str | None]


class Server(Protocol):
    """What is asked of `state.client.Client`."""

    async def script(self, text: str, names: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        """Its answer; `Away` or `Rejected`."""
        ...

    async def close(self) -> None: ...


class Registry:
    """Of one main process; belongs to one event loop. `facts` says what is to be announced.

    Without `connect` there is no server: it counts for itself.
    """

    def __init__(
        self,
        connect: Callable[[], Server] | None,
        namespace: str,
        name: str,
        facts: Callable[[], Awaitable[Node]],
        times: Times | None = None,
    ) -> None:
        self.counters = ClusterCounters()
        self.permits = Permits()
        self.nodes: dict[str, Node] = {}
        """All that are alive, this one included, as of the last answer; empty while nobody answers."""
        self.had_others = False
        """Whether another gateway was ever seen."""
        self._connect, self._name, self._facts = connect, name, facts
        self._keys = scripts.keys(namespace)
        self._times = times if times is not None else Times()
        self._server: Server | None = None
        self._generation, self._number = "", 0
        self._one_at_a_time = asyncio.Lock()
        self._wishes: list[Wish] = []
        self._asking: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._is_stale = False
        self._leaving = False

    @property
    def is_connected(self) -> bool:
        """Whether the last announcement was heard."""
        return bool(self.nodes)

    def others(self) -> list[Node]:
        """Alive, without this one."""
        return [found for found in self.nodes.values() if found.node != self._name]

    def tell(self) -> None:
        """Something has changed that others want to know soon."""
        self._news.set()

    async def take(self, call: str, limits: Mapping[str, int]) -> str:
        """ "" when the call may be, and counts from now on; else the limit that is full."""
        if not limits or call in self.permits:
            return ""
        full = await self._ask(call, limits)
        if full:
            self.counters.permits_refused += 1
            return full
        self.counters.permits_taken += 1
        return ""

    def hold(self, call: str, limits: Mapping[str, int], *, adopted: bool = False) -> None:
        """A call that lives already counts, whether there is room or not."""
        self.permits.hold(call, tuple(limits), adopted=adopted)
        self.tell()

    def give(self, call: str) -> None:
        """It is over; harmless for one that counts for nothing."""
        if self.permits.give(call):
            self.tell()

    async def run(self) -> None:
        """Announce until cancelled, or until another gateway has this one's name."""
        if self._connect is not None:
            self._server = self._connect()
        loop = asyncio.get_running_loop()
        while not self._is_stale and not self._leaving:
            self._news.clear()
            due_s = loop.time() + self._times.announce_s
            await self._announce()
            await asyncio.sleep(FRESH_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due_s):
                    await self._news.wait()

    async def leave(self) -> None:
        """Gone for the others from now on; for a second at most."""
        self._leaving = True
        if self._server is None:
            return
        with contextlib.suppress(TimeoutError, Away, Rejected):
            async with asyncio.timeout(1.0), self._one_at_a_time:
                if self._generation and not self._is_stale:
                    await self._send(scripts.LEAVE, [])
        self.nodes = {}
        await self._server.close()

    # -- inside

    async def _ask(self, call: str, limits: Mapping[str, int]) -> str:
        """Holds the permit when it is granted."""
        if not self.is_connected or not self._generation:
            return self._take_alone(call, limits)
        wish = Wish(call, limits, asyncio.get_running_loop().create_future())
        self._wishes.append(wish)
        if len(self._wishes) == 1:
            task = asyncio.get_running_loop().create_task(self._ask_for_all())
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        try:
            async with asyncio.timeout(self._times.take_s):
                full = await wish.answer
        except TimeoutError:
            full = None
        return full if full is not None else self._take_alone(call, limits)

    async def _ask_for_all(self) -> None:
        """For all that wait when it is their turn; who has given up meanwhile is left out."""
        async with self._one_at_a_time:
            wishes = [wish for wish in self._wishes if not wish.answer.done()]
            self._wishes.clear()
            answers = await self._ask_for(wishes) if wishes else []
            for wish, full in zip(wishes, answers, strict=True):
                if wish.answer.done():
                    continue
                if full == "":
                    self.permits.hold(wish.call, tuple(wish.limits))
                wish.answer.set_result(full)

    async def _ask_for(self, wishes: list[Wish]) -> list[str | None]:
        asked = [msgspec.json.encode(wish.limits) for wish in wishes]
        try:
            verdict, *told = await self._send(scripts.TAKE, [self._held(), *asked])
        except (Away, Rejected):
            return [None] * len(wishes)
        if _text(verdict) != "ok":  # an announcement will set it right
            self._note(_text(verdict))
            return [None] * len(wishes)
        return [_text(full) for full in told[1:]]

    def _take_alone(self, call: str, limits: Mapping[str, int]) -> str:
        held = self.permits.held()
        for name, most in limits.items():
            if held.get(name, 0) >= most:
                return name
        self.counters.permits_unchecked += self._connect is not None
        self.permits.hold(call, tuple(limits))
        return ""

    async def _announce(self) -> None:
        record = node.encode(await self._facts())
        if self._server is None:
            return
        try:
            async with self._one_at_a_time:
                if self._leaving:
                    return
                joins = not self._generation
                times = (int(self._times.alive_ms), self._times.live_s)
                answer = await self._send(scripts.ANNOUNCE, [*times, record, self._held()])
                self._take_in(_text(answer[0]), answer, joins=joins)
        except (Away, Rejected):
            self.counters.announcements_failed += 1
            self.nodes = {}

    def _take_in(self, verdict: str, answer: list[bytes], *, joins: bool) -> None:
        if verdict != "ok":
            self._note(verdict)
            return
        self.counters.announcements += 1
        if joins:
            if answer[2] and not self.counters.joined:
                self.permits.inherit(_counts(answer[2]))
            self.counters.joined += 1
            self._generation = _text(answer[1])
        found = {}
        for record in answer[3:]:
            with contextlib.suppress(msgspec.DecodeError):  # of a version that writes otherwise
                told = node.decode(record)
                found[told.node] = told
        self.nodes = found
        self.had_others = self.had_others or len(found) > 1

    def _note(self, verdict: str) -> None:
        if verdict == "forgotten":
            self._generation = ""
            self.tell()
        elif verdict == "stale" and not self._is_stale:
            self._is_stale = True
            self.nodes = {}
            self.counters.names_lost += 1
            log.error("another gateway has this one's name: it announces no more", node=self._name)

    def _held(self) -> bytes:
        return msgspec.json.encode(self.permits.held())

    async def _send(self, text: str, arguments: Sequence[str | bytes | int]) -> Any:
        assert self._server is not None
        self._number += 1
        head: list[str | bytes | int] = [self._name, self._generation, self._number]
        return await self._server.script(text, self._keys, [*head, *arguments])


def _text(answer: bytes | str) -> str:
    return answer.decode() if isinstance(answer, bytes) else answer


def _counts(held: bytes) -> dict[str, int]:
    try:
        return read_json(held, dict[str, int])
    except msgspec.DecodeError:
        return {}
