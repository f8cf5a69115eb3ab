"""What calls of ours may cost a day, by tenant and trunk, on all gateways that share a Redis; and whom a tenant may
call.

    originate -> `check` (whom, at which price) -> `reserve`: the most that the call may cost -> dialled
    answered -> the worker ends it when that is spent;  over -> `settle`: what it did cost stays, the rest is free

Money is counted in millionths. A reservation is a field of its own until it is settled, so that settling twice is
settling once; what is never settled (a main process that died) stays charged as a whole. With a Redis that does not
answer nothing is reserved: a call that would count is refused, since nobody knows what the others spend.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import structlog

from gateway.cluster.settings import Tenant, Trunk
from gateway.sip.call_events import CallEvent
from gateway.sip.outbound import OutboundCall, Refused
from gateway.sip.trunks import may_dial

log = structlog.get_logger()

MILLION: Final = 1_000_000
KEEP_S: Final = 86_400
"""Of a day's figures, from the last reservation on: longer than the day, and than a call may be."""
MOST_UNSETTLED: Final = 4_096
"""That wait for a Redis that is away; beyond it the oldest stay charged as a whole, counted."""
AGAIN_S: Final = 1.0
MOST_MINUTES: Final = 60.0
"""Of a call that counts for a cap, where neither its trunk nor whoever wants it says less."""

RESERVE: Final = """
local amount = tonumber(ARGV[2])
if redis.call('HEXISTS', KEYS[1], 'r:' .. ARGV[1]) == 1 then return '' end
for i = 4, #ARGV, 2 do
  local spent = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0')
  if spent + amount > tonumber(ARGV[i + 1]) then return ARGV[i] end
end
for i = 4, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[2]) end
redis.call('HSET', KEYS[1], 'r:' .. ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return ''
"""
"""KEYS the day's hash; ARGV token, amount, keep_s, and each limit with its cap. Gives the limit that is reached."""
SETTLE: Final = """
local held = redis.call('HGET', KEYS[1], 'r:' .. ARGV[1])
if not held then return 'settled' end
redis.call('HDEL', KEYS[1], 'r:' .. ARGV[1])
local free = math.max(0, tonumber(held) - tonumber(ARGV[2]))
for i = 3, #ARGV do redis.call('HINCRBY', KEYS[1], ARGV[i], -free) end
return 'settled'
"""
"""KEYS the day's hash; ARGV token, cost, and each limit."""

Script = Callable[[str, Sequence[str], Sequence[str | bytes | int]], Awaitable[Any]]


class Book(Protocol):
    """Where it is written down. `day` is such as 2026-11-23."""

    async def reserve(self, day: str, token: str, amount: int, caps: Mapping[str, int]) -> str | None:
        """The cap that is reached, "" when none is; None when nobody answers."""
        ...

    async def settle(self, day: str, token: str, cost: int, limits: Sequence[str]) -> bool:
        """False when nobody answers."""
        ...


class RedisBook:
    """Of all gateways. `script` is `state.store.Store.script`."""

    def __init__(self, script: Script, namespace: str) -> None:
        self._script, self._namespace = script, namespace

    async def reserve(self, day: str, token: str, amount: int, caps: Mapping[str, int]) -> str | None:
        told = [word for limit, cap in caps.items() for word in (limit, cap)]
        answer = await self._script(RESERVE, [self._key(day)], [token, amount, KEEP_S, *told])
        return answer.decode() if isinstance(answer, bytes) else answer

    async def settle(self, day: str, token: str, cost: int, limits: Sequence[str]) -> bool:
        return await self._script(SETTLE, [self._key(day)], [token, cost, *limits]) is not None

    def _key(self, day: str) -> str:
        return f"{self._namespace}:{{spend}}:{day}"


class OwnBook:
    """Of this process alone, where no Redis is set; the day before is forgotten."""

    def __init__(self) -> None:
        self._day = ""
        self._spent: dict[str, int] = {}
        self._held: dict[str, int] = {}

    async def reserve(self, day: str, token: str, amount: int, caps: Mapping[str, int]) -> str | None:
        if day != self._day:
            self._day, self._spent, self._held = day, {}, {}
        for limit, cap in caps.items():
            if self._spent.get(limit, 0) + amount > cap:
                return limit
        for limit in caps:
            self._spent[limit] = self._spent.get(limit, 0) + amount
        self._held[token] = amount
        return ""

    async def settle(self, day: str, token: str, cost: int, limits: Sequence[str]) -> bool:
        held = self._held.pop(token, None) if day == self._day else None
        for limit in limits if held is not None else ():
            assert held is not None
            self._spent[limit] -= max(0, held - cost)
        return True


@dataclass(slots=True)
class SpendCounters:
    """Since the start of this process; money in millionths."""

    reserved: int = 0
    refused: int = 0
    """A cap was reached."""
    refused_unpriced: int = 0
    refused_unknown: int = 0
    """Redis did not answer."""
    settled: int = 0
    charged_millionths: int = 0
    unsettled_lost: int = 0
    """They stay charged as a whole."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """Of one call."""

    day: str
    token: str
    limits: tuple[str, ...]
    amount: int
    per_minute: int
    began_s: float = 0.0
    """Monotonic; from when on it costs."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A cap that a call would have gone beyond."""

    limit: str
    """tenant:NAME or trunk:NAME."""
    tenant: str
    """Whose it is, or the trunk's; empty is nobody's."""
    day: str
    cap: float


