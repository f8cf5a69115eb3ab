"""Events as a gateway's main process has them: the desk, the spool and the feed, put together as they are set."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any, Final

import structlog

from gateway.cluster.spend import Reached
from gateway.config import GatewaySettings
from gateway.events.desk import EventDesk, make_outboxes
from gateway.events.feed import Feed
from gateway.events.forgetting import Forgetting
from gateway.events.handovers import TOLD, Handovers
from gateway.events.open_calls import OpenCalls
from gateway.events.records import WITHOUT_WORDS, Event, Kind
from gateway.events.spool import Spool
from gateway.recording.desk import RecordingEvent
from gateway.safety.desk import SafetyEvent
from gateway.sip.call_events import CallEvent
from gateway.state.records import Session
from gateway.state.sessions import Sessions

log = structlog.get_logger()

PLACED: Final[dict[str, Kind]] = {
    "ringing": "call.ringing", "failed": "call.failed",
    "transferring": "call.transferring", "transferred": "call.transferred",
    "transfer-failed": "call.transfer-failed",
    "joined": "call.joined", "left": "call.left", "join-failed": "call.join-failed",
}  # fmt: skip
"""Of those that the sessions do not tell."""
RECORDED: Final[dict[str, Kind]] = {
    "began": "recording.began", "paused": "recording.paused", "resumed": "recording.resumed",
    "ended": "recording.ended",
}  # fmt: skip
MOST_PLACED: Final = 4_096


class EventOffice:
    """`ValueError` and `OSError` in words for the operator where the folder is of no use. Its `run` is to run."""

    def __init__(self, settings: GatewaySettings, sessions: Sessions) -> None:
        folder, webhooks = settings.events_folder, settings.webhooks
        settings.run_dir.mkdir(
            mode=0o700, parents=True, exist_ok=True
        )  # for this user alone, as its sockets are
        open_calls = OpenCalls(folder / "calls")
        spool = Spool(folder / "spool", settings.events_spool_mb << 20, tuple(webhooks)) if webhooks else None
        outboxes = make_outboxes(webhooks, spool, settings.events_give_up_s) if spool is not None else []
        self.desk = EventDesk(settings.node_name, spool, open_calls, outboxes)
        self.feed = self._make_feed(settings, sessions)
        self._handovers = Handovers(self.desk, sessions)
        self._forgetting = Forgetting(self.desk, sessions.store.script, settings.redis_namespace)
        self._sessions, self._has_words = sessions, settings.events_words == "on"
        self._node, self._born, self._number = settings.node_name, secrets.token_hex(4), 0
        self._placed: dict[str, str] = {}
        self._reached: set[tuple[str, str]] = set()
        sessions.watchers.append(self.desk)

    def _make_feed(self, settings: GatewaySettings, sessions: Sessions) -> Feed | None:
        if not settings.events_kept:
            return None
        feed = Feed(sessions.store.script, settings.redis_namespace, settings.events_kept)
        self.desk.follow = self._follow
        return feed

    def _follow(self, event: Event, packed: bytes) -> None:
        if self.feed is not None and (self._has_words or event.type in WITHOUT_WORDS):
            self.feed.put(event, packed)

    def heard(self, event: CallEvent) -> None:
        """The switchboard: what became of a call that we make, or of a caller who is handed on."""
        if event.kind in ("failed", "ended", "answered"):
            tenant = self._placed.pop(event.call, "")
        else:
            tenant = self._placed.get(event.call, "")
        if (kind := PLACED.get(event.kind)) is None:
            return
        session = self._sessions.find(event.call)
        if session is None:  # nobody has answered yet
            session = self._unanswered(event.call, tenant)
        told = {"status": event.status, "reason": event.reason, "why": event.why, "target": event.target}
        told["person"] = event.person
        self._number += 1
        what = f"{self._born} {self._number}"
        if event.kind in TOLD and self._wants_words(session.tenant):
            self._handovers.begin(session, event, what)
        self.desk.noted(session, kind, {name: value for name, value in told.items() if value}, what)

    def _wants_words(self, tenant: str) -> bool:
        """Whether anybody is to have the transcript of a caller who is handed on."""
        if self.feed is not None and self._has_words:
            return True
        return any(courier.outbox.webhook.wants("call.handover", tenant) for courier in self.desk.couriers)

    def reached(self, what: Reached) -> None:
        """What may be spent a day was not enough for a call: told once for each cap and day."""
        data = {"limit": what.limit, "day": what.day, "cap": what.cap}
        if (what.limit, what.day) not in self._reached:
            self._reached = {told for told in self._reached if told[1] == what.day} | {(what.limit, what.day)}
            self.desk.noted(
                self._unanswered("", what.tenant), "spend.reached", data, f"{what.limit} {what.day}"
            )

    def recorded(self, event: RecordingEvent) -> None:
        """The desk of recordings: what became of one."""
        session = self._sessions.find(event.call)
        if session is not None:
            data = {"file": event.file, "at_ms": event.at_ms, "by": event.by}
            self.desk.noted(session, RECORDED[event.kind], data, f"{event.file} {event.at_ms}")

    def screened(self, event: SafetyEvent) -> None:
        """The desk of the policy: a rule was met."""
        session = self._sessions.find(event.call) or self.desk.lately(event.call)
        if session is None:
            log.warning("nobody is told of it: the call is not known", call=event.call, rule=event.rule)
        else:
            data = {"rule": event.rule, "did": event.did, "turn": event.turn}
            data |= {"categories": list(event.categories)} if event.categories else {}
            self.desk.noted(session, "call.safety", data, f"{event.rule} {event.turn}")

    def placing(self, call: str, tenant: str) -> None:
        """A call that nobody has answered yet is that tenant's."""
        self._placed[call] = tenant
        if len(self._placed) > MOST_PLACED:
            del self._placed[next(iter(self._placed))]
        self.desk.noted(self._unanswered(call, tenant), "call.dialled", {}, "")

    def _unanswered(self, call: str, tenant: str) -> Session:
        """Its begin is 0: it has none yet."""
        return Session(call, "sip", self._node, "", 0, tenant=tenant)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.desk.run())
            group.create_task(self._forgetting.run())
            group.create_task(self._handovers.run())
            group.create_task(self.desk.settle_former(self._sessions))
            if self.feed is not None:
                group.create_task(self.feed.run())

    async def settle(self, patience_s: float = 1.0) -> None:
        """The stop is near: followers get what has happened, for so long at most, and are let go."""
        if self.feed is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self.feed.flush()
            self.feed.close()

    def close(self) -> None:
        """What was not delivered waits for the next process."""
        self._handovers.close()
        if self.feed is not None:
            self.feed.close()
        self.desk.close()

    def counters(self) -> dict[str, Any]:
        """By the part of the metrics that they belong to."""
        return self.desk.counters() | ({"feed": self.feed.counters} if self.feed is not None else {})

    def gauges(self) -> dict[str, float]:
        """Of now."""
        followers = {"events_followers": float(self.feed.followers)} if self.feed is not None else {}
        return self.desk.gauges() | followers
