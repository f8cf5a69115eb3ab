# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls that a worker begins, towards the target of a transfer or whom we call ourselves: the direction opposite to
all others.

add -- numeric and UDP ---------------> forwarded
 +-- else `take_dials` ... `dialled` --> forwarded, or answered 503
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.sip.counters import Counters
from gateway.sip.dialler import Dial
from gateway.sip.flows import Flow
from gateway.sip.header import BadMessage, Header
from gateway.sip.load import Call, Calls, CallState, Worker
from gateway.sip.message import Request
from gateway.sip.outbox import Outbox
from gateway.sip.path import count_down, next_hop
from gateway.sip.sdp_policy import OPEN, Policy
from gateway.sip.sdp_screen import family_of
from gateway.sip.targets import Target
from gateway.sip.tickets import Tickets
from gateway.sip.timers import PENDING_NS
from gateway.sip.transfers import Transfers

PolicyOf = Callable[[str], Policy]
"""Of the calls of a trunk, by its name."""


class Begun:
    """The calls of workers, in the same table as those of peers."""

    def __init__(
        self,
        transfers: Transfers,
        tickets: Tickets,
        calls: Calls,
        outbox: Outbox,
        counters: Counters,
        policy_of: PolicyOf = lambda trunk: OPEN,
    ) -> None:
        self._transfers, self._tickets, self._policy_of = transfers, tickets, policy_of
        self._calls = calls
        self._outbox = outbox
        self._counters = counters
        self._dials: list[Dial] = []

    def add(self, request: Request, worker: Worker, now_ns: int) -> Call:
        """A call to whom a caller was allowed to be transferred to, or whom we want to call ourselves.  Raises
        BadMessage(403) for anyone else."""
        if self._calls.full:
            raise BadMessage(503, "Service Unavailable")
        ticket = self._tickets.claim(request, worker, now_ns)
        if ticket is not None:
            call = self._begin(request, worker, ticket.target, now_ns)
            call.caller, call.placed, call.policy = ticket.caller, True, self._policy_of(ticket.trunk)
            self._counters.calls_placed += 1
            return call
        transfer = self._transfers.claim(request, worker, now_ns)
        call = transfer.child = self._begin(request, worker, transfer.target, now_ns)
        return call

    def _begin(self, request: Request, worker: Worker, target: Target, now_ns: int) -> Call:
        numeric = target.is_numeric and target.transport == "udp"
        flow = Flow("udp", target.host, target.port) if numeric else None
        call = Call(
            request.call_id, worker, flow, CallState.PENDING, request.cseq, b"", b"", request, now_ns,
            now_ns + PENDING_NS, target=target, dialled=request.uri, own_tag=request.from_tag,
            sound6=family_of(request.body) == 6,
        )  # fmt: skip
        self._calls.add(call)
        if flow is None:
            self._dials.append(Dial(call.call_id, target))
        return call

    def ask_again(self, request: Request, call: Call) -> None:
        """The worker's INVITE once more, with an answer to the challenge (RFC 3261 22.1): the same call."""
        if call.state is CallState.PENDING and request.cseq > call.cseq:
            call.cseq, call.invite = request.cseq, request

    def take_dials(self) -> list[Dial]:
        """Calls that wait for a flow; each is to be answered by `dialled`."""
        out, self._dials = self._dials, []
        return out

    def dialled(self, call_id: bytes, flow: Flow | None) -> None:
        """The target is reached along `flow`, or not at all (RFC 3261 8.1.3.1: as if it had answered 503).  What
        is to be sent comes with the router's next `poll`."""
        call = self._calls.get(call_id)
        if call is None or call.invite is None or call.target is None or call.flow is not None:
            return  # given up meanwhile
        if flow is None:
            self._give_up(call, 503, "Service Unavailable")
            return
        call.flow = flow
        self._outbox.to_target(call.invite, self._passed_on(call.invite), call, flow)

    def pass_on(self, request: Request, call: Call) -> bool:
        """A request of the worker, towards the target; False while there is no way to it.

        Within the dialog that is its route set or Contact (RFC 3261 12.2.1.1), where this is a numeric UDP address.
        """
        if call.flow is None and call.invite is not None:
            if request.method == b"CANCEL":
                self._outbox.refuse_worker(request, call, 200, "OK")
                self._give_up(call, 487, "Request Terminated")
            return False  # the INVITE waits for `dialled`, which its retransmissions do not hasten
        headers = self._passed_on(request)
        within = (
            request.to_tag and request.uri != call.dialled and not (call.flow and call.flow.is_connection)
        )
        flow = (next_hop(request, headers) if within else None) or call.flow
        if flow is not None:
            self._outbox.to_target(request, headers, call, flow)
        elif request.method != b"ACK":
            raise BadMessage(480, "Peer Has No Connection")
        return flow is not None

    def expire(self, call: Call) -> None:
        """Timer C (RFC 3261 16.8), or the end of a call that was answered and never acknowledged."""
        if call.invite is not None:
            self._outbox.cancel_target(call.invite, call)
            self._outbox.refuse_worker(call.invite, call, 408, "Request Timeout")

    def lose_flow(self, flow: Flow) -> None:
        """A connection is gone: nobody will answer along it any more."""
        for call in self._calls.begun_on(flow):
            self._give_up(call, 503, "Service Unavailable")

    def _passed_on(self, request: Request) -> list[Header]:
        return self._outbox.path.strip_routes(count_down(request.headers))

    def _give_up(self, call: Call, status: int, reason: str) -> None:
        """It comes to nothing, before its target has answered."""
        if call.invite is not None:
            self._outbox.refuse_worker(call.invite, call, status, reason)
        if self._calls.end(call, call.last_ns):
            self._counters.calls_ended += 1
