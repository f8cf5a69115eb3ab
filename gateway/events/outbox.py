"""What is due at one endpoint, and when: in order, one at a time, until it is taken. Time is an argument.

    due -> an attempt -> taken (2xx)      the next one is due
                      -> anything else    the same one is due again after a pause, which doubles up to a minute
                      -> not taken for `give_up_s` since it happened: given up and counted, the next one is due

An event that does not pass holds up those behind it, so that order is kept. What waits, waits in the spool.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import structlog

from gateway.events.records import Event, decode
from gateway.events.settings import Webhook
from gateway.events.spool import Place, Spool

log = structlog.get_logger()

FIRST_PAUSE_S: Final = 1.0
MOST_PAUSE_S: Final = 60.0
MOST_ASKED_S: Final = 300.0
"""Of what an endpoint may ask for by Retry-After."""
SPREAD: Final = 0.2
"""Of a pause: endpoints that went together are not asked together."""


class Attempt(NamedTuple):
    """To be sent now."""

    event: Event
    body: bytes
    number: int
    """1 is the first."""


@dataclass(slots=True)
class OutboxCounters:
    """Of one endpoint, since the start of this process."""

    delivered: int = 0
    failed: int = 0
    """Attempts that were not taken."""
    given_up: int = 0
    unreadable: int = 0


class Outbox:
    """Of one endpoint."""

    def __init__(self, name: str, webhook: Webhook, spool: Spool, give_up_s: int, seed: int = 0) -> None:
        self.name, self.webhook = name, webhook
        self.counters = OutboxCounters()
        self.wants_at_s: float | None = None
        """When the next attempt is due; None when nothing waits."""
        self._spool, self._give_up_s = spool, give_up_s
        self._random = random.Random(f"{name} {seed}")
        self._tries = 0
        self._after: Place | None = None
        self._is_down = False

    def next(self, now_s: float, unix_ms: int) -> Attempt | None:
        """The event that is due, if one is: `taken` or `refused` follows."""
        if self.wants_at_s is not None and now_s < self.wants_at_s:
            return None
        while (record := self._spool.read(self.name)) is not None:
            try:
                event = decode(record.payload)
            except msgspec.DecodeError:
                self.counters.unreadable += 1
                self._spool.advance(self.name, record.after)
                continue
            if not self.webhook.wants(event.type, event.tenant):
                self._spool.advance(self.name, record.after)
                continue
            if self._tries and unix_ms - event.at_ms > 1e3 * self._give_up_s:
                self.counters.given_up += 1
                log.error("an event is given up", endpoint=self.name, id=event.id, attempts=self._tries)
                self._pass(record.after)
                continue
            self._after = record.after
            self._tries += 1
            return Attempt(event, record.payload, self._tries)
        self.wants_at_s = None
        return None

    def taken(self) -> None:
        """The endpoint has it."""
        assert self._after is not None
        if self._is_down:
            waiting = self._spool.waiting(self.name)
            log.info("an endpoint takes events again", endpoint=self.name, waiting_bytes=waiting)
        self._is_down = False
        self.counters.delivered += 1
        self._pass(self._after)

    def refused(self, now_s: float, why: str, retry_after_s: float = 0.0) -> float:
        """It has not; gives the pause until the next attempt, in seconds."""
        self.counters.failed += 1
        if not self._is_down:
            log.warning("an endpoint does not take events: they wait", endpoint=self.name, reason=why)
        self._is_down = True
        pause_s = min(MOST_PAUSE_S, FIRST_PAUSE_S * float(1 << min(16, self._tries - 1)))
        pause_s *= 1 + SPREAD * (2 * self._random.random() - 1)
        pause_s = max(pause_s, min(retry_after_s, MOST_ASKED_S))
        self.wants_at_s = now_s + pause_s
        return pause_s

    def _pass(self, after: Place) -> None:
        self._spool.advance(self.name, after)
        self._tries, self._after, self.wants_at_s = 0, None, None
