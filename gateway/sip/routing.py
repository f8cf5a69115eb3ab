# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions of the SIP edge: which worker gets a call, and where every later message of it goes.

Sans-IO: no socket and no clock; `now_ns` (monotonic) is an argument.  The one rule of driving it: after each
call, send what it returned, and call `poll` at `next_deadline`.

The edge is stateless per transaction (RFC 3261 16.11) and stateful per call.  Our Via branch is a keyed hash
over the next Via, Call-ID, CSeq and where the response shall go, so a response proves by itself that it
answers what we sent, and retransmissions, CANCEL and the ACK of a refusal get the branch of their INVITE.

A call counts against its worker from INVITE until it is over:

    PENDING -- 2xx --> ANSWERED -- ACK --> CONFIRMED -- BYE answered, call_ended --> ENDED
       +-- final refusal, 180 s ----------> ENDED

ENDED is without load; it is kept for 32 s so that the ACK and retransmissions find the worker.
"""

from __future__ import annotations

import enum
import heapq
import hmac
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final, Literal, NamedTuple

from gateway.sip.message import (
    BadMessage,
    Header,
    Message,
    Request,
    Response,
    Via,
    find,
    media_type,
    parse_via,
    prefers_wideband,
    render,
    reply,
    screen_body,
    split_values,
)

SECOND_NS: Final = 1_000_000_000
MAX_WORKER_MESSAGE_BYTES: Final = 4_000  # the packet buffer of pjsua2
PENDING_NS: Final = (
    180 * SECOND_NS
)  # RFC 3261 16.6: timer C is more than 3 minutes at a proxy that can cancel
UNACKNOWLEDGED_NS: Final = 64 * SECOND_NS  # 2 * timer H: by then the worker gave the call up
BYE_NS: Final = 64 * SECOND_NS
ENDED_NS: Final = 32 * SECOND_NS  # timers F, H and J: retransmissions come until then
DEFAULT_MAX_FORWARDS: Final = 70

ALLOW: Final = Header.make(
    b"Allow", b"INVITE, ACK, CANCEL, BYE, OPTIONS, PRACK, UPDATE, INFO, REFER, NOTIFY, MESSAGE"
)
_OPTIONS_ANSWER: Final = (
    ALLOW,
    Header.make(b"Accept", b"application/sdp, application/dtmf-relay, application/dtmf"),
    Header.make(b"Supported", b"100rel, timer"),
)
_NEEDS_DIALOG: Final = frozenset((b"BYE", b"INFO", b"PRACK", b"UPDATE"))
_NOT_ALLOWED: Final = frozenset((b"REGISTER", b"SUBSCRIBE", b"NOTIFY", b"PUBLISH", b"MESSAGE", b"REFER"))
_BRANCH = re.compile(rb"z9hG4bKmt([0-9a-f]{8})([0-9a-f]{16})([utw])([0-9]{0,12})")
_URI_HOST = re.compile(rb"sips?:(?:[^@>]*@)?(\[[^\]>]+\]|[^:;>?\s]+)(?::([0-9]{1,5}))?([^>]*)", re.I)
_DTMF_DIGIT = re.compile(rb"[0-9A-Da-d*#]")
_DTMF_NUMBER: Final = {b"10": b"*", b"11": b"#", b"12": b"A", b"13": b"B", b"14": b"C", b"15": b"D"}


class Flow(NamedTuple):
    """Where a message came from or goes to.  `udp` and `tcp` are peers outside, `worker` is the inside
    socket.

    A `tcp` flow is its `connection` number; host and port are those of the peer, for the Via.
    """

    kind: Literal["udp", "tcp", "worker"]
    host: str
    port: int
    connection: int = 0


class Send(NamedTuple):
    """One message to send."""

    flow: Flow
    data: bytes


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    """A SIP worker: a UDP port on loopback.  Raises ValueError for anything else.

    `capacity` is in calls; initial INVITEs come at least `invite_spacing_ns` apart (0: no limit).
    """

    name: str
    host: str
    port: int
    capacity: int
    invite_spacing_ns: int = 0
    wideband: bool = False
    """Its bridge runs at 16 kHz: calls that offer G.722 first go there while there is room."""

    def __post_init__(self) -> None:
        if not ipaddress.ip_address(self.host).is_loopback or not 0 < self.port < 65536:
            raise ValueError(f"worker {self.name}: {self.host}:{self.port} is not a port on loopback")
        if self.capacity < 1 or self.invite_spacing_ns < 0:
            raise ValueError(f"worker {self.name}: capacity must be >= 1 and spacing >= 0")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an initial INVITE is not admitted: a final status (300-699), and headers such as
    WWW-Authenticate."""

    status: int
    reason: str
    headers: tuple[Header, ...] = ()


