"""The calls of this gateway as its main process knows them, written down as they begin, change and end.

Its callers are the doors (`doors.py`); what it knows of a call is what control messages and the edge say. What was
said in a call comes to `said`: no control message brings it yet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.config import GatewaySettings
from gateway.state import records
from gateway.state.address import Address
from gateway.state.client import Away, Client, Kept, Login
from gateway.state.records import Cdr, Door, Leg, Line, Reason, Session
from gateway.state.store import Store

PATIENCE_S: Final = 2.0
"""Between two attempts to read what is known of an adopted call."""


def unix_ms() -> int:
    """The gateway's wall clock."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class _Live:
    session: Session
    leg: Leg
    cdr: Cdr


def open_sessions(
    settings: GatewaySettings, address: Address, spawn: Callable[[Coroutine[Any, Any, None]], None]
) -> Sessions:
    """As it is set; `store.run` is still to run."""
    store = Store(lambda: _client(settings, address), settings.redis_keep_s)
    return Sessions(store, settings.node_name, spawn)


def ask_server(settings: GatewaySettings, address: Address) -> str:
    """Name and version of the server. `OSError` when it does not answer, or not to us."""

    async def ask() -> str:
        client = _client(settings, address)
        try:
            return await client.ping()
        except Away as wrong:
            raise OSError(str(wrong)) from None
        finally:
            await client.close()

    return asyncio.run(ask())


def _client(settings: GatewaySettings, address: Address) -> Client:
    login = Login(
        user=settings.redis_user,
        password=settings.redis_password.get_secret_value(),
        tls_ca=settings.redis_tls_ca,
        tls_cert=settings.redis_tls_cert,
        tls_key=settings.redis_tls_key,
    )
    return Client(address, login, settings.redis_namespace, settings.node_name)


class Sessions:
    """Of one main process. `spawn` runs a task until the process ends; `now_ms` is the wall clock."""

    def __init__(
        self,
        store: Store,
        node: str,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self.store = store
        self._node, self._spawn, self._now_ms = node, spawn, now_ms
        self._live: dict[str, _Live] = {}

    def __contains__(self, call: str) -> bool:
        return call in self._live

    def begin(self, call: str, door: Door, worker: str, persona: str = "", called: str = "") -> None:
        """It was answered."""
        now_ms = self._now_ms()
        session = Session(call, door, self._node, worker, now_ms, persona, called)
        leg = Leg(0, door, worker, now_ms)
        self.store.begin(call)
        self._know(_Live(session, leg, Cdr(call, door, self._node, now_ms, persona)))

    def adopt(self, call: str, door: Door, worker: str) -> None:
        """It lived on while this process was away: what is known of it is asked of Redis."""
        now_ms = self._now_ms()
        session = Session(call, door, self._node, worker, now_ms)
        cdr = Cdr(call, door, self._node, now_ms, adopted=True)
        live = self._live[call] = _Live(session, Leg(0, door, worker, now_ms), cdr)
        self.store.adopt(call)
        self._spawn(self._recall(live))

    def resume(self, call: str) -> None:
        """The browser is back with another connection: the next leg of the same call."""
        live = self._live.get(call)
        if live is None:
            return
        now_ms = self._now_ms()
        self.store.put_leg(call, msgspec.structs.replace(live.leg, ended_ms=now_ms))
        live.leg = Leg(live.leg.number + 1, live.leg.door, live.leg.worker, now_ms)
        live.cdr = msgspec.structs.replace(live.cdr, legs=live.cdr.legs + 1)
        self.store.put_leg(call, live.leg)
        self.store.put_cdr(call, live.cdr)

    def said(self, call: str, line: Line) -> None:
        """One of them said something in a turn."""
        if call in self._live:
            self.store.say(call, line)

    def end(self, call: str, reason: Reason = "over") -> None:
        """It is over; a call that is not known is nothing."""
        live = self._live.pop(call, None)
        if live is None:
            return
        ended_ms = self._now_ms()
        self.store.put_leg(call, msgspec.structs.replace(live.leg, ended_ms=ended_ms))
        self.store.put_session(call, msgspec.structs.replace(live.session, ended_ms=ended_ms))
        self.store.put_cdr(call, msgspec.structs.replace(live.cdr, ended_ms=ended_ms, reason=reason))
        self.store.end(call)

    def end_all(self) -> None:
        """This gateway stops, and its calls with it."""
        for call in list(self._live):
            self.end(call, "stopped")

    def lose(self, door: Door, worker: str) -> None:
        """A worker is gone, and its calls with it."""
        for call, live in list(self._live.items()):
            if live.session.door == door and live.session.worker == worker:
                self.end(call, "worker-lost")

    def _know(self, live: _Live) -> None:
        call = live.session.call
        self._live[call] = live
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
                return
            await asyncio.sleep(PATIENCE_S)


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
