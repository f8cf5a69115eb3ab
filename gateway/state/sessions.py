"""The calls of this gateway as its main process knows them, written down as they begin, change and end.

Its callers are the doors (`doors.py`); what it knows of a call is what control messages and the edge say. What was
said in a call comes to `said`: no control message brings it yet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from gateway.cluster.parties import NOBODY, Party
from gateway.config import GatewaySettings
from gateway.state import records
from gateway.state.address import Address
from gateway.state.client import Client, Kept, Login
from gateway.state.faults import Away
from gateway.state.prices import Prices, cost_of_trunk
from gateway.state.records import MOST_RECORDINGS, Cdr, Door, Figures, Leg, Line, Reason, Session
from gateway.state.store import Store

PATIENCE_S: Final = 2.0
"""Between two attempts to read what is known of an adopted call."""
MOST_EARLY: Final = 4096
SPENT: Final = "return redis.call('HMGET', KEYS[1], 'tokens', 'money')"
"""Of `background.scripts`: what the tasks of a call have cost, money in millionths."""
TAKE_OVER_S: Final = 1.0
"""A browser that comes from a dead gateway waits so long for the lease."""


def unix_ms() -> int:
    """The gateway's wall clock."""
    return time.time_ns() // 1_000_000


def steady_ms() -> int:
    """From some moment on; whoever sets the clock does not change it."""
    return time.monotonic_ns() // 1_000_000


class Watcher(Protocol):
    """Who is told of calls: `events.desk.EventDesk`."""

    def began(self, session: Session) -> None:
        """Answered here, or adopted and known again."""
        ...

    def took(self, session: Session) -> None:
        """One of a gateway that is gone goes on here."""
        ...

    def gave_back(self, call: str) -> None: ...
    def over(self, session: Session, cdr: Cdr) -> None: ...
    def said(self, session: Session, line: Line) -> None: ...
    def task(self, session: Session, task: records.Task) -> None: ...


@dataclass(slots=True)
class _Live:
    session: Session
    leg: Leg
    cdr: Cdr
    inside: str = ""
    """Its name in its worker; the same as ours when empty."""
    seen_ms: int = 0
    """When this process knew of it first, by the wall clock, ..."""
    seen_steady_ms: int = 0
    """... and by the one that nobody sets."""
    over: tuple[int, Reason] | None = None
    """It ended before it was known what it had been."""
    cause: str = ""
    figures: Figures | None = None
    """The newest that its worker has told."""
    has_tasks: bool = False


def open_sessions(
    settings: GatewaySettings, address: Address, spawn: Callable[[Coroutine[Any, Any, None]], None]
) -> Sessions:
    """As it is set; `store.run` is still to run."""
    store = Store(
        lambda: make_client(settings, address), settings.redis_keep_s,
        namespace=settings.redis_namespace,
        most_keep_s=max((tenant.keep_s for tenant in settings.tenants.values()), default=0),
    )  # fmt: skip
    sessions = Sessions(store, settings.node_name, spawn, keep_s=settings.make_parties().keep_s)
    sessions.prices = settings.prices
    return sessions


def ask_server(settings: GatewaySettings, address: Address) -> str:
    """Name and version of the server. `OSError` when it does not answer, or not to us."""

    async def ask() -> str:
        client = make_client(settings, address)
        try:
            return await client.ping()
        except Away as wrong:
            raise OSError(str(wrong)) from None
        finally:
            await client.close()

    return asyncio.run(ask())


def make_client(settings: GatewaySettings, address: Address) -> Client:
    """As it is set."""
    login = Login(
        user=settings.redis_user,
        password=settings.redis_password.get_secret_value(),
        tls_ca=settings.redis_tls_ca,
        tls_cert=settings.redis_tls_cert,
        tls_key=settings.redis_tls_key,
    )
    return Client(address, login, settings.redis_namespace, settings.node_name)