Admit = Callable[[Request], Refusal | None]


@dataclass(slots=True)
class Counters:
    """Events since the start, for metrics; only ever counted up."""

    messages: int = 0
    keepalives: int = 0
    bad_messages: int = 0
    calls_admitted: int = 0
    calls_answered: int = 0
    calls_ended: int = 0
    calls_expired: int = 0
    calls_lost: int = 0  # with their worker
    calls_adopted: int = 0
    invites_delayed: int = 0
    refused_busy: int = 0
    refused_draining: int = 0
    refused_by_hook: int = 0
    screened: int = 0  # bodies that no worker may see
    spoofed: int = 0  # responses and inside messages that are not from a worker of ours
    dropped: int = 0  # nobody to send it to
    errors: int = 0  # bugs of ours, caught at the socket
    tcp_connections: int = 0
    tcp_refused: int = 0


class CallState(enum.Enum):
    PENDING = enum.auto()
    ANSWERED = enum.auto()
    CONFIRMED = enum.auto()
    ENDED = enum.auto()


@dataclass(slots=True)
class Worker:
    """A worker and its load in calls."""

    address: WorkerAddress
    flow: Flow
    load: int = 0
    next_invite_ns: int = 0


@dataclass(slots=True, eq=False)
class Call:
    """One call.  `invite` is kept while PENDING, so that it can be refused; `deadline_ns` None means no
    limit."""

    call_id: bytes
    worker: Worker
    flow: Flow | None
    state: CallState
    cseq: int
    from_tag: bytes
    branch: bytes
    invite: Request | None
    last_ns: int
    deadline_ns: int | None = None


@dataclass(slots=True)
class Waiting:
    """An INVITE held back until a worker's spacing is over."""

    request: Request
    flow: Flow
    deadline_ns: int


class Workers:
    """The workers by name and by address; picks the least loaded one."""

    def __init__(self) -> None:
        self._by_name: dict[str, Worker] = {}
        self._by_flow: dict[Flow, Worker] = {}

    def add(self, address: WorkerAddress) -> None:
        """Raises ValueError if the name or the address is taken."""
        flow = Flow("worker", address.host, address.port)
        if address.name in self._by_name or flow in self._by_flow:
            raise ValueError(f"worker {address.name} at {address.host}:{address.port} is there already")
        self._by_name[address.name] = self._by_flow[flow] = Worker(address, flow)

    def remove(self, name: str) -> Worker:
        """Raises KeyError for an unknown name."""
        worker = self._by_name.pop(name)
        del self._by_flow[worker.flow]
        return worker

    def named(self, name: str) -> Worker:
        """Raises KeyError for an unknown name."""
        return self._by_name[name]

    def at(self, flow: Flow) -> Worker | None:
        return self._by_flow.get(flow)

    def room(self) -> int:
        """Calls that fit beside the present ones."""
        return sum(max(0, w.address.capacity - w.load) for w in self._by_name.values())

    def pick(self, now_ns: int, wideband: bool = False) -> Worker | None:
        """Worker with room and ready for an INVITE now: of the wanted band first, then the least loaded
        (in parts of its capacity)."""
        able = [
            worker
            for worker in self._by_name.values()
            if worker.load < worker.address.capacity and worker.next_invite_ns <= now_ns
        ]
        return min(
            able,
            key=lambda w: (w.address.wideband != wideband, w.load / w.address.capacity, w.next_invite_ns),
            default=None,
        )

    def ready_ns(self) -> int | None:
        """When `pick` may next find one; None while all are full."""
        times = [w.next_invite_ns for w in self._by_name.values() if w.load < w.address.capacity]
        return min(times, default=None)

    def loads(self) -> dict[str, int]:
        return {name: worker.load for name, worker in self._by_name.items()}


