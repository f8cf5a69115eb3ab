# SPDX-License-Identifier: GPL-3.0-or-later
"""The SIP edge on its sockets: UDP, TCP and TLS outside, one UDP socket on 127.0.0.1 towards the workers.

All decisions are in `routing`, the sockets themselves in `sockets`; this file frames what comes, asks the guard
about it, and keeps the one timer.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

import structlog

from gateway.histogram import Histogram
from gateway.sip.admission import Admit, Refusal
from gateway.sip.begun import PolicyOf
from gateway.sip.call_states import Answered
from gateway.sip.connection import Connection
from gateway.sip.counters import Counters
from gateway.sip.dialler import Dialler
from gateway.sip.edge_settings import EdgeSettings
from gateway.sip.flows import Flow, Send
from gateway.sip.guard import Guard, GuardCounters, Standing, Verdict
from gateway.sip.header import BadMessage
from gateway.sip.load import WorkerAddress
from gateway.sip.marks import Marks
from gateway.sip.message import Framed, Message, Request, Response, parse
from gateway.sip.registration import Registrar, RegistrarCounters
from gateway.sip.routing import Router
from gateway.sip.sdp_policy import OPEN, Policy
from gateway.sip.sockets import Sockets
from gateway.sip.targets import Target, Targets
from gateway.sip.tickets import Ticket
from gateway.sip.timers import SECOND_NS
from gateway.state.keys import name_of_telephone_call

_log = structlog.get_logger(__name__)


class Edge:
    """The SIP edge.  Belongs to one event loop; its methods are to be called in that loop, once started.

    `admit` is asked for each new INVITE; the topmost Via of the request it sees carries `received` (and
    `rport` if asked for), the sender's address.
    """

    def __init__(self, settings: EdgeSettings, admit: Admit | None = None) -> None:
        self._settings = settings
        self._admit = admit
        self.answered: Answered = lambda call_id, worker, request: None
        """Who is told when a worker has answered a call."""
        self.marks: Marks = lambda request: ()
        """What a worker is told of a call."""
        self.policy: Callable[[Request], Policy] = lambda request: OPEN
        """What a new call may have in its session descriptions."""
        self.policy_of: PolicyOf = lambda trunk: OPEN
        """The same of calls of ours."""
        self._router: Router | None = None
        self._registrar: Registrar | None = None
        self._guard: Guard | None = None
        self._dialler: Dialler | None = None
        self._sockets = Sockets(settings, self)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._logged: set[str] = set()

    async def start(self) -> None:
        """Bind all sockets.  Raises OSError when an address is taken."""
        if self._router is not None:
            raise RuntimeError("the edge was started before")
        await self._sockets.open()
        public_host = self._settings.public_host or self._settings.host
        key = secrets.token_bytes(32)
        self._router = Router(
            key,
            self._sockets.inside,
            (public_host, self.address[1]),
            tls=(public_host, self.tls_port) if self.tls_port else None,
            retry_after_s=self._settings.retry_after_s,
            admit=self._admit,
            answered=lambda call_id, worker, request: self.answered(call_id, worker, request),
            targets=Targets(self._settings.refer_targets),
            marks=lambda request: self.marks(request),
            policy=lambda request: self.policy(request),
            policy_of=lambda trunk: self.policy_of(trunk),
            sound6=self._settings.sound6,
        )
        self._guard = Guard(self._settings.rules, self)
        self._dialler = Dialler(self.address[0], self._sockets.connect, self._dialled)
        self._registrar = Registrar(
            key, (public_host, self.address[1]), self._settings.registrations, time.monotonic_ns(),
            (public_host, self.tls_port) if self.tls_port else None,
        )  # fmt: skip
        self._drive()

    async def stop(self) -> None:
        """Close all sockets and connections; live calls go on without signalling.  May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._dialler is not None:
            self._dialler.close()
        await self._sockets.close()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port outside, as bound."""
        return self._sockets.address

    @property
    def tls_port(self) -> int:
        """TLS port outside, as bound; 0 without TLS."""
        return self._sockets.tls_port

    @property
    def inside_port(self) -> int:
        """UDP port on 127.0.0.1 that workers have in their route sets, as bound."""
        return self._sockets.inside[1]

    @property
    def counters(self) -> Counters:
        """Live counters; read only."""
        return self._running.counters

    @property
    def guard_counters(self) -> GuardCounters:
        """Of what was not heard; read only."""
        return self._guarding.counters

    @property
    def sources(self) -> int:
        """Addresses whose rate is remembered."""
        return self._guarding.sources

    @property
    def loads(self) -> dict[str, int]:
        """Calls per worker."""
        return self._running.workers.loads()

    @property
    def waiting(self) -> int:
        """INVITEs held back until a worker may take the next one."""
        return self._running.waiting

    def add_worker(self, address: WorkerAddress) -> None:
        """Give calls to this worker from now on.  Raises ValueError if its name or address is taken."""
        self._running.add_worker(address)
        self._drive()

    def remove_worker(self, name: str) -> list[str]:
        """Forget a worker; gives the Call-IDs it had.  Pending INVITEs get 503.

        Raises KeyError for an unknown name.
        """
        lost = self._running.remove_worker(name)
        self._drive()
        return [call_id.decode("ascii") for call_id in lost]

    @property
    def room(self) -> int:
        """Calls that its workers would take now."""
        return self._running.workers.room()

    def decide(self, call_id: str, refusal: Refusal | None) -> None:
        """What became of an INVITE for which `admit` said `Later`; nothing if it is gone meanwhile."""
        if self._router is not None:
            self._send(self._router.decide(call_id.encode(), refusal, time.monotonic_ns()))
            self._drive()

    def knows(self, call_id: str) -> bool:
        """Whether a call lives, or its INVITE is held."""
        return self._running.knows(call_id.encode())

    def call_ended(self, call_id: str) -> None:
        """A worker says that a call is over; an unknown one is ignored."""
        self._running.call_ended(call_id.encode(), time.monotonic_ns())
        self._drive()

    def adopt_call(
        self, worker_name: str, call_id: str, flow: Flow | None = None, *, sound6: bool | None = None
    ) -> bool:
        """Take over a call that a worker still has after our restart; False if known already or no room.

        `sound6` as in `load.Call`. Raises KeyError for an unknown worker.
        """
        now_ns = time.monotonic_ns()
        return self._running.adopt_call(worker_name, call_id.encode(), flow, now_ns, sound6=sound6)

    def room_at(self, worker: str) -> int:
        """Calls that this one would take now."""
        return self._running.workers.room_at(worker)

    def issue(self, target: Target, caller: bytes, trunk: str, worker: str = "") -> Ticket | None:
        """A ticket for a call of ours to `target`, of any worker or of that one; None without room, or while
        draining."""
        return self._running.issue(target, caller, trunk, time.monotonic_ns(), worker)

    def revoke(self, ticket: Ticket) -> None:
        """Nobody dials with it."""
        self._running.tickets.revoke(ticket)

    def find(self, call: str) -> tuple[str, str] | None:
        """Worker and Call-ID of a call that lives, by its Call-ID or its name outside of this process
        (`state.keys.name_of_telephone_call`)."""
        worker = self._running.owner(call.encode())
        if worker is not None:
            return worker, call
        for told in self.live:
            if (
                name_of_telephone_call(told) == call
                and (worker := self._running.owner(told.encode())) is not None
            ):
                return worker, told
        return None

    def replaces(self, call_id: str) -> str | None:
        """Address that makes whoever calls it take our place in a call of ours (RFC 3891), for an attended
        transfer; None for a call that is not ours, or not answered."""
        return self._running.replaces(call_id.encode())

    @property
    def live(self) -> list[str]:
        """Call-IDs of all calls that workers have now."""
        return [call_id.decode("ascii", "replace") for call_id in self._running.live()]

    @property
    def setup(self) -> Histogram:
        """Of calls that were answered; read only."""
        return self._running.setup

    @property
    def registrar_counters(self) -> RegistrarCounters:
        """Live counters; read only."""
        return self._registering.counters

    @property
    def registered(self) -> tuple[int, int]:
        """Trunks that are registered now, of those that are to be."""
        return self._registering.registered, len(self._registering)

    def trunk_at(self, host: str) -> str:
        """The trunk that is registered at this address; "" for none."""
        return self._registering.trunk_at(host)

    def standing(self, call_id: bytes) -> Standing:
        """`guard.Standings`: calls, and our own registrations."""
        if self._registrar is not None and self._registrar.knows(call_id):
            return Standing.LIVES
        return self._running.standing(call_id)

    def drain(self) -> None:
        """Refuse new calls with 503 from now on, and register nowhere any more; live calls go on.  There is no way
        back."""
        self._running.drain()
        self._registering.leave(time.monotonic_ns())
        self._drive()

    # ---- Inner workings ----

    @property
    def _running(self) -> Router:
        if self._router is None:
            raise RuntimeError("the edge is not started")
        return self._router

    @property
    def _registering(self) -> Registrar:
        if self._registrar is None:
            raise RuntimeError("the edge is not started")
        return self._registrar

    @property
    def _guarding(self) -> Guard:
        if self._guard is None:
            raise RuntimeError("the edge is not started")
        return self._guard

    def _datagram(self, data: bytes, source: Flow) -> None:
        if not data[:1].strip(b"\r\n\0 ") and not data.strip(b"\r\n\0 "):
            self._running.counters.keepalives += 1
            return
        now_ns = time.monotonic_ns()
        outside = source.kind != "worker"
        verdict = self._judge(data, source, now_ns) if outside else Verdict.PASS
        if verdict is Verdict.DROP:
            return
        try:
            message: Message | BadMessage = parse(data)
        except BadMessage as bad:
            message = bad
        self._take(message, source, verdict, now_ns)

    def _stream(self, connection: Connection, data: bytes) -> None:
        for item in connection.parser.frames(data):
            if isinstance(item, str):
                connection.last_ns = time.monotonic_ns()
                self._running.counters.keepalives += 1
                connection.send(b"\r\n")  # RFC 5626 4.4.1
                continue
            now_ns = time.monotonic_ns()
            verdict = Verdict.PASS
            if isinstance(item, Framed):
                verdict = self._judge(item.head, connection.flow, now_ns)
            if verdict is Verdict.DROP:
                if not self._running.flow_in_use(connection.flow):
                    connection.close()
                    return
                continue
            connection.last_ns = now_ns
            self._take(item.parse() if isinstance(item, Framed) else item, connection.flow, verdict, now_ns)
            if isinstance(item, BadMessage) and item.fatal:
                connection.close()

    def _judge(self, data: bytes, source: Flow, now_ns: int) -> Verdict:
        """Where we are registered is nobody's stranger, whatever name it has in the settings."""
        if self._registering.trunk_at(source.host):
            return Verdict.PASS
        return self._guarding.judge(data, source, now_ns)

    def _take(self, message: Message | BadMessage, source: Flow, verdict: Verdict, now_ns: int) -> None:
        if isinstance(message, Response) and message.method == b"REGISTER" and source.kind != "worker":
            self._registering.receive(message, now_ns)
            self._send(self._registering.take())
        elif verdict is Verdict.REFUSE:
            self._send(self._running.refuse_beyond(message, source, self._guarding.retry_s))
        else:
            self._send(self._running.handle(message, source, now_ns))

    def receive(self, connection: Connection | None, data: bytes, source: Flow) -> None:
        """The one place where a bug of ours ends with the message that met it."""
        if self._router is None:
            return
        try:
            if connection is None:
                self._datagram(data, source)
            else:
                self._stream(connection, data)
        except Exception as error:
            self._router.counters.errors += 1
            kind = type(error).__name__
            if kind not in self._logged:  # a peer that found a bug must not fill the disk too
                self._logged.add(kind)
                _log.exception("sip_edge_error", source=source, size=len(data))
        for dial in self._router.begun.take_dials():
            flow = self._registering.flow_to(dial.target)
            if flow is not None:  # the connection that we are registered along
                self._dialled(dial.call_id, flow)
            elif self._dialler is not None:
                self._dialler.dial(dial)
        self._arm()

    def _send(self, sends: list[Send]) -> None:
        self._running.counters.dropped += self._sockets.send(sends)

    def _dialled(self, call_id: bytes, flow: Flow | None) -> None:
        if self._router is None:
            return
        if self._registering.knows(call_id):
            self._registering.dialled(call_id, flow, time.monotonic_ns())
        else:
            self._router.begun.dialled(call_id, flow)
        self._drive()

    def _drive(self) -> None:
        """Send what is due, then arm the timer."""
        self._send(self._running.poll(time.monotonic_ns()))
        registrar = self._registering
        registrar.poll(time.monotonic_ns())
        self._send(registrar.take())
        for dial in registrar.take_dials():
            if self._dialler is not None:
                self._dialler.dial(dial)
        for source, why, messages in self._guarding.poll(time.monotonic_ns()):
            _log.warning("not heard", source=source, why=why, messages=messages)
        self._arm()

    def _arm(self) -> None:
        if self._router is None or self._registrar is None:
            return
        times = (
            self._router.next_deadline(), self._guarding.next_deadline(), self._registrar.next_deadline()
        )  # fmt: skip
        due_ns = min((due_ns for due_ns in times if due_ns is not None), default=None)
        if due_ns is None or (self._timer is not None and self._timer_ns <= due_ns):
            return  # an early timer only finds nothing to do
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = due_ns
        delay_s = max(0, due_ns - time.monotonic_ns()) / SECOND_NS
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._router is not None:
            self._drive()

    # ---- What connections tell and ask: `connection.Owner` ----

    def connected(self, connection: Connection) -> bool:
        """False when the connection is one too many, or a stranger's."""
        if self._router is not None and not connection.dialled and not self._router.awaits_peers:
            allowed = self._guarding.allows(connection.flow.host, time.monotonic_ns())
            self._arm()
            if not allowed:
                return False
        if self._router is None or self._sockets.is_full:
            if self._router is not None:
                self._router.counters.tcp_refused += 1
            return False
        self._router.counters.tcp_connections += 1
        self._sockets.connections[connection.flow.connection] = connection
        return True

    def disconnected(self, connection: Connection) -> None:
        known = self._sockets.connections.pop(connection.flow.connection, None)
        if known is not None and self._router is not None:
            self._router.flow_closed(connection.flow)
            self._registering.lose_flow(connection.flow, time.monotonic_ns())
            self._arm()

    def tls_failed(self) -> None:
        if self._router is not None:
            self._router.counters.tls_failed += 1

    def flow_in_use(self, flow: Flow) -> bool:
        if self._registrar is not None and self._registrar.uses(flow):
            return True
        return self._router is not None and self._router.flow_in_use(flow)