class Spend:
    """Of one main process; `switchboard.Spending`. `spawn` runs a task until the process ends, `wall_s` and `clock`
    are seconds of the wall clock and monotonic ones."""

    def __init__(
        self,
        tenants: Mapping[str, Tenant],
        trunks: Mapping[str, Trunk],
        book: Book,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        wall_s: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters = SpendCounters()
        self.reached: Callable[[Reached], None] = lambda what: None
        """Told of each call that is refused by a cap."""
        self._tenants, self._trunks, self._book, self._spawn = tenants, trunks, book, spawn
        self._wall_s, self._clock = wall_s, clock
        self._held: dict[str, Reserve] = {}  # by ticket, then by the call's name
        self._unsettled: deque[tuple[Reserve, int]] = deque()
        self._settling = False

    # -- `switchboard.Spending`

    def check(self, wish: OutboundCall) -> None:
        """Whether the tenant may call there. Raises `Refused`."""
        name = self._tenant_of(wish)
        tenant = self._tenants.get(name)
        if tenant is not None and tenant.dial and not may_dial(tenant.dial, wish.to):
            told = f"tenant {name} may not call {wish.to[:64]!r}: see its dial"
            raise Refused(403, "not-allowed", told)

    def minutes(self, wish: OutboundCall) -> float:
        """How long it may last; 0 is for ever."""
        allowed = [most for most in (self._trunks[wish.trunk].call_minutes, wish.minutes) if most]
        if not allowed and self._caps(wish):
            return MOST_MINUTES
        return min(allowed, default=0.0)

    async def reserve(self, wish: OutboundCall, ticket: str) -> None:
        """The most that it may cost, under `ticket` until `placed` or `give`. Raises `Refused`."""
        caps = self._caps(wish)
        if not caps:
            return
        price = self._trunks[wish.trunk].price_of(wish.to)
        if price is None:
            self.counters.refused_unpriced += 1
            told = f"trunk {wish.trunk} has no price for {wish.to[:64]!r}, and spending is capped: see its prices"
            raise Refused(403, "no-price", told)
        per_minute = round(price * MILLION)
        amount = math.ceil(per_minute * self.minutes(wish))
        day = time.strftime("%Y-%m-%d", time.gmtime(self._wall_s()))
        held = Reserve(day, secrets.token_hex(8), tuple(caps), amount, per_minute)
        reached = None
        try:
            reached = await self._book.reserve(day, held.token, amount, caps)
        finally:
            if reached is None:  # it may have been heard all the same; or who asked is gone
                self._settle(held, 0)
        if reached is None:
            self.counters.refused_unknown += 1
            raise Refused(503, "not-ready", "what is spent is not known now: the state of calls is away")
        if reached:
            self._refuse(reached, day, caps[reached], amount, wish)
        self.counters.reserved += 1
        self._held[ticket] = held

    def placed(self, ticket: str, call: str) -> None:
        """It is on its way under that name."""
        if (held := self._held.pop(ticket, None)) is not None:
            self._held[call] = replace(held, began_s=self._clock())

    def give(self, ticket: str) -> None:
        """It came to nothing."""
        if (held := self._held.pop(ticket, None)) is not None:
            self._settle(held, 0)

    def happened(self, event: CallEvent) -> None:
        """A watcher of the switchboard."""
        held = self._held.get(event.call)
        if held is None:
            return
        if event.kind == "answered":
            self._held[event.call] = replace(held, began_s=self._clock())
        elif event.kind in ("failed", "ended"):
            del self._held[event.call]
            seconds = math.ceil(self._clock() - held.began_s) if event.kind == "ended" else 0
            self._settle(held, min(held.amount, math.ceil(held.per_minute * seconds / 60)))

    # -- inside

    def _tenant_of(self, wish: OutboundCall) -> str:
        return wish.tenant or self._trunks[wish.trunk].tenant

    def _caps(self, wish: OutboundCall) -> dict[str, int]:
        caps = {}
        tenant = self._tenants.get(self._tenant_of(wish))
        if tenant is not None and tenant.spend_day:
            caps[f"tenant:{self._tenant_of(wish)}"] = round(tenant.spend_day * MILLION)
        if (most := self._trunks[wish.trunk].spend_day) > 0:
            caps[f"trunk:{wish.trunk}"] = round(most * MILLION)
        return caps

    def _refuse(self, limit: str, day: str, cap: int, amount: int, wish: OutboundCall) -> None:
        self.counters.refused += 1
        tenant = self._tenant_of(wish)
        self.reached(Reached(limit, tenant, day, cap / MILLION))
        told = (
            f"{limit} may spend {cap / MILLION:g} a day: {amount / MILLION:g}, which it may cost, is not left"
        )
        raise Refused(402, "spend-cap", told)

    def _settle(self, held: Reserve, cost: int) -> None:
        if len(self._unsettled) >= MOST_UNSETTLED:
            self._unsettled.popleft()
            self.counters.unsettled_lost += 1
            log.warning("a call stays charged as a whole: too many wait for Redis")
        self._unsettled.append((held, cost))
        if not self._settling:
            self._settling = True
            self._spawn(self._settle_all())

    async def _settle_all(self) -> None:
        """In order, each until it is heard."""
        try:
            while self._unsettled:
                held, cost = self._unsettled[0]
                if not await self._book.settle(held.day, held.token, cost, held.limits):
                    await asyncio.sleep(AGAIN_S)
                    continue
                if self._unsettled and self._unsettled[0][0] is held:
                    self._unsettled.popleft()
                self.counters.settled += 1
                self.counters.charged_millionths += cost
        finally:
            self._settling = False