class Calls:
    """The bounded table of calls with their deadlines."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._calls: dict[bytes, Call] = {}
        self._heap: list[tuple[int, bytes]] = []  # stale entries are skipped

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def full(self) -> bool:
        return len(self._calls) >= self._limit

    def get(self, call_id: bytes) -> Call | None:
        return self._calls.get(call_id)

    def add(self, call: Call) -> None:
        """`call` counts against its worker from here on; one that ENDED under the same Call-ID is
        replaced."""
        self._calls[call.call_id] = call
        call.worker.load += 1
        if call.deadline_ns is not None:
            self.set_deadline(call, call.deadline_ns)

    def set_deadline(self, call: Call, deadline_ns: int | None) -> None:
        call.deadline_ns = deadline_ns
        if deadline_ns is None:
            return
        heapq.heappush(self._heap, (deadline_ns, call.call_id))
        if len(self._heap) > 4 * self._limit:  # re-armed again and again
            self._heap = [
                (c.deadline_ns, c.call_id) for c in self._calls.values() if c.deadline_ns is not None
            ]
            heapq.heapify(self._heap)

    def end(self, call: Call, now_ns: int) -> bool:
        """Give the load back; False if the call had ENDED before."""
        if call.state is CallState.ENDED:
            return False
        call.state = CallState.ENDED
        call.invite = None
        call.worker.load -= 1
        self.set_deadline(call, now_ns + ENDED_NS)
        return True

    def forget_worker(self, worker: Worker) -> list[Call]:
        """Drop all calls of `worker`; those that had not ENDED are returned."""
        gone = [call for call in self._calls.values() if call.worker is worker]
        for call in gone:
            del self._calls[call.call_id]
        return [call for call in gone if call.state is not CallState.ENDED]

    def uses(self, flow: Flow) -> bool:
        return any(c.flow == flow and c.state is not CallState.ENDED for c in self._calls.values())

    def lose_flow(self, flow: Flow) -> None:
        for call in self._calls.values():
            if call.flow == flow:
                call.flow = None

    def next_deadline(self) -> int | None:
        while self._heap:
            deadline_ns, call_id = self._heap[0]
            call = self._calls.get(call_id)
            if call is not None and call.deadline_ns == deadline_ns:
                return deadline_ns
            heapq.heappop(self._heap)
        return None

    def expired(self, now_ns: int) -> list[Call]:
        """Calls whose deadline has come; the ENDED ones among them are forgotten."""
        found = []
        while (deadline_ns := self.next_deadline()) is not None and deadline_ns <= now_ns:
            call = self._calls[heapq.heappop(self._heap)[1]]
            call.deadline_ns = None
            if call.state is CallState.ENDED:
                del self._calls[call.call_id]
            else:
                found.append(call)
        return found


class Path:
    """Our own Via, Record-Route and Route entries (RFC 3261 16.6, RFC 5658 for the two sides)."""

    def __init__(self, key: bytes, inside: tuple[str, int], outside: tuple[str, int]) -> None:
        self._key = key
        self._mark = blake2b(b"mark", key=key, digest_size=4).hexdigest().encode()
        self._inside = host_port(*inside)
        self._outside = host_port(*outside)
        self._own = {(host.strip("[]").lower().encode(), port) for host, port in (inside, outside)}

    def tag(self, call_id: bytes) -> bytes:
        """To-tag of our own answers; the same for a retransmission."""
        return blake2b(call_id, key=self._key, digest_size=8).hexdigest().encode()

    def record_routes(self, flow: Flow) -> list[Header]:
        """The worker's side on top, then the peer's."""
        transport = b";transport=tcp" if flow.kind == "tcp" else b""
        return [
            Header.make(b"Record-Route", b"<sip:%b;lr>" % self._inside),
            Header.make(b"Record-Route", b"<sip:%b%b;lr>" % (self._outside, transport)),
        ]

    def via(self, message: Request, to_worker: bool, back: Flow, out: Flow) -> Header:
        """Our Via for `message`, sent along `out`, whose response shall go `back`."""
        connection = b"%d" % back.connection if back.kind == "tcp" else b""
        branch = b"z9hG4bKmt%b%b%b%b" % (
            self._mark,
            self._proof(message.via, message.call_id, message.cseq, back),
            back.kind[0].encode(),
            connection,
        )
        transport = b"TCP" if out.kind == "tcp" else b"UDP"
        sent_by = self._inside if to_worker else self._outside
        rport = b"" if to_worker else b";rport"
        return Header.make(b"Via", b"SIP/2.0/%b %b;branch=%b%b" % (transport, sent_by, branch, rport))

    def pop_via(self, response: Response, worker: Flow) -> tuple[Flow, list[Header]] | None:
        """Where `response` goes, and its headers without our Via; None if it is no answer to what we sent."""
        match = _BRANCH.fullmatch(response.via.branch)
        headers = pop_value(response.headers, b"via")
        rest = find(headers, b"via")
        if match is None or rest is None:
            return None
        via = parse_via(split_values(rest)[0])
        if match[3] == b"t":
            back = Flow("tcp", "", 0, int(match[4] or 0))
        elif match[3] == b"w":
            back = worker
        else:
            port = via.params.get(b"rport") or b"%d" % (via.port or 5060)
            host = (via.params.get(b"received") or via.host).decode("ascii", "replace")
            if not port.isdigit() or not 0 < int(port[:6]) < 65536:
                return None
            back = Flow("udp", host, int(port))
        if not hmac.compare_digest(self._proof(via, response.call_id, response.cseq, back), match[2]):
            return None
        return back, headers

    def has_looped(self, headers: list[Header]) -> bool:
        """RFC 3261 16.3: the request has been here before."""
        mark = b"z9hG4bKmt" + self._mark
        return any(header.name == b"via" and mark in header.value for header in headers)

    def strip_routes(self, headers: list[Header]) -> list[Header]:
        """Without our own entries at the head of the route set (RFC 3261 16.4)."""
        while (route := find(headers, b"route")) is not None:
            match = _URI_HOST.search(split_values(route)[0])
            if match is None or (match[1].strip(b"[]").lower(), int(match[2] or 5060)) not in self._own:
                break
            headers = pop_value(headers, b"route")
        return headers

    def _proof(self, via: Via, call_id: bytes, cseq: int, back: Flow) -> bytes:
        where = f"t{back.connection}" if back.kind == "tcp" else f"{back.kind[0]}{back.host} {back.port}"
        text = b"\n".join((via.sent_by, via.branch, call_id, b"%d" % cseq, where.encode()))
        return blake2b(text, key=self._key, digest_size=8).hexdigest().encode()


class Router:
    """The edge without its sockets.

    `key` are random octets of this process, `inside` and `outside` (host, port) as written into Via and
    Record-Route.
    `retry_after_s` goes into each 503.  A held INVITE waits for at most `queue_wait_ns`, and at most
    `queue_length` wait;
    beyond that they are refused.  `max_calls` bounds the table; when full, new calls get 503.
    """

    def __init__(
        self,
        key: bytes,
        inside: tuple[str, int],
        outside: tuple[str, int],
        *,
        retry_after_s: int = 2,
        admit: Admit | None = None,
        max_calls: int = 20_000,
        queue_length: int = 64,
        queue_wait_ns: int = 4 * SECOND_NS,
    ) -> None:
        self.counters = Counters()
        self.draining = False
        self.workers = Workers()
        self._path = Path(key, inside, outside)
        self._calls = Calls(max_calls)
        self._waiting: dict[bytes, Waiting] = {}  # in order of arrival
        self._queue_length = queue_length
        self._queue_wait_ns = queue_wait_ns
        self._retry_after = (Header.make(b"Retry-After", b"%d" % retry_after_s),)
        self._admit = admit
        self._out: list[Send] = []

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
            self._refuse_bad(message, bad, source)
        return self._drain()

    def poll(self, now_ns: int) -> list[Send]:
        """Expire calls, release or refuse held INVITEs, and give what other calls left to send."""
        for call in self._calls.expired(now_ns):
            self.counters.calls_expired += 1
            if call.invite is not None:
                self._cancel(call.invite, call)
            self._calls.end(call, now_ns)
        self._release(now_ns)
        return self._drain()

    def next_deadline(self) -> int | None:
        """When `poll` is due (monotonic ns), or None.  In the past means at once."""
        times = [] if (call_ns := self._calls.next_deadline()) is None else [call_ns]
        if self._waiting:
            times.append(
                next(iter(self._waiting.values())).deadline_ns
            )  # equal waits: the first is the earliest
            ready_ns = None if self._calls.full else self.workers.ready_ns()
            if ready_ns is not None:
                times.append(ready_ns)
        if self._out:
            times.append(0)
        return min(times, default=None)

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
            if call.invite is not None and call.flow is not None:
                self._refuse(call.invite, call.flow, 503, "Service Unavailable", self._retry_after)
        return [call.call_id for call in gone]

    def call_ended(self, call_id: bytes, now_ns: int) -> None:
        """The worker says that the call is over; one that is not known is nothing."""
        call = self._calls.get(call_id)
        if call is not None and self._calls.end(call, now_ns):
            self.counters.calls_ended += 1

    def adopt_call(self, worker: str, call_id: bytes, flow: Flow | None, now_ns: int) -> bool:
        """Take over a live call that a worker reports after our restart; False if known already or no room
        in the table.

        Without a flow, the next in-dialog request of the peer sets it.  Raises KeyError for an unknown
        worker.
        """
        owner = self.workers.named(worker)
        known = self._calls.get(call_id)
        if self._calls.full or (known is not None and known.state is not CallState.ENDED):
            return False
        call = Call(call_id, owner, flow, CallState.CONFIRMED, 0, b"", b"", None, now_ns)
        self._calls.add(call)
        self.counters.calls_adopted += 1
        return True

    def drain(self) -> None:
        """No new calls from here on; held INVITEs get 503 with the next `poll`."""
        self.draining = True
        for waiting in self._waiting.values():
            self._refuse(waiting.request, waiting.flow, 503, "Draining", self._retry_after)
        self._waiting.clear()

    def flow_closed(self, flow: Flow) -> None:
        """A TCP connection is gone; its calls wait for the peer's next request to name a new one."""
        self._calls.lose_flow(flow)
        for call_id in [k for k, w in self._waiting.items() if w.flow == flow]:
            del self._waiting[call_id]

    def flow_in_use(self, flow: Flow) -> bool:
        """True if a live call depends on `flow`."""
        return self._calls.uses(flow)

    @property
    def waiting(self) -> int:
        """INVITEs held back at present."""
        return len(self._waiting)

    # ---- From outside ----

    def _from_peer(self, request: Request, source: Flow, now_ns: int) -> None:
        request = _received(request, source)
        headers = request.headers
        if self._path.has_looped(headers):
            raise BadMessage(482, "Loop Detected")
        _check_forwarding(request)
        request = request.with_headers(self._path.strip_routes(_count_down(headers)), request.via)
        method, call = request.method, self._calls.get(request.call_id)
        waiting = self._waiting.get(request.call_id)
        if method == b"CANCEL":
            if waiting is not None:
                self._cancel_waiting(request, waiting, source)
            elif call is None:
                raise BadMessage(481, "Transaction Does Not Exist")
            else:
                self._to_worker(request, source, call)
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
        self._refuse(request, source, 200, "OK", _OPTIONS_ANSWER)

    def _ack(self, request: Request, source: Flow, call: Call | None, now_ns: int) -> None:
        if call is None:
            self.counters.dropped += 1
            return
        if call.state is CallState.ANSWERED and request.cseq == call.cseq:
            call.state = CallState.CONFIRMED
            self._calls.set_deadline(call, None)
        self._learn_flow(call, request, source)
        self._to_worker(request, source, call)
        call.last_ns = now_ns

    def _in_dialog(self, request: Request, source: Flow, call: Call | None, now_ns: int) -> None:
        if call is None or (request.method == b"OPTIONS" and call.state is CallState.ENDED):
            raise BadMessage(481, "Call Does Not Exist")
        self._learn_flow(call, request, source)
        if request.method == b"OPTIONS":
            self._answer_options(request, source)  # pjsua2 answers 500
            return
        if request.method == b"INFO" and media_type(request.headers) == b"application/dtmf":
            request = _dtmf_relay(request)  # pjsua2 answers 500
        self._to_worker(request, source, call)
        call.last_ns = now_ns
        if request.method == b"BYE":
            self._bye_seen(call, now_ns)

    def _learn_flow(self, call: Call, request: Request, source: Flow) -> None:
        """After our restart or its own reconnect, the peer's request says where it is now."""
        if call.flow is None and call.from_tag in (b"", request.from_tag):
            call.flow = source

    def _invite(
        self, request: Request, source: Flow, call: Call | None, waiting: Waiting | None, now_ns: int
    ) -> None:
        branch = _transaction(request)
        if waiting is not None:
            if branch != _transaction(waiting.request):
                raise BadMessage(482, "Merged Request")
            self._trying(request, source)
            return
        if call is not None and (branch == call.branch or call.state is not CallState.ENDED):
            if branch != call.branch:
                raise BadMessage(482, "Merged Request")  # RFC 3261 8.2.2.2
            self._to_worker(request, source, call)
            call.last_ns = now_ns
            return
        screen = self._screened(request)
        if screen is not None:
            raise screen
        if self.draining:
            self.counters.refused_draining += 1
            self._refuse(request, source, 503, "Draining", self._retry_after)
            return
        refusal = self._admit(request) if self._admit is not None else None
        if refusal is not None:
            self.counters.refused_by_hook += 1
            self._refuse(request, source, refusal.status, refusal.reason, refusal.headers)
            return
        self._place(request, source, now_ns)

    def _place(self, request: Request, source: Flow, now_ns: int) -> None:
        """Give an admitted INVITE to a worker now, hold it until one is ready, or refuse it."""
        self._release(now_ns)
        worker = None if self._waiting else self.workers.pick(now_ns, prefers_wideband(request.body))
        if self._calls.full or self.workers.room() <= len(self._waiting):
            self._busy(request, source)
        elif worker is not None:
            self._assign(request, source, worker, now_ns)
        elif len(self._waiting) < self._queue_length:
            self.counters.invites_delayed += 1
            self._waiting[request.call_id] = Waiting(request, source, now_ns + self._queue_wait_ns)
            self._trying(request, source)
        else:
            self._busy(request, source)

    def _assign(self, request: Request, source: Flow, worker: Worker, now_ns: int) -> None:
        call = Call(
            request.call_id, worker, source, CallState.PENDING, request.cseq, request.from_tag,
            _transaction(request), request, now_ns, now_ns + PENDING_NS,
        )  # fmt: skip
        self._to_worker(request, source, call)  # may still find it too large
        worker.next_invite_ns = now_ns + worker.address.invite_spacing_ns
        self._calls.add(call)
        self.counters.calls_admitted += 1

    def _release(self, now_ns: int) -> None:
        """Give held INVITEs to workers that became ready, in order of arrival; refuse those that waited
        too long."""
        for call_id, waiting in list(self._waiting.items()):
            wideband = prefers_wideband(waiting.request.body)
            worker = None if self._calls.full else self.workers.pick(now_ns, wideband)
            if worker is not None:
                del self._waiting[call_id]
                try:
                    self._assign(waiting.request, waiting.flow, worker, now_ns)
                except BadMessage as bad:
                    self._refuse_bad(waiting.request, bad, waiting.flow)
            elif waiting.deadline_ns <= now_ns:
                del self._waiting[call_id]
                self._busy(waiting.request, waiting.flow)
            else:
                return

    def _cancel_waiting(self, request: Request, waiting: Waiting, source: Flow) -> None:
        if request.cseq != waiting.request.cseq or request.via.branch != waiting.request.via.branch:
            raise BadMessage(481, "Transaction Does Not Exist")
        del self._waiting[request.call_id]
        self._refuse(request, source, 200, "OK")
        self._refuse(waiting.request, waiting.flow, 487, "Request Terminated")

    def _to_worker(self, request: Request, source: Flow, call: Call) -> None:
        screen = self._screened(request)
        if screen is not None:
            raise screen
        out = [self._path.via(request, True, _response_flow(request.via, source), call.worker.flow)]
        if request.method == b"INVITE" and not request.to_tag:
            out += self._path.record_routes(source)
        data = render(request.start_line, out + request.headers, request.body)
        if len(data) > MAX_WORKER_MESSAGE_BYTES:
            raise BadMessage(513, "Message Too Large")
        self._out.append(Send(call.worker.flow, data))

    def _screened(self, message: Message) -> BadMessage | None:
        try:
            screen_body(message)
        except BadMessage as bad:
            self.counters.screened += 1
            return bad
        return None

    # ---- From the workers ----

    def _from_worker(self, request: Request, source: Flow, now_ns: int) -> None:
        worker = self.workers.at(source)
        if worker is None:
            self.counters.spoofed += 1
            return
        _check_forwarding(request)
        call = self._calls.get(request.call_id)
        if call is None or call.worker is not worker:
            raise BadMessage(481, "Call Does Not Exist")
        headers = self._path.strip_routes(_count_down(request.headers))
        flow = call.flow or _next_hop(request, headers)
        if flow is None:
            raise BadMessage(480, "Peer Has No Connection")
        if request.method == b"BYE":
            self._bye_seen(call, now_ns)
        via = self._path.via(request, False, source, flow)
        self._out.append(Send(flow, render(request.start_line, [via, *headers], request.body)))
        call.last_ns = now_ns

    def _response(self, response: Response, source: Flow, now_ns: int) -> None:
        call = self._calls.get(response.call_id)
        popped = None
        if call is not None and (source.kind != "worker" or source == call.worker.flow):
            popped = self._path.pop_via(response, call.worker.flow)
        if call is None or popped is None or (popped[0].kind == "worker") == (source.kind == "worker"):
            self.counters.spoofed += 1
            return
        back, headers = popped
        if source.kind != "worker" and (screen := self._screened(response)) is not None:
            raise screen
        data = render(response.start_line, headers, response.body)
        if back.kind == "worker" and len(data) > MAX_WORKER_MESSAGE_BYTES:
            raise BadMessage(513, "Message Too Large")
        self._out.append(Send(back, data))
        call.last_ns = now_ns
        self._progress(call, response, source, now_ns)

    def _progress(self, call: Call, response: Response, source: Flow, now_ns: int) -> None:
        """What a response says about the state of the call."""
        status = response.status
        if status < 200:
            return
        if response.method == b"BYE":
            if status < 300 or status in (408, 481):
                if self._calls.end(call, now_ns):
                    self.counters.calls_ended += 1
            elif call.state is CallState.CONFIRMED:
                self._calls.set_deadline(call, None)
        elif (
            response.method == b"INVITE"
            and source.kind == "worker"
            and call.state is CallState.PENDING
            and response.cseq == call.cseq
        ):
            if status < 300:
                call.state, call.invite = CallState.ANSWERED, None
                self._calls.set_deadline(call, now_ns + UNACKNOWLEDGED_NS)
                self.counters.calls_answered += 1
            else:
                self._calls.end(call, now_ns)
                self.counters.calls_ended += 1

    def _bye_seen(self, call: Call, now_ns: int) -> None:
        if call.state is CallState.CONFIRMED and call.deadline_ns is None:
            self._calls.set_deadline(call, now_ns + BYE_NS)

    # ---- Our own messages ----

    def _cancel(self, invite: Request, call: Call) -> None:
        """Timer C (RFC 3261 16.8): the worker gets a CANCEL, the caller a 408."""
        if call.flow is None:
            return
        via = self._path.via(invite, True, _response_flow(invite.via, call.flow), call.worker.flow)
        kept = [h for h in invite.headers if h.name in (b"from", b"to", b"call-id", b"route")]
        kept.append(Header.make(b"CSeq", b"%d CANCEL" % invite.cseq))
        kept.append(Header.make(b"Max-Forwards", b"%d" % DEFAULT_MAX_FORWARDS))
        self._out.append(Send(call.worker.flow, render(b"CANCEL %b SIP/2.0" % invite.uri, [via, *kept], b"")))
        self._refuse(invite, call.flow, 408, "Request Timeout")

    def _busy(self, request: Request, source: Flow) -> None:
        self.counters.refused_busy += 1
        self._refuse(request, source, 503, "Service Unavailable", self._retry_after)

    def _trying(self, request: Request, source: Flow) -> None:
        self._refuse(request, source, 100, "Trying")

    def _refuse(
        self, request: Request, source: Flow, status: int, reason: str, extra: tuple[Header, ...] = ()
    ) -> None:
        """Answer `request` ourselves."""
        if request.method == b"ACK":
            self.counters.dropped += 1
            return
        data = reply(request.headers, status, reason, self._path.tag(request.call_id), extra)
        self._out.append(Send(_response_flow(request.via, source), data))

    def _refuse_bad(self, message: Message | BadMessage, bad: BadMessage, source: Flow) -> None:
        self.counters.bad_messages += 1
        if isinstance(message, Request):
            if source.kind == "worker":
                if message.method != b"ACK":
                    tag = self._path.tag(message.call_id)
                    self._out.append(
                        Send(source, reply(message.headers, bad.status, bad.reason, tag, bad.extra))
                    )
                return
            self._refuse(_received(message, source), source, bad.status, bad.reason, bad.extra)
            return
        answerable = bad.method not in (b"", b"ACK") and source.kind != "worker"
        if answerable and find(bad.headers, b"via") and find(bad.headers, b"cseq"):
            tag = self._path.tag(find(bad.headers, b"call-id") or b"")
            self._out.append(Send(source, reply(bad.headers, bad.status, bad.reason, tag, bad.extra)))

    def _drain(self) -> list[Send]:
        out, self._out = self._out, []
        return out


