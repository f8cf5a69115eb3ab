"""What the main process knows of the policy: rules that were met in calls, and what an endpoint has flagged.

worker: `control.PolicyMet` ---------------------------------> `SafetyEvent`, to everyone in `watchers`
worker: `control.Said` -> Moderator, flagged -> intercom ----> the same, by the name `moderation`
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import structlog

from gateway import control
from gateway.fleet import Kind
from gateway.intercom import Intercom
from gateway.safety.moderation import Heard, ModerationOptions, Moderator
from gateway.safety.policy import CAUSE, Do

log = structlog.get_logger()

MODERATION: Final = "moderation"
"""In place of the name of a rule."""
Send = Callable[[bytes], object]
NameOf = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class SafetyEvent:
    """A rule was met in a call."""

    call: str
    """As everywhere outside of this process."""
    rule: str
    did: Do
    turn: int
    categories: tuple[str, ...] = ()
    """Of what was flagged elsewhere."""


class SafetyDesk:
    """Of one main process. `spawn` runs a task until the process ends."""

    def __init__(
        self,
        intercom: Intercom,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        moderation: ModerationOptions | None,
        moderation_do: Do,
    ) -> None:
        self.watchers: list[Callable[[SafetyEvent], None]] = []
        self.moderator = Moderator(moderation, self._flagged) if moderation is not None else None
        self._intercom, self._spawn, self._do = intercom, spawn, moderation_do
        self._names: dict[str, NameOf] = {}

    def door(self, inner: Kind, name_of: NameOf = str) -> Kind:
        """Around a kind of worker, whose calls are known outside by `name_of` their names."""
        return _Door(inner, self, name_of)

    async def run(self) -> None:
        """Until cancelled."""
        if self.moderator is not None:
            await self.moderator.run()

    def counters(self) -> dict[str, Any]:
        """By the part of the metrics that they belong to."""
        return {"moderation": self.moderator.counters} if self.moderator is not None else {}

    # -- what the doors say

    def joined(self, worker: str, name_of: NameOf) -> None:
        """A worker whose calls have such names."""
        self._names[worker] = name_of

    def met(self, worker: str, met: control.PolicyMet) -> None:
        """By a worker's own word."""
        self._tell(SafetyEvent(self._names[worker](met.call_id), met.rule, met.did, met.turn))

    # -- what was flagged

    def _flagged(self, heard: Heard, categories: tuple[str, ...]) -> None:
        self._spawn(self._act(heard, categories))

    async def _act(self, heard: Heard, categories: tuple[str, ...]) -> None:
        name, did = self._names[heard.worker](heard.inside), self._do
        if did != "report":
            do: control.Do = "hang-up" if did == "hang-up" else "cut"
            value = CAUSE if do == "hang-up" else MODERATION
            done = await self._intercom.tell_worker(heard.worker, heard.inside, do, value)
            did = did if done.status < 400 else "report"  # it is silent already, or over
        log.warning("safety", call=name, rule=MODERATION, did=did, turn=heard.turn, categories=categories)
        self._tell(SafetyEvent(name, MODERATION, did, heard.turn, categories))

    def _tell(self, event: SafetyEvent) -> None:
        for watcher in self.watchers:
            watcher(event)


class _Door:
    """A `gateway.fleet.Kind`: what workers say of the policy is the desk's, what was said is heard on the way."""

    def __init__(self, inner: Kind, desk: SafetyDesk, name_of: NameOf) -> None:
        self._inner, self._desk, self._name_of = inner, desk, name_of

    def welcome(self, ready: control.Ready | control.WebrtcReady, send: Send) -> int:
        """See `Kind`."""
        self._desk.joined(ready.worker, self._name_of)
        return self._inner.welcome(ready, send)

    def hear(self, worker: str, message: control.WorkerMessage) -> None:
        """See `Kind`."""
        moderator = self._desk.moderator
        if isinstance(message, control.PolicyMet):
            self._desk.met(worker, message)
            return
        self._inner.hear(worker, message)
        if moderator is not None and isinstance(message, control.Said):
            moderator.said(worker, message.call, message.lines)
        elif moderator is not None and isinstance(message, control.CallEnded):
            moderator.over(worker, message.call_id)

    def lose(self, worker: str) -> int:
        """See `Kind`."""
        return self._inner.lose(worker)
