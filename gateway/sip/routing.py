# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions of the SIP edge: which worker gets a call, and where every later message of it goes.

Sans-IO: no socket and no clock; `now_ns` (monotonic) is an argument.  The one rule of driving it: after each
call, send what it returned, and call `poll` at `next_deadline`.

The edge is stateless per transaction (RFC 3261 16.11) and stateful per call.  Our Via branch is a keyed hash
over the next Via, Call-ID, CSeq and where the response shall go, so a response proves by itself that it
answers what we sent, and retransmissions, CANCEL and the ACK of a refusal get the branch of their INVITE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from gateway.histogram import Histogram
from gateway.sip.admission import Admission, Admit, Refusal, Waiting
from gateway.sip.begun import Begun, PolicyOf
from gateway.sip.call_states import Answered, CallStates
from gateway.sip.counters import Counters
from gateway.sip.flows import Flow, Send
from gateway.sip.guard import Standing
from gateway.sip.header import BadMessage, Header, find, media_type
from gateway.sip.load import Call, Calls, CallState, WorkerAddress, Workers
from gateway.sip.marks import Marks, unmarked
from gateway.sip.message import Message, Request, Response, render
from gateway.sip.outbox import MAX_WORKER_MESSAGE_BYTES, Outbox, authorized
from gateway.sip.path import Path, check_forwarding, count_down, next_hop, received, transaction
from gateway.sip.readable import DTMF_TYPES, dtmf_relay, without_replaces
from gateway.sip.sdp_policy import OPEN, Policy, check_spoken, with_body
from gateway.sip.sips import check_secure, for_peer, headers_for_peer, headers_for_worker, is_sips
from gateway.sip.targets import Target, Targets
from gateway.sip.tickets import Ticket, Tickets
from gateway.sip.timers import SECOND_NS
from gateway.sip.transfers import Transfers

ALLOW: Final = Header.make(
    b"Allow", b"INVITE, ACK, CANCEL, BYE, OPTIONS, PRACK, UPDATE, INFO, REFER, NOTIFY, MESSAGE"
)
_OPTIONS_ANSWER: Final = (
    ALLOW,
    Header.make(b"Accept", b"application/sdp, application/dtmf-relay, application/dtmf"),
    Header.make(b"Supported", b"100rel, timer"),
)
_NOBODY: Final = Targets(())
_NEEDS_DIALOG: Final = frozenset((b"BYE", b"INFO", b"PRACK", b"UPDATE"))
_NOT_ALLOWED: Final = frozenset((b"REGISTER", b"SUBSCRIBE", b"NOTIFY", b"PUBLISH", b"MESSAGE", b"REFER"))