# ---- Headers ----


def host_port(host: str, port: int) -> bytes:
    """As in a URI or Via: IPv6 in brackets."""
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{bracketed}:{port}".encode()


def pop_value(headers: list[Header], name: bytes) -> list[Header]:
    """Without the first value of the first header `name`, which may hold several."""
    for at, header in enumerate(headers):
        if header.name == name:
            rest = split_values(header.value)[1:]
            kept = [Header.make(name.title(), b", ".join(rest))] if rest else []
            return headers[:at] + kept + headers[at + 1 :]
    return headers


def _received(request: Request, source: Flow) -> Request:
    """RFC 3261 18.2.1, RFC 3581 4: the topmost Via says where the request really came from."""
    params = {k: v for k, v in request.via.params.items() if k not in (b"received", b"rport")}
    params[b"received"] = source.host.encode()
    if b"rport" in request.via.params:
        params[b"rport"] = b"%d" % source.port
    via = replace(request.via, params=params)
    for at, header in enumerate(request.headers):
        if header.name == b"via":
            rest = split_values(header.value)[1:]
            fixed = Header.make(b"Via", b", ".join((via.render(), *rest)))
            return request.with_headers([*request.headers[:at], fixed, *request.headers[at + 1 :]], via)
    raise AssertionError("a parsed request has a Via")


