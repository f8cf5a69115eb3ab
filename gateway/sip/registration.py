# SPDX-License-Identifier: GPL-3.0-or-later
"""We register at carriers and exchanges (RFC 3261 10): sans-IO, time is an argument.

    IDLE -- due --> REACHING -- `dialled` --> TRYING -- 200 --> REGISTERED -- four fifths of its time --> TRYING
                       +-- no way there ---------+-- refused, no answer in 32 s --> FAILED -- backoff --> REACHING

A registration is refreshed along the flow that it has; one that fails is tried again after 15 s, twice as long each
time, half an hour at most, or when the registrar says so (Retry-After).  The one rule of driving it: after each
call send `take`, dial what `take_dials` gives, and call `poll` at `next_deadline`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import structlog

from gateway.sip.dialler import Dial
from gateway.sip.digest import Challenge, Login, authorization, challenge_of
from gateway.sip.flows import Flow, Send
from gateway.sip.header import Header, find, split_values
from gateway.sip.message import Response, render
from gateway.sip.path import host_port
from gateway.sip.targets import Target
from gateway.sip.timers import SECOND_NS

log = structlog.get_logger()

T1_NS: Final = SECOND_NS // 2
T2_NS: Final = 4 * SECOND_NS
TIMER_F_NS: Final = 64 * T1_NS
LEAST_BACKOFF_NS: Final = 15 * SECOND_NS
MOST_BACKOFF_NS: Final = 1800 * SECOND_NS
NEVER_NS: Final = 1 << 62
DIAL_NS: Final = 10 * SECOND_NS
"""The dialler says sooner that there is no way."""
LEAST_EXPIRES_S: Final = 10
"""A registrar that grants less would have us do nothing else."""
MOST_EXPIRES_S: Final = 86_400
_EXPIRES = re.compile(rb";[ \t]*expires[ \t]*=[ \t]*([0-9]{1,9})", re.I)


class RegistrationState(enum.Enum):
    IDLE = "idle"
    REACHING = "reaching"
    TRYING = "trying"
    REGISTERED = "registered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Registree:
    """What is to be registered where."""

    trunk: str
    target: Target
    """Its `uri` is the registrar's, as `sip:sip.example.net`."""
    user: str
    login: Login
    expires_s: int


@dataclass(slots=True)
class RegistrarCounters:
    """Events since the start; only ever counted up."""

    registered: int = 0  # 200s, refreshed ones too
    refused: int = 0  # final answers of other kinds, but for the first challenge
    unanswered: int = 0
    unreachable: int = 0
    strays: int = 0  # answers to nothing that is under way


@dataclass(slots=True)
class _Registration:
    wish: Registree
    call_id: bytes
    tag: bytes
    state: RegistrationState = RegistrationState.IDLE
    flow: Flow | None = None
    cseq: int = 0
    branch: bytes = b""
    data: bytes = b""
    interval_ns: int = 0
    due_ns: int = 0
    """When something is to be done: sent again, refreshed, tried anew."""
    expires_ns: int = 0
    """Of the request under way."""
    challenge: Challenge | None = None
    proxy: bool = False
    count: int = 0
    """Of requests with the nonce of `challenge`."""
    answered: int = 0
    """Challenges answered in a row: one, and another where the nonce was stale."""
    failures: int = 0
    leaving: bool = False
    """It is taken back: nothing follows."""
    asked_s: int = 0
    granted_s: int = 0
    reason: str = field(default="")


