# SPDX-License-Identifier: GPL-3.0-or-later
"""What messages say about the state of a call: answered, acknowledged, ending, over. No socket, no clock.

pending --2xx--> answered --ACK--> confirmed --BYE, its answer--> ended
   `--3xx..6xx-------------------------------------------------> ended
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.histogram import SETUP, Histogram
from gateway.sip.counters import Counters
from gateway.sip.flows import Flow
from gateway.sip.header import find, tag_of
from gateway.sip.load import Call, Calls, CallState
from gateway.sip.message import Request, Response
from gateway.sip.timers import BYE_NS, UNACKNOWLEDGED_NS
from gateway.sip.transfers import Transfers

Answered = Callable[[str, str, str], None]
"""Told of each call that a worker has answered: Call-ID, name of the worker, request line of the INVITE."""


class CallStates:
    """Of all calls of an edge."""

    def __init__(self, calls: Calls, transfers: Transfers, counters: Counters, answered: Answered) -> None:
        self.setup = Histogram("setup_telephone", SETUP)
        """INVITE to 200, us."""
        self._calls, self._transfers, self._counters, self._answered = calls, transfers, counters, answered

    def responded(self, call: Call, response: Response, source: Flow, now_ns: int) -> None:
        """What a response says about the state of the call."""
        status = response.status
        if status < 200:
            return
        if response.method == b"REFER" and status >= 300 and source.kind == "worker":
            self._transfers.refused(call, response.cseq)
        elif response.method == b"BYE":
            if status < 300 or status in (408, 481):
                if self._calls.end(call, now_ns):
                    self._counters.calls_ended += 1
            elif call.state is CallState.CONFIRMED:
                self._calls.set_deadline(call, None)
        elif (
            response.method == b"INVITE"
            and (source.kind == "worker") == (call.target is None)
            and call.state is CallState.PENDING
            and response.cseq == call.cseq
        ):
            if status < 300:
                invite, call.state, call.invite = call.invite, CallState.ANSWERED, None
                self._calls.set_deadline(call, now_ns + UNACKNOWLEDGED_NS)
                self._count_answer(call, response)
                if call.arrived_ns is not None:
                    self.setup.observe((now_ns - call.arrived_ns) // 1_000)
                if call.target is None and invite is not None:
                    told = (call.call_id, call.worker.address.name.encode(), invite.start_line)
                    self._answered(*(octets.decode(errors="replace") for octets in told))
            elif not (status in (401, 407) and call.policy.login is not None and call.target is not None):
                self._calls.end(call, now_ns)  # else the worker asks again, or says that it is over
                self._counters.calls_ended += 1

    def _count_answer(self, call: Call, response: Response) -> None:
        if call.target is None:
            self._counters.calls_answered += 1
        else:
            self._counters.placed_answered += call.placed
            self._counters.transfers_answered += not call.placed
            call.from_tag = tag_of(find(response.headers, b"to") or b"")  # of the peer's own requests

    def bye_seen(self, call: Call, now_ns: int) -> None:
        """One of them wants to end it; the answer may not come."""
        if call.state is CallState.CONFIRMED and call.deadline_ns is None:
            self._calls.set_deadline(call, now_ns + BYE_NS)

    def acknowledged(self, call: Call, request: Request) -> None:
        """The ACK of who began the call."""
        if call.state is CallState.ANSWERED and request.cseq == call.cseq:
            call.state = CallState.CONFIRMED
            self._calls.set_deadline(call, None)