def _response_flow(via: Via, source: Flow) -> Flow:
    """Where the response to a request from `source` goes (RFC 3261 18.2.2, RFC 3581 4)."""
    if source.kind == "udp" and b"rport" not in via.params:
        return Flow("udp", source.host, via.port or 5060)
    return source


def _transaction(request: Request) -> bytes:
    """What tells a retransmission from a new request (RFC 3261 17.2.3)."""
    return b"%b %b %d" % (request.via.sent_by, request.via.branch, request.cseq)


def _max_forwards(headers: list[Header]) -> int | None:
    value = find(headers, b"max-forwards")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 5 or int(value) > 255:
        raise BadMessage(400, "Bad Max-Forwards")
    return int(value)


def _check_forwarding(request: Request) -> None:
    """RFC 3261 16.3, 3 and 5: what a proxy must refuse before anything else."""
    if _max_forwards(request.headers) == 0:
        raise BadMessage(483, "Too Many Hops")
    required = find(request.headers, b"proxy-require")
    if required and request.method not in (b"ACK", b"CANCEL"):
        raise BadMessage(420, "Bad Extension", (Header.make(b"Unsupported", required),))


def _count_down(headers: list[Header]) -> list[Header]:
    hops = _max_forwards(headers)
    if hops is None:
        return [*headers, Header.make(b"Max-Forwards", b"%d" % DEFAULT_MAX_FORWARDS)]
    fewer = Header.make(b"Max-Forwards", b"%d" % (hops - 1))
    return [fewer if header.name == b"max-forwards" else header for header in headers]