class Registrar:
    """All registrations of one edge.  `own` is our address as peers see it (host, port), `own_tls` that for TLS."""

    def __init__(
        self,
        key: bytes,
        own: tuple[str, int],
        wishes: Mapping[str, Registree],
        now_ns: int,
        own_tls: tuple[str, int] | None = None,
    ) -> None:
        self.counters = RegistrarCounters()
        self._key, self._own, self._own_tls = key, host_port(*own), host_port(*(own_tls or own))
        self._all: dict[bytes, _Registration] = {}
        for name, wish in wishes.items():
            call_id = self._token(f"call {name}") + b"@microturn"
            entry = _Registration(wish, call_id, self._token(f"tag {name}")[:16], due_ns=now_ns)
            entry.asked_s = wish.expires_s
            self._all[call_id] = entry
        self._out: list[Send] = []
        self._dials: list[Dial] = []

    # -- what is known

    def knows(self, call_id: bytes) -> bool:
        """Whether it is the Call-ID of a registration."""
        return call_id in self._all

    def state_of(self, trunk: str) -> RegistrationState | None:
        """Of a trunk; None where nothing is to be registered."""
        return next((r.state for r in self._all.values() if r.wish.trunk == trunk), None)

    @property
    def registered(self) -> int:
        """How many are, now."""
        return sum(r.state is RegistrationState.REGISTERED or bool(r.granted_s) for r in self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def uses(self, flow: Flow) -> bool:
        """Whether one of them goes along that connection: calls come by it."""
        return any(r.flow == flow for r in self._all.values())

    def flow_to(self, target: Target) -> Flow | None:
        """The connection that we are registered along at this target; None without one."""
        for entry in self._all.values():
            its, flow = entry.wish.target, entry.flow
            same = (its.host, its.port, its.transport) == (target.host, target.port, target.transport)
            if same and flow is not None and flow.is_connection and entry.granted_s:
                return flow
        return None

    def trunk_at(self, host: str) -> str:
        """The trunk whose registrar answers from that address; "" for none."""
        found = (r.wish.trunk for r in self._all.values() if r.flow is not None and r.flow.host == host)
        return next(found, "")

    # -- what happens

    def poll(self, now_ns: int) -> None:
        """What is due: first attempts, refreshes, retransmissions, attempts anew."""
        for entry in self._all.values():
            if now_ns < entry.due_ns:
                continue
            if entry.state is RegistrationState.TRYING:
                self._again(entry, now_ns)
            elif entry.state is RegistrationState.REGISTERED and entry.flow is not None:
                self._send(entry, now_ns)
            elif entry.state is RegistrationState.REACHING:
                self._fail(entry, now_ns, "unreachable")
            else:
                self._reach(entry, now_ns)

    def next_deadline(self) -> int | None:
        """When `poll` is due (monotonic ns), or None.  In the past means at once."""
        if self._out:
            return 0
        due_ns = min((r.due_ns for r in self._all.values()), default=NEVER_NS)
        return None if due_ns == NEVER_NS else due_ns

    def take(self) -> list[Send]:
        """What is to be sent."""
        out, self._out = self._out, []
        return out

    def take_dials(self) -> list[Dial]:
        """Whom to find a way to; `dialled` follows for each."""
        out, self._dials = self._dials, []
        return out

    def dialled(self, call_id: bytes, flow: Flow | None, now_ns: int) -> None:
        """The registrar is reached along `flow`, or not at all."""
        entry = self._all.get(call_id)
        if entry is None or entry.state is not RegistrationState.REACHING:
            return
        if flow is None:
            self.counters.unreachable += 1
            self._fail(entry, now_ns, "unreachable")
            return
        entry.flow, entry.answered = flow, 0
        self._send(entry, now_ns)

    def lose_flow(self, flow: Flow, now_ns: int) -> None:
        """A connection is gone, and with it the way that our calls come by: another one is wanted at once."""
        for entry in self._all.values():
            if entry.flow == flow:
                entry.flow, entry.granted_s = None, 0
                if entry.leaving:
                    self._rest(entry)
                elif entry.state is RegistrationState.REGISTERED:
                    entry.state, entry.due_ns = RegistrationState.IDLE, now_ns
                elif entry.state is RegistrationState.TRYING:
                    self._fail(entry, now_ns, "connection lost")

    def receive(self, response: Response, now_ns: int) -> None:
        """An answer.  Never raises for what a peer sends."""
        entry = self._all.get(response.call_id)
        is_ours = entry is not None and entry.state is RegistrationState.TRYING
        if entry is None or not is_ours or response.cseq != entry.cseq or response.via.branch != entry.branch:
            self.counters.strays += 1
            return
        status = response.status
        if status < 200:
            entry.interval_ns, entry.due_ns = T2_NS, now_ns + T2_NS  # RFC 3261 17.1.2.2
        elif status < 300:
            self._registered(entry, response, now_ns)
        elif status in (401, 407) and self._can_answer(entry, response):
            self._send(entry, now_ns)
        elif status == 423 and (least_s := _number(response, b"min-expires")) is not None:
            if not entry.asked_s < least_s <= MOST_EXPIRES_S:
                self._refused(entry, response, now_ns)
                return
            entry.asked_s = least_s
            self._send(entry, now_ns)
        else:
            self._refused(entry, response, now_ns)

    def leave(self, now_ns: int) -> None:
        """Calls are to go elsewhere: what is registered is taken back (RFC 3261 10.2.2), nothing is tried anew."""
        for entry in self._all.values():
            if entry.leaving:
                continue
            entry.leaving, entry.asked_s = True, 0
            if entry.granted_s and entry.flow is not None:
                self._send(entry, now_ns)
            else:
                self._rest(entry)

    # -- inside

    def _rest(self, entry: _Registration) -> None:
        """Nothing more is to be done."""
        entry.state, entry.granted_s, entry.due_ns = RegistrationState.IDLE, 0, NEVER_NS

    def _registered(self, entry: _Registration, response: Response, now_ns: int) -> None:
        if entry.leaving:
            self._rest(entry)
            return
        granted_s = max(LEAST_EXPIRES_S, min(self._granted_s(entry, response), MOST_EXPIRES_S))
        if not entry.granted_s:
            log.info("registered", trunk=entry.wish.trunk, seconds=granted_s)
        self.counters.registered += 1
        entry.state, entry.failures, entry.answered = RegistrationState.REGISTERED, 0, 0
        entry.granted_s, entry.reason = granted_s, ""
        entry.due_ns = now_ns + granted_s * SECOND_NS * 4 // 5

    def _granted_s(self, entry: _Registration, response: Response) -> int:
        """Of our Contact, else of the message, else what we asked for (RFC 3261 10.3, 8)."""
        ours = self._address(entry)
        for header in response.headers:
            if header.name == b"contact":
                for value in split_values(header.value):
                    found = _EXPIRES.search(value)
                    if ours in value and found is not None:
                        return int(found[1])
        told = _number(response, b"expires")
        return entry.asked_s if told is None else told

    def _can_answer(self, entry: _Registration, response: Response) -> bool:
        """Whether this challenge is one to be answered: the first, or one for a stale nonce."""
        entry.proxy = response.status == 407
        name = b"proxy-authenticate" if entry.proxy else b"www-authenticate"
        challenge = challenge_of(h.value for h in response.headers if h.name == name)
        if challenge is None or not entry.wish.login.password:
            return False
        if entry.answered and not (challenge.stale and entry.answered < 2):
            return False
        entry.challenge, entry.count = challenge, 0
        entry.answered += 1
        return True

    def _refused(self, entry: _Registration, response: Response, now_ns: int) -> None:
        self.counters.refused += 1
        entry.challenge = None
        retry_s = _number(response, b"retry-after")
        self._fail(entry, now_ns, response.start_line[8:].decode(errors="replace"), retry_s)

    def _fail(self, entry: _Registration, now_ns: int, reason: str, retry_s: int | None = None) -> None:
        if entry.leaving:
            self._rest(entry)
            return
        wait_ns = min(LEAST_BACKOFF_NS << min(entry.failures, 16), MOST_BACKOFF_NS)
        if retry_s is not None:
            wait_ns = min(max(wait_ns, retry_s * SECOND_NS), MOST_BACKOFF_NS)
        entry.failures += 1
        entry.state, entry.flow, entry.granted_s, entry.reason = RegistrationState.FAILED, None, 0, reason
        entry.answered = 0
        entry.due_ns = now_ns + wait_ns
        log.warning(
            "not registered", trunk=entry.wish.trunk, reason=reason[:80], again_in_s=wait_ns // SECOND_NS
        )

    def _reach(self, entry: _Registration, now_ns: int) -> None:
        entry.state, entry.due_ns = RegistrationState.REACHING, now_ns + DIAL_NS
        self._dials.append(Dial(entry.call_id, entry.wish.target))

    def _again(self, entry: _Registration, now_ns: int) -> None:
        assert entry.flow is not None
        if now_ns >= entry.expires_ns:
            self.counters.unanswered += 1
            self._fail(entry, now_ns, "no answer")
            return
        entry.interval_ns = min(2 * entry.interval_ns, T2_NS)
        entry.due_ns = min(now_ns + entry.interval_ns, entry.expires_ns)
        if not entry.flow.is_connection:
            self._out.append(Send(entry.flow, entry.data))

    def _send(self, entry: _Registration, now_ns: int) -> None:
        """A new REGISTER along the flow that there is."""
        assert entry.flow is not None
        entry.cseq += 1
        entry.branch = b"z9hG4bKmtr" + self._token(f"{entry.wish.trunk} {entry.cseq}")
        entry.state = RegistrationState.TRYING
        entry.interval_ns, entry.due_ns, entry.expires_ns = T1_NS, now_ns + T1_NS, now_ns + TIMER_F_NS
        entry.data = self._request(entry, entry.flow)
        self._out.append(Send(entry.flow, entry.data))

    def _request(self, entry: _Registration, flow: Flow) -> bytes:
        wish = entry.wish
        uri = wish.target.uri
        name = b"<sip:%b@%b>" % (wish.user.encode(), uri.removeprefix(b"sip:").split(b";")[0])
        way = flow.kind.upper().encode()
        headers = [
            Header.make(b"Via", b"SIP/2.0/%b %b;branch=%b;rport" % (way, self._place(entry), entry.branch)),
            Header.make(b"Max-Forwards", b"70"),
            Header.make(b"From", name + b";tag=" + entry.tag),
            Header.make(b"To", name),
            Header.make(b"Call-ID", entry.call_id),
            Header.make(b"CSeq", b"%d REGISTER" % entry.cseq),
            Header.make(b"Contact", b"<%b>;expires=%d" % (self._address(entry), entry.asked_s)),
            Header.make(b"Expires", b"%d" % entry.asked_s),
            Header.make(b"User-Agent", b"microturn"),
        ]
        if entry.challenge is not None:
            entry.count += 1
            cnonce = self._token(f"cnonce {entry.wish.trunk} {entry.cseq}").decode()
            value = authorization(entry.challenge, wish.login, "REGISTER", uri.decode(), entry.count, cnonce)
            headers.append(Header.make(b"Proxy-Authorization" if entry.proxy else b"Authorization", value))
        return render(b"REGISTER %b SIP/2.0" % uri, headers, b"")

    def _address(self, entry: _Registration) -> bytes:
        """Our Contact's URI."""
        transport = entry.wish.target.transport
        suffix = b";transport=%b" % transport.encode() if transport != "udp" else b""
        return b"sip:%b@%b%b" % (entry.wish.user.encode(), self._place(entry), suffix)

    def _place(self, entry: _Registration) -> bytes:
        return self._own_tls if entry.wish.target.transport == "tls" else self._own

    def _token(self, what: str) -> bytes:
        return blake2b(b"register " + what.encode(), key=self._key, digest_size=16).hexdigest().encode()


def _number(response: Response, name: bytes) -> int | None:
    """Of a header that begins with seconds; None without one."""
    match = re.match(rb"[ \t]*([0-9]{1,9})", find(response.headers, name) or b"")
    return int(match[1]) if match else None
