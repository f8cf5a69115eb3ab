"""Everything that happens in this gateway's calls, as events: to the spool, and to whoever follows them live.

`Sessions` tells it of calls, and of tasks. Each is written before this returns; what cannot be is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec
import structlog

from gateway.events import records
from gateway.events.courier import Courier
from gateway.events.open_calls import OpenCalls
from gateway.events.outbox import Outbox
from gateway.events.records import DETAILS, Event, Kind
from gateway.events.settings import Webhook
from gateway.events.spool import Spool
from gateway.state import records as kept_as
from gateway.state.client import Kept
from gateway.state.forgotten import MOST
from gateway.state.records import Cdr, Line, Session, Task
from gateway.state.sessions import Sessions, unix_ms

log = structlog.get_logger()
R = TypeVar("R", Session, Cdr)

TASKS: Final[dict[str, Kind]] = {
    "asked": "task.asked", "done": "task.done", "failed": "task.failed", "cancelled": "task.cancelled",
}  # fmt: skip
REPORTED_S: Final = 5.0
"""After a restart, workers have told of their calls by then."""
PATIENCE_S: Final = 2.0
MOST_LATELY: Final = 1_024
PUBLIC: Final = (
    "placed",
    "call",
    "door",
    "node",
    "began_ms",
    "persona",
    "called",
    "tenant",
    "trunk",
    "caller",
    "number",
    "recording",
    "attestation",
    "joined",
    "engine",
)
"""Of a session: not what a resume token is checked against, nor its worker."""


class EventDesk:
    """`sessions.Watcher`. `follow` is told of each event, to whoever follows them live."""

    def __init__(
        self,
        node: str,
        spool: Spool | None,
        open_calls: OpenCalls,
        outboxes: Iterable[Outbox] = (),
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        """Without a spool there are no endpoints."""
        self.spool, self.open_calls = spool, open_calls
        self.couriers = [Courier(outbox) for outbox in outboxes]
        self.follow: Callable[[Event, bytes], None] = lambda event, packed: None
        self._node, self._now_ms = node, now_ms
        self._lately: dict[str, Session] = {}
        self._forgotten: dict[str, None] = {}
        """Calls, the newest `MOST`; in order."""
        self._written = asyncio.Event()
        self._closing = False

    # -- what happens

    def began(self, session: Session) -> None:
        """A call was answered; one that was adopted, and was told of before, is no news."""
        if session.call in self.open_calls:
            return
        self._tell("call.started", session, _public(session))
        self.open_calls.begin(session)

    def over(self, session: Session, cdr: Cdr) -> None:
        """It is over, with its record."""
        told = _public(session) | _json(msgspec.structs.asdict(cdr))
        self._tell("call.ended", session, told)
        self.open_calls.end(session.call)
        self._lately[session.call] = session
        if len(self._lately) > MOST_LATELY:
            del self._lately[next(iter(self._lately))]

    def took(self, session: Session) -> None:
        """A call of a gateway that is gone goes on here: that one, or one before it, has told of its begin."""
        self.open_calls.begin(session)

    def gave_back(self, call: str) -> None:
        """It does not go on here after all."""
        self.open_calls.end(call)

    def said(self, session: Session, line: Line) -> None:
        """A piece of the transcript."""
        self._tell("call.transcript", session, _json(line), f"{line.turn} {line.speaker} {line.piece}")

    def noted(self, session: Session, kind: Kind, data: dict[str, Any], what: str) -> None:
        """Something else; `what` tells it from others of its kind in the call."""
        self._tell(kind, session, data, what)

    def lately(self, call: str) -> Session | None:
        """One that is over, of the newest: some things are known of a call only then."""
        return self._lately.get(call)

    def task(self, session: Session, task: Task) -> None:
        """What became of a task."""
        if kind := TASKS.get(task.state):
            told = {k: v for k, v in _json(task).items() if k not in ("worker", "deadline_ms")}
            self._tell(kind, session, told, task.key)

    def forget(self, calls: Iterable[str]) -> None:
        """What is still to be told of these says neither who called nor what was said."""
        told = list(calls)
        self.open_calls.forget(told)
        for call in told:
            self._forgotten.pop(call, None)
            self._forgotten[call] = None
        while len(self._forgotten) > MOST:
            del self._forgotten[next(iter(self._forgotten))]

    def sync_soon(self) -> None:
        """Something was written."""
        self._written.set()

    # -- its life

    async def run(self) -> None:
        """Deliver, and make what was written last, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for courier in self.couriers:
                group.create_task(courier.run())
            group.create_task(self._sync())

    async def settle_former(self, sessions: Sessions) -> None:
        """Calls that a process before this one had, and that no worker has reported since: they have ended, or went
        on elsewhere. Once workers had time to report."""
        await asyncio.sleep(REPORTED_S)
        for session in self.open_calls.calls:
            while session.call not in sessions and not self._closing:
                kept = await sessions.store.read(session.call, 1)
                if kept is not None:
                    self._settle(session, kept, sessions)
                    break
                await asyncio.sleep(PATIENCE_S)

    def _settle(self, begun: Session, kept: Kept, sessions: Sessions) -> None:
        session, cdr = _decoded(Session, kept.session) or begun, None
        for record in kept.cdrs.values():
            found = _decoded(Cdr, record)
            cdr = found if found is not None and found.began_ms == session.began_ms else cdr
        owner = kept.lease.partition(b" ")[0].decode(errors="replace") if kept.lease else self._node
        if owner != self._node or session.node != self._node:
            self.open_calls.end(session.call)  # that gateway tells of its end
        elif cdr is not None and cdr.ended_ms:
            self.over(session, cdr)
        elif kept.session is None:  # nothing is known of it any more but what is here
            self.over(begun, _lost(begun, self._now_ms()))
        else:
            sessions.adopt(session.call, session.door, session.worker)
            sessions.end(session.call, "lost")

    def close(self) -> None:
        """What was not delivered waits for the next process."""
        self._closing = True
        if self.spool is not None:
            self.spool.close()
        self.open_calls.close()

    # -- what it shows

    def counters(self) -> dict[str, Any]:
        """By the part of the metrics that they belong to."""
        if self.spool is None:
            return {}
        told: dict[str, Any] = {"events": self.spool.counters}
        for courier in self.couriers:
            told[f"webhook:{courier.outbox.name}"] = courier.outbox.counters
        return told

    def gauges(self) -> dict[str, float]:
        """Of now."""
        if self.spool is None:
            return {}
        told = {"events_spool_bytes": float(self.spool.size_bytes)}
        told["events_spool_limit_bytes"] = float(self.spool.most_bytes)
        for courier in self.couriers:
            name = courier.outbox.name
            told[f"webhook.waiting_bytes:{name}"] = float(self.spool.waiting(name))
        return told

    # -- inside

    def _tell(self, kind: Kind, session: Session, data: dict[str, Any], what: str = "") -> None:
        event = Event(
            records.id_of(kind, session.call, session.began_ms, what), kind, self._now_ms(), self._node,
            session.call, data, session.tenant,
        )  # fmt: skip
        if session.call in self._forgotten:
            event = records.redacted(event)
        packed = records.encode(event)
        self.follow(event, packed)
        if self.spool is None or not any(
            courier.outbox.webhook.wants(kind, session.tenant) for courier in self.couriers
        ):
            return
        if self.spool.append(packed, detail=kind in DETAILS):
            self.sync_soon()
            for courier in self.couriers:
                courier.wake.set()

    async def _sync(self) -> None:
        """One after another: what is written meanwhile goes with the next."""
        while True:
            await self._written.wait()
            self._written.clear()
            assert self.spool is not None
            try:
                await asyncio.to_thread(self.spool.sync)
            except OSError as wrong:
                log.error("events may not survive a power cut", reason=wrong.strerror)


def make_outboxes(webhooks: dict[str, Webhook], spool: Spool, give_up_s: int) -> list[Outbox]:
    """One an endpoint."""
    return [Outbox(name, webhook, spool, give_up_s) for name, webhook in sorted(webhooks.items())]


def _lost(session: Session, now_ms: int) -> Cdr:
    return Cdr(
        session.call, session.door, session.node, session.began_ms, session.persona, session.tenant,
        session.trunk, ended_ms=now_ms, reason="lost", recording=session.recording, placed=session.placed,
        attestation=session.attestation, joined=session.joined, engine=session.engine,
    )  # fmt: skip


def _decoded(what: type[R], data: bytes | None) -> R | None:
    try:
        return kept_as.decode(what, data or b"")
    except msgspec.DecodeError:
        return None


def _json(record: msgspec.Struct | dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(record)
    return told


def _public(session: Session) -> dict[str, Any]:
    return {name: value for name, value in _json(session).items() if name in PUBLIC}