class Router:
    """The edge without its sockets.

    `key` are random octets of this process, `inside` and `outside` (host, port) as written into Via and
    Record-Route, `tls` in place of `outside` for peers that come by TLS.  `retry_after_s` goes into each 503.
    `admit` is asked for each new INVITE; how long and how many of them wait for a worker is in `Admission`.
    `max_calls` bounds the table; when full, new calls get 503.  Callers may be transferred to `targets`; of the
    calls that workers begin for that is `begun`, whose `take_dials` is due after each message.
    """

    def __init__(
        self,
        key: bytes,
        inside: tuple[str, int],
        outside: tuple[str, int],
        *,
        tls: tuple[str, int] | None = None,
        retry_after_s: int = 2,
        admit: Admit | None = None,
        max_calls: int = 20_000,
        queue_length: int = 64,
        queue_wait_ns: int = 4 * SECOND_NS,
        targets: Targets = _NOBODY,
        answered: Answered = lambda call_id, worker, request: None,
        marks: Marks = lambda request: (),
        policy: Callable[[Request], Policy] = lambda request: OPEN,
        policy_of: PolicyOf = lambda trunk: OPEN,
        sound6: bool = False,
    ) -> None:
        """`policy` says what a new call may have, `policy_of` what calls of ours may have, by their trunk; `sound6`
        that workers have sound over IPv6, too."""
        self.counters = Counters()
        self.workers = Workers()
        self._path = Path(key, inside, outside, tls)
        self._calls = Calls(max_calls)
        self._outbox = Outbox(self._path, self.counters, retry_after_s, marks, sound6)
        self._admission = Admission(
            self.workers, self._calls, self._outbox, self.counters, admit, queue_length, queue_wait_ns, policy
        )
        self.tickets = Tickets(key, inside)
        self._transfers = Transfers(key, inside, targets, self.counters, self._outbox.retry_after)
        self._states = CallStates(self._calls, self._transfers, self.counters, answered)
        self.begun = Begun(self._transfers, self.tickets, self._calls, self._outbox, self.counters, policy_of)

    @property
    def setup(self) -> Histogram:
        """INVITE to 200, us, of calls that workers have answered; read only."""
        return self._states.setup

    # ---- What happens ----

    def handle(self, message: Message | BadMessage, source: Flow, now_ns: int) -> list[Send]:
        """Take one message that came along `source`; give what is to be sent for it."""
        self.counters.messages += 1
        try:
            if isinstance(message, BadMessage):
                raise message
            if isinstance(message, Response):
                self._response(message, source, now_ns)
            elif source.kind == "worker":
                self._from_worker(message, source, now_ns)
            else:
                self._from_peer(message, source, now_ns)
        except BadMessage as bad:
            self._outbox.refuse_bad(message, bad, source)
        return self._outbox.take()

    def refuse_beyond(self, message: Message | BadMessage, source: Flow, retry_s: int) -> list[Send]:
        """An INVITE that is one too many of its source; what is none is not answered."""
        self.counters.messages += 1
        if isinstance(message, Request):
            retry = Header.make(b"Retry-After", b"%d" % retry_s)
            self._outbox.refuse(received(message, source), source, 503, "Too Many Requests", (retry,))
        return self._outbox.take()

    def poll(self, now_ns: int) -> list[Send]:
        """Expire calls, release or refuse held INVITEs, and give what other calls left to send."""
        for call in self._calls.expired(now_ns):
            self.counters.calls_expired += 1
            if call.target is not None:
                self.begun.expire(call)
            elif call.invite is not None:
                self._outbox.cancel(call.invite, call)
            self._calls.end(call, now_ns)
        self._admission.release(now_ns)
        return self._outbox.take()

    def next_deadline(self) -> int | None:
        """When `poll` is due (monotonic ns), or None.  In the past means at once."""
        if len(self._outbox):
            return 0
        times = (self._calls.next_deadline(), self._admission.next_deadline())
        return min((time for time in times if time is not None), default=None)

    def add_worker(self, address: WorkerAddress) -> None:
        """Raises ValueError if its name or address is taken."""
        self.workers.add(address)

    def remove_worker(self, name: str) -> list[bytes]:
        """Forget a worker and its calls, and give their Call-IDs.  Pending INVITEs get 503 with the next
        `poll`.

        Raises KeyError for an unknown name.
        """
        gone = self._calls.forget_worker(self.workers.remove(name))
        for call in gone:
            self.counters.calls_lost += 1
            if call.invite is not None and call.target is not None:
                self._outbox.cancel_target(call.invite, call)
            elif call.invite is not None and call.flow is not None:
                self._outbox.refuse(
                    call.invite, call.flow, 503, "Service Unavailable", self._outbox.retry_after
                )
        return [call.call_id for call in gone]

    def decide(self, call_id: bytes, refusal: Refusal | None, now_ns: int) -> list[Send]:
        """What became of an INVITE for which `admit` said `Later`; give what is to be sent for it."""
        self._admission.decide(call_id, refusal, now_ns)
        return self._outbox.take()

    def issue(
        self, target: Target, caller: bytes, trunk: str, now_ns: int, worker_name: str = ""
    ) -> Ticket | None:
        """A ticket for a call of ours, for the emptiest worker, or for that one; None without room."""
        if self._admission.draining or self._calls.full:
            return None
        worker = self.workers.pick(now_ns, only=worker_name)
        if (
            worker is None
            or worker.load + self.tickets.held_for(worker.address.name, now_ns) >= worker.address.capacity
        ):
            return None
        worker.next_invite_ns = now_ns + worker.address.invite_spacing_ns
        return self.tickets.issue(worker, target, caller, trunk, now_ns)

    def owner(self, call_id: bytes) -> str | None:
        """Name of the worker that has this call; None for one that does not live."""
        call = self._calls.get(call_id)
        return call.worker.address.name if call is not None and call.state is not CallState.ENDED else None

    def replaces(self, call_id: bytes) -> str | None:
        """See `Edge.replaces`."""
        call = self._calls.get(call_id)
        if call is None or not call.placed or call.target is None or call.state is not CallState.CONFIRMED:
            return None
        told = f"{call_id.decode()};to-tag={call.from_tag.decode()};from-tag={call.own_tag.decode()}"
        return f"{call.target.uri.decode()}?Replaces={quote(told, safe='')}"

    def live(self) -> list[bytes]:
        """Call-IDs of all calls that workers have now."""
        return self._calls.live()

    def knows(self, call_id: bytes) -> bool:
        """Whether a call lives, or its INVITE is held."""
        return self.standing(call_id) is Standing.LIVES

    def standing(self, call_id: bytes) -> Standing:
        """What is known of a Call-ID: `guard.Standings`."""
        call = self._calls.get(call_id)
        if self._admission.get(call_id) is not None or (
            call is not None and call.state is not CallState.ENDED
        ):
            return Standing.LIVES
        return Standing.UNKNOWN if call is None else Standing.OVER

    def call_ended(self, call_id: bytes, now_ns: int) -> None:
        """The worker says that the call is over; one that is not known is nothing."""
        call = self._calls.get(call_id)
        if call is not None and self._calls.end(call, now_ns):
            self.counters.calls_ended += 1

    def adopt_call(
        self, worker: str, call_id: bytes, flow: Flow | None, now_ns: int, *, sound6: bool | None = None
    ) -> bool:
        """Take over a live call that a worker reports after our restart; False if known already or no room
        in the table.

        Without a flow, the next in-dialog request of the peer sets it.  Raises KeyError for an unknown
        worker.
        """
        owner = self.workers.named(worker)
        known = self._calls.get(call_id)
        if self._calls.full or (known is not None and known.state is not CallState.ENDED):
            return False
        call = Call(call_id, owner, flow, CallState.CONFIRMED, 0, b"", b"", None, now_ns, sound6=sound6)
        self._calls.add(call)
        self.counters.calls_adopted += 1
        return True

    def drain(self) -> None:
        """No new calls from here on; held INVITEs get 503 with the next `poll`."""
        self._admission.drain()

    def flow_closed(self, flow: Flow) -> None:
        """A TCP or TLS connection is gone; its calls wait for the peer's next request to name a new one, those
        that a worker began and nobody answered yet are over: sent with the next `poll`."""
        self.begun.lose_flow(flow)
        self._calls.lose_flow(flow)
        self._admission.lose_flow(flow)

    @property
    def awaits_peers(self) -> bool:
        """Whether the peer of a live call may come by a connection that is not known yet."""
        return self._calls.without_flow

    def flow_in_use(self, flow: Flow) -> bool:
        """True if a live call depends on `flow`."""
        return self._calls.uses(flow)

    @property
    def waiting(self) -> int:
        """INVITEs held back at present."""
        return len(self._admission)

    # ---- From outside ----

    def _from_peer(self, request: Request, source: Flow, now_ns: int) -> None:
        request = received(request, source)
        headers = request.headers
        if self._path.has_looped(headers):
            raise BadMessage(482, "Loop Detected")
        check_forwarding(request)
        check_secure(request, source)
        headers = without_replaces(request) if request.method == b"INVITE" else headers
        request = request.with_headers(self._path.strip_routes(count_down(unmarked(headers))), request.via)
        method, call = request.method, self._calls.get(request.call_id)
        waiting = self._admission.get(request.call_id)
        if method == b"CANCEL":
            if waiting is not None:
                self._admission.cancel(request, waiting, source)
            elif call is None:
                raise BadMessage(481, "Transaction Does Not Exist")
            else:
                self._outbox.to_worker(request, source, call)
        elif method == b"ACK":
            self._ack(request, source, call, now_ns)
        elif request.to_tag:
            self._in_dialog(request, source, call, now_ns)
        elif method == b"INVITE":
            self._invite(request, source, call, waiting, now_ns)
        else:
            self._out_of_dialog(request, source)

    def _out_of_dialog(self, request: Request, source: Flow) -> None:
        method = request.method
        if method == b"OPTIONS":
            self._answer_options(request, source)
        elif method in _NEEDS_DIALOG:
            raise BadMessage(481, "Call Does Not Exist")
        elif method in _NOT_ALLOWED:
            raise BadMessage(405, "Method Not Allowed", (ALLOW,))
        else:
            raise BadMessage(501, "Not Implemented", (ALLOW,))

    def _answer_options(self, request: Request, source: Flow) -> None:
        required = find(request.headers, b"require")
        if required:
            raise BadMessage(420, "Bad Extension", (Header.make(b"Unsupported", required),))
        if self._admission.draining:  # what an INVITE would be told (RFC 3261 section 11.2)
            self._outbox.refuse(request, source, 503, "Draining", self._outbox.retry_after)
            return
        self._outbox.refuse(request, source, 200, "OK", _OPTIONS_ANSWER)

    def _ack(self, request: Request, source: Flow, call: Call | None, now_ns: int) -> None:
        if call is None:
            self.counters.dropped += 1
            return
        if call.target is None:
            self._states.acknowledged(call, request)
        self._learn_flow(call, request, source)
        self._outbox.to_worker(request, source, call)
        call.last_ns = now_ns

    def _in_dialog(self, request: Request, source: Flow, call: Call | None, now_ns: int) -> None:
        if call is None or (request.method == b"OPTIONS" and call.state is CallState.ENDED):
            raise BadMessage(481, "Call Does Not Exist")
        self._learn_flow(call, request, source)
        if request.method == b"OPTIONS":
            self._answer_options(request, source)  # pjsua2 answers 500
            return
        if request.method == b"INFO" and media_type(request.headers) in DTMF_TYPES:
            request = dtmf_relay(request)  # pjsua2 answers 500, or takes a 10 for a 1
        if request.method == b"REFER":
            request = self._transfers.begin(request, call, now_ns)
        check_spoken(request, call.worker.address.wideband)
        self._outbox.to_worker(call.policy.of_peer(request), source, call)
        call.last_ns = now_ns
        if request.method == b"BYE":
            self._states.bye_seen(call, now_ns)

    def _learn_flow(self, call: Call, request: Request, source: Flow) -> None:
        """After our restart or its own reconnect, the peer's request says where it is now."""
        if call.target is not None and call.state is CallState.PENDING:
            return  # only the dialler knows
        if call.flow is None and call.from_tag in (b"", request.from_tag):
            call.flow = source
            call.sips = is_sips(request.uri)  # what an adopted call was is known to its peer alone

    def _invite(
        self, request: Request, source: Flow, call: Call | None, waiting: Waiting | None, now_ns: int
    ) -> None:
        branch = transaction(request)
        if waiting is not None:
            if branch != transaction(waiting.request):
                raise BadMessage(482, "Merged Request")
            self._outbox.trying(request, source)
            return
        if call is not None and (branch == call.branch or call.state is not CallState.ENDED):
            if branch != call.branch:
                raise BadMessage(482, "Merged Request")  # RFC 3261 8.2.2.2
            self._outbox.to_worker(call.policy.of_peer(request), source, call)
            call.last_ns = now_ns
            return
        self._admission.offer(request, source, now_ns)

    # ---- From the workers ----

    def _from_worker(self, request: Request, source: Flow, now_ns: int) -> None:
        worker = self.workers.at(source)
        if worker is None:
            self.counters.spoofed += 1
            return
        check_forwarding(request)
        call = self._calls.get(request.call_id)
        if call is None and request.method == b"INVITE" and not request.to_tag:
            call = self.begun.add(request, worker, now_ns)
        if call is None or call.worker is not worker:
            raise BadMessage(481, "Call Does Not Exist")
        if call.target is not None and request.method == b"INVITE" and not request.to_tag:
            self.begun.ask_again(request, call)
        call.last_ns = now_ns
        if call.target is not None:
            self._to_target(request, call, now_ns)
            return
        headers = self._path.strip_routes(count_down(request.headers))
        flow = call.flow or next_hop(request, headers)
        if flow is None:
            raise BadMessage(480, "Peer Has No Connection")
        request = authorized(request.with_headers(headers, request.via), call.policy)
        if request.body and media_type(request.headers) == b"application/sdp":
            request = with_body(request, call.policy.of_worker(request.body))
        if call.sips:
            request = for_peer(request)
        headers = request.headers
        if request.method == b"BYE":
            self._states.bye_seen(call, now_ns)
        via = self._path.via(request, False, source, flow)
        self._outbox.send(Send(flow, render(request.start_line, [via, *headers], request.body)))

    def _to_target(self, request: Request, call: Call, now_ns: int) -> None:
        if self.begun.pass_on(request, call) and request.method == b"ACK":
            self._states.acknowledged(call, request)
        elif request.method == b"BYE":
            self._states.bye_seen(call, now_ns)

    def _response(self, response: Response, source: Flow, now_ns: int) -> None:
        call = self._calls.get(response.call_id)
        popped = None
        if call is not None and (source.kind != "worker" or source == call.worker.flow):
            popped = self._path.pop_via(response, call.worker.flow)
        if call is None or popped is None or (popped[0].kind == "worker") == (source.kind == "worker"):
            self.counters.spoofed += 1
            return
        back, headers = popped
        if call.sips:
            headers = (headers_for_worker if back.kind == "worker" else headers_for_peer)(headers)
        body = response.body
        if source.kind != "worker" and (screen := self._outbox.screened(response, call)) is not None:
            if call.target is None or response.method != b"INVITE" or not 200 <= response.status < 300:
                raise screen
            body = b""  # the worker hangs up what is answered without SDP: dropped, it would ring on
            headers = [h for h in headers if not h.name.startswith(b"content-")]
        elif source.kind == "worker" and body and call.policy.codecs:
            body = self._limited(headers, body, call)
            headers = [h for h in headers if h.name != b"content-length"]
        data = render(response.start_line, headers, body)
        if back.kind == "worker" and len(data) > MAX_WORKER_MESSAGE_BYTES:
            raise BadMessage(513, "Message Too Large")
        self._outbox.send(Send(back, data))
        call.last_ns = now_ns
        self._states.responded(call, response, source, now_ns)

    def _limited(self, headers: list[Header], body: bytes, call: Call) -> bytes:
        """Of a worker's answer, or of its offer where the peer made none."""
        return call.policy.of_worker(body) if media_type(headers) == b"application/sdp" else body