class Sessions:
    """Of one main process. `spawn` runs a task until the process ends; `now_ms` is the wall clock, `steady_ms` one
    that nobody sets: by it a call is as long as it was, whatever becomes of the other. `keep_s` says how long a
    tenant's calls stay once they are over, None is as long as the store has it.

    `recalled` is told of each adopted call as it was before this process, `over` of each call that is over.
    """

    def __init__(
        self,
        store: Store,
        node: str,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        now_ms: Callable[[], int] = unix_ms,
        keep_s: Callable[[str], int | None] = lambda tenant: None,
        steady_ms: Callable[[], int] = steady_ms,
    ) -> None:
        self.store = store
        self.recalling: set[str] = set()
        """Adopted calls of which it is not known yet what they were."""
        self.recalled: Callable[[Session], None] = lambda session: None
        self.over: Callable[[str], None] = lambda call: None
        self.watchers: list[Watcher] = []
        """Told one after another."""
        self.prices = Prices()
        self._node, self._spawn, self._keep_s = node, spawn, keep_s
        self._now_ms, self._steady_ms = now_ms, steady_ms
        self._live: dict[str, _Live] = {}
        self._early: dict[str, list[Callable[[Cdr], Cdr]]] = {}
        """What is to be written of calls that are not known yet; bounded by `MOST_EARLY`, gone with the call."""

    def __contains__(self, call: str) -> bool:
        return call in self._live

    def __iter__(self) -> Iterator[Session]:
        """Those that live."""
        return iter([live.session for live in self._live.values()])

    def find(self, call: str) -> Session | None:
        """One that lives."""
        live = self._live.get(call)
        return live.session if live is not None else None

    def tenant_of(self, call: str) -> str:
        """Of one that lives; "" is nobody's."""
        live = self._live.get(call)
        return live.session.tenant if live is not None else ""

    def engine_of(self, call: str) -> str:
        """Of one that lives; "" is the usual one."""
        live = self._live.get(call)
        return live.session.engine if live is not None else ""

    def place_of(self, call: str) -> tuple[str, str] | None:
        """The worker that has it, and its name there; None when it does not live."""
        live = self._live.get(call)
        return (live.session.worker, live.inside or call) if live is not None else None

    def begin(
        self,
        call: str,
        door: Door,
        worker: str,
        persona: str = "",
        called: str = "",
        party: Party = NOBODY,
        resume: str = "",
        placed: bool = False,
        inside: str = "",
        joined: str = "",
        price_minute: float = 0.0,
        engine: str = "",
    ) -> None:
        """It was answered. `resume` is the hash of its token, if it has one; `engine` answers it, `placed` says
        that we called, `price_minute` what that costs, `inside` is its name in its worker, `joined` the call whose
        caller and model it was made to join."""
        now_ms = self._now_ms()
        session = Session(
            call, door, self._node, worker, now_ms, persona, called,
            tenant=party.tenant, trunk=party.trunk, caller=party.caller, number=party.number, resume=resume,
            recording=party.recording, placed=placed, attestation=party.attestation,
            joined=joined, engine=engine,
        )  # fmt: skip
        self.store.begin(call)
        cdr = msgspec.structs.replace(_cdr_of(session), price_minute=price_minute)
        self._know(_Live(session, Leg(0, door, worker, now_ms), cdr, inside, now_ms, self._steady_ms()))
        for watcher in self.watchers:
            watcher.began(session)

    def adopt(self, call: str, door: Door, worker: str, inside: str = "") -> None:
        """It lived on while this process was away: what is known of it is asked of Redis."""
        now_ms = self._now_ms()
        session = Session(call, door, self._node, worker, now_ms)
        cdr = Cdr(call, door, self._node, now_ms, adopted=True)
        live = _Live(session, Leg(0, door, worker, now_ms), cdr, inside, now_ms, self._steady_ms())
        self._live[call] = live
        self.recalling.add(call)
        self.store.adopt(call)
        self._spawn(self._recall(live))

    async def take_over(self, kept: Kept, session: Session) -> bool:
        """A call of a gateway that is gone is to go on here; False when another one was quicker, or has it still.

        Its next leg begins with `resume`; until then `hand_back` undoes it.
        """
        call = session.call
        if call in self._live:
            return False
        now_ms = self._now_ms()
        leg = Leg(0, session.door, session.worker, now_ms)
        live = _Live(session, leg, _cdr_of(session), "", now_ms, self._steady_ms())
        _complete(live, kept)
        live.session = msgspec.structs.replace(session, node=self._node)
        live.cdr = msgspec.structs.replace(live.cdr, node=self._node)
        self._live[call] = live
        self.store.adopt(call)
        for watcher in self.watchers:
            watcher.took(live.session)
        if await self.store.settled(call, TAKE_OVER_S):
            return True
        self.hand_back(call)
        return False

    def hand_back(self, call: str) -> None:
        """It did not go on here: another gateway may have it."""
        if self._live.pop(call, None) is not None:
            self.store.release(call)
            for watcher in self.watchers:
                watcher.gave_back(call)

    def resume(self, call: str, worker: str = "", token: str = "") -> None:
        """The browser is back with another connection: the next leg of the same call, with a new token's hash."""
        live = self._live.get(call)
        if live is None:
            return
        now_ms, worker = self._now_of(live), worker or live.leg.worker
        self.store.put_leg(call, msgspec.structs.replace(live.leg, ended_ms=now_ms))
        live.leg = Leg(live.leg.number + 1, live.leg.door, worker, now_ms)
        live.cdr = msgspec.structs.replace(live.cdr, legs=live.cdr.legs + 1)
        before = live.session
        live.session = msgspec.structs.replace(before, worker=worker, resume=token or before.resume)
        if live.session != before:
            self.store.put_session(call, live.session)
        self.store.put_leg(call, live.leg)
        self.store.put_cdr(call, live.cdr)

    def hand_over(self, call: str, target: str) -> None:
        """Its caller was handed to a person; whoever that is finds the transcript under the call's name."""
        live = self._live.get(call)
        if live is not None:
            live.cdr = msgspec.structs.replace(live.cdr, handed_to=target)
            self.store.put_cdr(call, live.cdr)

    def announced(self, call: str, disclosure: bool, consent: bool) -> None:
        """Its caller has heard our announcements; it may not be answered yet (early media)."""
        self._stamp(call, lambda cdr: msgspec.structs.replace(cdr, disclosed=disclosure, consented=consent))

    def recorded(self, call: str, file: str) -> None:
        """A recording of it has begun."""
        self._stamp(
            call,
            lambda cdr: (
                cdr
                if file in cdr.recordings or len(cdr.recordings) >= MOST_RECORDINGS
                else msgspec.structs.replace(cdr, recordings=(*cdr.recordings, file))
            ),
        )

    def _stamp(self, call: str, change: Callable[[Cdr], Cdr]) -> None:
        live = self._live.get(call)
        if live is None or call in self.recalling:
            if len(self._early) < MOST_EARLY or call in self._early:
                self._early.setdefault(call, []).append(change)
            return
        before, live.cdr = live.cdr, change(live.cdr)
        if live.cdr != before:
            self.store.put_cdr(call, live.cdr)

    def said(self, call: str, line: Line) -> None:
        """One of them said something in a turn."""
        live = self._live.get(call)
        if live is None:
            return
        self.store.say(call, line)
        for watcher in self.watchers:
            watcher.said(live.session, line)

    def note_task(self, call: str, task: records.Task) -> None:
        """What became of work that was handed off."""
        live = self._live.get(call)
        if live is None:
            return
        live.has_tasks = True
        self.store.put_task(call, task)
        for watcher in self.watchers:
            watcher.task(live.session, task)

    def measured(self, call: str, figures: Figures) -> None:
        """What its worker has measured up to now."""
        if (live := self._live.get(call)) is not None:
            live.figures = figures

    def end(
        self, call: str, reason: Reason = "over", cause: str = "", figures: Figures | None = None
    ) -> None:
        """It is over; a call that is not known is nothing. One that was adopted is to be known first, and what one
        with tasks has cost."""
        live = self._live.get(call)
        if live is None:
            self._early.pop(call, None)
        if live is None or live.over is not None:
            return
        live.cause, live.figures = cause, figures or live.figures
        self.over(call)
        if call in self.recalling:
            live.over = self._now_of(live), reason
        elif live.has_tasks:
            live.over = self._now_of(live), reason
            self._spawn(self._ask_costs(live))
        else:
            self._finish(live, self._now_of(live), reason)

    async def _ask_costs(self, live: _Live) -> None:
        """Of the background models; without an answer they are not known, and the call is over all the same."""
        call = live.session.call
        told = await self.store.script(SPENT, [f"{self.store.namespace}:{{tasks}}:spent:{call}"], [])
        if self._live.get(call) is live and live.over is not None:
            spent = [int(float(word or 0)) for word in told] if told is not None else [0, 0]
            self._finish(live, *live.over, *spent)

    def _finish(
        self, live: _Live, ended_ms: int, reason: Reason, tokens: int = 0, millionths: int = 0
    ) -> None:
        call, figures = live.session.call, live.figures or Figures()
        self.recalling.discard(call)
        del self._live[call]
        self.store.put_leg(call, msgspec.structs.replace(live.leg, ended_ms=ended_ms))
        live.session = msgspec.structs.replace(live.session, ended_ms=ended_ms)
        length_ms = ended_ms - live.cdr.began_ms
        trunk_cost = cost_of_trunk(live.cdr.price_minute, length_ms)
        cost = self.prices.cost(length_ms, figures.engine_ms) + millionths / 1e6 + trunk_cost
        live.cdr = msgspec.structs.replace(
            live.cdr, ended_ms=ended_ms, reason=reason, cause=live.cause, figures=figures, tokens=tokens,
            trunk_cost=round(trunk_cost, 6), cost=round(cost, 6),
        )  # fmt: skip
        self.store.put_session(call, live.session)
        self.store.put_cdr(call, live.cdr)
        for watcher in self.watchers:
            watcher.over(live.session, live.cdr)
        self.store.index.add(call, live.cdr.began_ms, ended_ms, live.session.tenant)
        self.store.end(call, self._keep_s(live.session.tenant))

    def end_all(self) -> None:
        """This gateway stops, and its calls with it."""
        for live in list(self._live.values()):
            live.cause = live.cause or ("drain" if live.over is None else "")
            self._finish(live, *(live.over or (self._now_of(live), "stopped")))

    def _now_of(self, live: _Live) -> int:
        """Unix ms by the wall clock as it went when this process knew of the call first."""
        return live.seen_ms + self._steady_ms() - live.seen_steady_ms

    def lose(self, door: Door, worker: str) -> None:
        """A worker is gone, and its calls with it."""
        for call, live in list(self._live.items()):
            if live.session.door == door and live.session.worker == worker:
                self.end(call, "worker-lost")

    def _know(self, live: _Live) -> None:
        call = live.session.call
        self._live[call] = live
        for change in self._early.pop(call, ()):
            live.cdr = change(live.cdr)
        self.store.put_session(call, live.session)
        self.store.put_leg(call, live.leg)
        self.store.put_cdr(call, live.cdr)

    async def _recall(self, live: _Live) -> None:
        """What was known before this process began; until it is there, nothing is written over it."""
        call = live.session.call
        while self._live.get(call) is live:
            kept = await self.store.read(call, most_lines=1)
            if kept is not None and self._live.get(call) is live:
                _complete(live, kept)
                self._know(live)
                self.recalling.discard(call)
                for watcher in self.watchers:
                    watcher.began(live.session)
                if live.over is not None:
                    self._finish(live, *live.over)
                else:
                    self.recalled(live.session)
                return
            await asyncio.sleep(PATIENCE_S)


def _cdr_of(session: Session) -> Cdr:
    """In case that the server has none."""
    return Cdr(
        session.call,
        session.door,
        session.node,
        session.began_ms,
        session.persona,
        session.tenant,
        session.trunk,
        recording=session.recording,
        placed=session.placed,
        attestation=session.attestation,
        joined=session.joined,
        engine=session.engine,
    )


def _complete(live: _Live, kept: Kept) -> None:
    """From what Redis has; what cannot be read is as if it were not there."""
    try:
        session = records.decode(Session, kept.session or b"")
        cdr = records.decode(Cdr, kept.cdrs.get(str(session.began_ms).encode(), b""))
        legs = [records.decode(Leg, leg) for leg in kept.legs.values()]
    except msgspec.DecodeError:
        return
    if session.ended_ms:  # of an earlier call of that name
        return
    live.session = msgspec.structs.replace(session, node=live.session.node, worker=live.session.worker)
    live.cdr = cdr
    live.leg = max(legs, key=lambda leg: leg.number, default=live.leg)
