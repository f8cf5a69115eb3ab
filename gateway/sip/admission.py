# SPDX-License-Identifier: GPL-3.0-or-later
"""New calls: a worker now, a short wait for one, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.sip.counters import Counters
from gateway.sip.flows import Flow
from gateway.sip.header import BadMessage, Header
from gateway.sip.load import Call, Calls, CallState, Worker, Workers
from gateway.sip.message import Request
from gateway.sip.outbox import Outbox
from gateway.sip.path import transaction
from gateway.sip.sdp_policy import OPEN, Policy
from gateway.sip.sdp_screen import prefers_wideband
from gateway.sip.sips import is_sips
from gateway.sip.timers import PENDING_NS


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an initial INVITE is not admitted: a final status (300-699), and headers such as
    WWW-Authenticate."""

    status: int
    reason: str
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class Later:
    """Somebody else is asked about an INVITE: `decide` follows."""


Admit = Callable[[Request], Refusal | Later | None]


@dataclass(slots=True)
class Waiting:
    """An INVITE held back until a worker's spacing is over."""

    request: Request
    flow: Flow
    deadline_ns: int
    arrived_ns: int


class Admission:
    """Decides about initial INVITEs.  One is held for at most `queue_wait_ns` until a worker's spacing is
    over, and at most `queue_length` of them; beyond that they are refused.
    """

    def __init__(
        self,
        workers: Workers,
        calls: Calls,
        outbox: Outbox,
        counters: Counters,
        admit: Admit | None,
        queue_length: int,
        queue_wait_ns: int,
        policy: Callable[[Request], Policy] = lambda request: OPEN,
    ) -> None:
        """`policy` says what an admitted call may have."""
        self._policy = policy
        self.draining = False
        self._workers = workers
        self._calls = calls
        self._outbox = outbox
        self._counters = counters
        self._admit = admit
        self._queue_length = queue_length
        self._queue_wait_ns = queue_wait_ns
        self._waiting: dict[bytes, Waiting] = {}  # in order of arrival
        self._asked: dict[bytes, Waiting] = {}  # about which somebody else decides, as well

    def __len__(self) -> int:
        return len(self._waiting) + len(self._asked)

    def get(self, call_id: bytes) -> Waiting | None:
        """The INVITE that is held under `call_id`."""
        return self._waiting.get(call_id) or self._asked.get(call_id)

    def offer(self, request: Request, source: Flow, now_ns: int) -> None:
        """Take or refuse a new INVITE.  Raises BadMessage for one that no worker may see."""
        screen = self._outbox.screened(request)
        if screen is not None:
            raise screen
        if self.draining:
            self._counters.refused_draining += 1
            self._outbox.refuse(request, source, 503, "Draining", self._outbox.retry_after)
            return
        refusal = self._admit(request) if self._admit is not None else None
        if isinstance(refusal, Later) and len(self._asked) < self._queue_length:
            self._asked[request.call_id] = Waiting(request, source, now_ns + self._queue_wait_ns, now_ns)
            self._outbox.trying(request, source)
        elif isinstance(refusal, Later):
            self._outbox.busy(request, source)
        else:
            self._decided(request, source, refusal, now_ns, now_ns)

    def decide(self, call_id: bytes, refusal: Refusal | None, now_ns: int) -> None:
        """What has become of an INVITE about which somebody else was asked; nothing if it is gone meanwhile."""
        asked = self._asked.pop(call_id, None)
        if asked is None:
            return
        try:
            self._decided(asked.request, asked.flow, refusal, now_ns, asked.arrived_ns)
        except BadMessage as bad:
            self._outbox.refuse_bad(asked.request, bad, asked.flow)

    def _decided(
        self, request: Request, source: Flow, refusal: Refusal | None, now_ns: int, arrived_ns: int
    ) -> None:
        if refusal is None:
            self._place(request, source, now_ns, arrived_ns)
            return
        self._counters.refused_by_hook += 1
        self._outbox.refuse(request, source, refusal.status, refusal.reason, refusal.headers)

    def next_deadline(self) -> int | None:
        """When `release` is due, or None."""
        times = [asked.deadline_ns for asked in self._asked.values()][:1]
        if self._waiting:
            times.append(self._release_ns())
        return min(times, default=None)

    def _release_ns(self) -> int:
        first_ns = next(iter(self._waiting.values())).deadline_ns  # equal waits: the first is the earliest
        ready_ns = None if self._calls.full else self._workers.ready_ns()
        return first_ns if ready_ns is None else min(first_ns, ready_ns)

    def drain(self) -> None:
        """No new calls from here on; held INVITEs get 503."""
        self.draining = True
        for waiting in (*self._waiting.values(), *self._asked.values()):
            self._outbox.refuse(waiting.request, waiting.flow, 503, "Draining", self._outbox.retry_after)
        self._waiting.clear()
        self._asked.clear()

    def lose_flow(self, flow: Flow) -> None:
        """Forget what a connection that is gone was waiting for."""
        for held in (self._waiting, self._asked):
            for call_id in [k for k, w in held.items() if w.flow == flow]:
                del held[call_id]

    def _place(self, request: Request, source: Flow, now_ns: int, arrived_ns: int) -> None:
        """Give an admitted INVITE to a worker now, hold it until one is ready, or refuse it."""
        request = self._policy(request).of_peer(request)  # refused before anybody waits for a worker
        self.release(now_ns)
        worker = None if self._waiting else self._workers.pick(now_ns, prefers_wideband(request.body))
        if self._calls.full or self._workers.room() <= len(self._waiting):
            self._outbox.busy(request, source)
        elif worker is not None:
            self._assign(request, source, worker, now_ns, arrived_ns)
        elif len(self._waiting) < self._queue_length:
            self._counters.invites_delayed += 1
            self._waiting[request.call_id] = Waiting(
                request, source, now_ns + self._queue_wait_ns, arrived_ns
            )
            self._outbox.trying(request, source)
        else:
            self._outbox.busy(request, source)

    def _assign(self, request: Request, source: Flow, worker: Worker, now_ns: int, arrived_ns: int) -> None:
        policy = self._policy(request)
        call = Call(
            request.call_id, worker, source, CallState.PENDING, request.cseq, request.from_tag,
            transaction(request), request, now_ns, now_ns + PENDING_NS, is_sips(request.uri), policy=policy,
            arrived_ns=arrived_ns,
        )  # fmt: skip
        self._outbox.to_worker(request, source, call)  # may still find it too large
        worker.next_invite_ns = now_ns + worker.address.invite_spacing_ns
        self._calls.add(call)
        self._counters.calls_admitted += 1

    def release(self, now_ns: int) -> None:
        """Give held INVITEs to workers that became ready, in order of arrival; refuse those that waited
        too long, for a worker or for who was asked."""
        for call_id, asked in list(self._asked.items()):
            if asked.deadline_ns <= now_ns:
                del self._asked[call_id]
                self._outbox.busy(asked.request, asked.flow)
        for call_id, waiting in list(self._waiting.items()):
            wideband = prefers_wideband(waiting.request.body)
            worker = None if self._calls.full else self._workers.pick(now_ns, wideband)
            if worker is not None:
                del self._waiting[call_id]
                try:
                    self._assign(waiting.request, waiting.flow, worker, now_ns, waiting.arrived_ns)
                except BadMessage as bad:
                    self._outbox.refuse_bad(waiting.request, bad, waiting.flow)
            elif waiting.deadline_ns <= now_ns:
                del self._waiting[call_id]
                self._outbox.busy(waiting.request, waiting.flow)
            else:
                return

    def cancel(self, request: Request, waiting: Waiting, source: Flow) -> None:
        """A CANCEL for a held INVITE; raises BadMessage(481) for one that does not match it."""
        if request.cseq != waiting.request.cseq or request.via.branch != waiting.request.via.branch:
            raise BadMessage(481, "Transaction Does Not Exist")
        for held in (self._waiting, self._asked):
            held.pop(request.call_id, None)
        self._outbox.refuse(request, source, 200, "OK")
        self._outbox.refuse(waiting.request, waiting.flow, 487, "Request Terminated")