def _next_hop(request: Request, headers: list[Header]) -> Flow | None:
    """For a call adopted without a flow: the numeric UDP address that the worker's request names, else
    None."""
    match = _URI_HOST.search(find(headers, b"route") or request.uri)
    if match is None or b"transport=tcp" in match[3].lower() or match[0].lower().startswith(b"sips"):
        return None
    host, port = match[1].strip(b"[]").decode("ascii", "replace"), int(match[2] or 5060)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return Flow("udp", host, port) if 0 < port < 65536 else None


def _dtmf_relay(request: Request) -> Request:
    """INFO application/dtmf as application/dtmf-relay; raises BadMessage(400) for more or less than one
    digit."""
    text = request.body.strip()
    name, equals, value = text.partition(b"\n")[0].partition(b"=")
    if equals and name.strip().lower() == b"signal":
        text = value.strip()
    digit = _DTMF_NUMBER.get(text, text)
    if not _DTMF_DIGIT.fullmatch(digit):
        raise BadMessage(400, "Bad DTMF")
    body = b"Signal=%b\r\nDuration=160\r\n" % digit
    headers = [h for h in request.headers if h.name not in (b"content-type", b"content-length")]
    headers.append(Header.make(b"Content-Type", b"application/dtmf-relay"))
    headers.append(Header.make(b"Content-Length", b"%d" % len(body)))
    return replace(request, headers=headers, body=body)
