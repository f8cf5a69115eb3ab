"""One outgoing call's signalling, sans IO: transactions, timers and the dialog (RFC 3261 sections 12 to 17).

    IDLE --invite--> CALLING --1xx--> PROCEEDING --2xx--> CONFIRMED --BYE--> CLOSING --2xx--> ENDED
                        |                 |                   \\--BYE from the peer----------> ENDED
                        \\---3xx..6xx------+--hang up: CANCEL, 487 (or 2xx: ACK and BYE)-----> ENDED

Knows messages and `now_ns`; no socket and no clock. One rule: after each call into it, drain `outgoing()` and
`events()`, then come back to `poll` at `next_deadline()`. No authentication, no forking, no 100rel.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

from gateway.caller.messages import Address, Message, SipUri, is_loopback, parse_uri
from gateway.caller.sdp import RemoteAudio, answer_direction, describe, parse_audio

# RFC 3261 section 17.1.1.1 and table 4.
T1_NS = 500_000_000
T2_NS = 4_000_000_000
TRANSACTION_TIMEOUT_NS = 64 * T1_NS  # timers B, F and H
RING_TIMEOUT_NS = 180_000_000_000  # section 13.3.1.1: a proxy gives a ringing call three minutes

_ALLOW = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, NOTIFY"
_REASONS = {
    200: "OK",
    405: "Method Not Allowed",
    481: "Call/Transaction Does Not Exist",
    488: "Not Acceptable Here",
    500: "Server Internal Error",
}


class DialogState(enum.Enum):
    IDLE = "idle"
    CALLING = "calling"
    PROCEEDING = "proceeding"
    CONFIRMED = "confirmed"
    CLOSING = "closing"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Ringing:
    """A provisional response above 100."""

    status: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The call is up. `audio` is None when the answer had no usable audio."""

    audio: RemoteAudio | None


@dataclass(frozen=True, slots=True)
class MediaChanged:
    """The peer's re-INVITE or UPDATE was accepted."""

    audio: RemoteAudio


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event. `status` is the final answer to the INVITE (408 when there was none)."""

    status: int
    reason: str
    by: str  # "peer", "us", "refused" or "timeout"
    retry_after_s: int | None = None
    redirect: str = ""  # the Contact of a 3xx


Event = Ringing | Answered | MediaChanged | Ended


@dataclass(slots=True)
class _Resend:
    """Something that is sent again, ever less often, until it is answered (timers A, E and G)."""

    data: bytes
    address: Address
    interval_ns: int  # 0: the transport is reliable
    longest_ns: int
    due_ns: int
    expires_ns: int

    def poll(self, now_ns: int) -> bool:
        """True when it is to be sent again now."""
        if not self.interval_ns or now_ns < self.due_ns:
            return False
        self.interval_ns = min(2 * self.interval_ns, self.longest_ns)
        self.due_ns = now_ns + self.interval_ns
        return True

    @property
    def deadline_ns(self) -> int:
        return min(self.due_ns, self.expires_ns) if self.interval_ns else self.expires_ns


@dataclass(frozen=True, slots=True)
class LocalMedia:
    """Where we listen for audio and the one codec we offer."""

    host: str
    port: int
    codec: str
    payload_type: int

    def describe(self, version: int, direction: str = "sendrecv") -> bytes:
        """Our session description."""
        return describe(
            self.host, self.port, self.codec, self.payload_type, version=version, direction=direction
        )


class Dialog:
    """The caller's side of one call."""

    def __init__(
        self,
        target: SipUri,
        local: Address,
        media: LocalMedia,
        *,
        rng: random.Random,
        user: str = "caller",
        transport: str = "udp",
    ) -> None:
        """`local` is the address of our SIP socket; `transport` is udp, tcp or tls. `rng` makes tags and
        branches."""
        self.state = DialogState.IDLE
        self.call_id = f"{rng.getrandbits(96):024x}@{local[0]}"
        self.refused_requests = 0
        self._target = target
        self._media = media
        self._rng = rng
        self._reliable = reliable = transport != "udp"
        self._via = f"SIP/2.0/{transport.upper()} {_bracket(local[0])}:{local[1]};rport;branch="
        parameter = f";transport={transport}" if reliable else ""
        self._contact = f"<sip:{user}@{_bracket(local[0])}:{local[1]}{parameter}>"
        self._tag = f"{rng.getrandbits(48):012x}"
        self._from = f"<sip:{user}@{_bracket(local[0])}>;tag={self._tag}"
        self._to = f"<{target.text}>"
        self._remote_uri = target.text
        self._routes: list[str] = []
        self._cseq = 0
        self._remote_cseq = -1
        self._sdp_version = 1
        self._invite: Message | None = None
        self._ack: tuple[bytes, Address] | None = None
        self._hanging_up = False
        self._resends: dict[str, _Resend] = {}  # by method: INVITE, CANCEL, BYE; ANSWER for our 200
        self._last_reply: tuple[tuple[int, str, str], bytes] | None = None
        self._out: list[tuple[bytes, Address]] = []
        self._events: list[Event] = []

    # -- what the driver calls

    def invite(self, now_ns: int) -> None:
        """Place the call. Once."""
        assert self.state is DialogState.IDLE, "a dialog calls once"
        self._invite = self._request("INVITE", self._media.describe(self._sdp_version))
        self.state = DialogState.CALLING
        self._start("INVITE", self._invite, now_ns)

    def hang_up(self, now_ns: int) -> None:
        """End the call: BYE when it is up, CANCEL when it is not yet (RFC 3261 section 9.1)."""
        self._hanging_up = True
        if self.state is DialogState.CONFIRMED:
            self.state = DialogState.CLOSING
            self._resends.pop("ANSWER", None)
            self._start("BYE", self._request("BYE"), now_ns)
        elif self.state is DialogState.PROCEEDING:
            self._cancel(now_ns)
        elif self.state is DialogState.IDLE:
            self._end(0, "never called", "us")
        # CALLING: a CANCEL has to wait for the first provisional response.

    def receive(self, message: Message, source: Address, now_ns: int) -> None:
        """Take one message of this Call-ID."""
        if message.status:
            self._receive_response(message, now_ns)
        else:
            self._receive_request(message, source, now_ns)

    def poll(self, now_ns: int) -> None:
        """Run the timers that are due."""
        for name, resend in list(self._resends.items()):
            if self._resends.get(name) is not resend:
                continue  # an earlier one of this round ended the call
            if now_ns >= resend.expires_ns:
                del self._resends[name]
                self._expire(name, now_ns)
            elif resend.poll(now_ns):
                self._out.append((resend.data, resend.address))

    def next_deadline(self) -> int | None:
        """When `poll` wants to be called, on the clock of `now_ns`, or None."""
        return min((resend.deadline_ns for resend in self._resends.values()), default=None)

    def outgoing(self) -> list[tuple[bytes, Address]]:
        """Drain what is to be sent, and where to."""
        out, self._out = self._out, []
        return out

    def events(self) -> list[Event]:
        """Drain what happened."""
        events, self._events = self._events, []
        return events

    # -- responses

    def _receive_response(self, message: Message, now_ns: int) -> None:
        number, method = message.cseq
        if method == "INVITE" and self._invite is not None and number == self._invite.cseq[0]:
            self._receive_invite_response(message, now_ns)
        elif method == "CANCEL" and message.status >= 200:
            self._resends.pop("CANCEL", None)
        elif method == "BYE" and message.status >= 200 and "BYE" in self._resends:
            self._resends.clear()
            self._end(200, "OK", "us")

    def _receive_invite_response(self, message: Message, now_ns: int) -> None:
        waiting = self.state in (DialogState.CALLING, DialogState.PROCEEDING)
        if message.status < 200:
            if waiting:
                self._receive_provisional(message, now_ns)
        elif message.status < 300:
            if waiting:
                self._confirm(message, now_ns)
            elif self._ack is not None:
                self._out.append(self._ack)  # the 200 came again: our ACK was lost (section 13.2.2.4)
        else:
            self._acknowledge_refusal(message)
            if waiting:
                self._resends.clear()
                contact = message.header("contact") if message.status < 400 else ""
                by = "us" if self._hanging_up and message.status == 487 else "refused"
                self._end(message.status, message.reason, by, message.retry_after_s, contact)

    def _receive_provisional(self, message: Message, now_ns: int) -> None:
        first = self.state is DialogState.CALLING
        self.state = DialogState.PROCEEDING
        if invite := self._resends.get("INVITE"):
            invite.interval_ns = 0  # section 17.1.1.2: no more retransmission
            if first:
                invite.expires_ns = now_ns + RING_TIMEOUT_NS
        if message.status > 100:
            self._events.append(Ringing(message.status))
        if first and self._hanging_up:
            self._cancel(now_ns)

    def _confirm(self, message: Message, now_ns: int) -> None:
        self._resends.clear()
        self._to = message.header("to") or self._to
        self._remote_uri = _address_of(message.header("contact")) or self._remote_uri
        self._routes = message.values("record-route")[::-1]  # section 12.1.2
        assert self._invite is not None
        ack = self._request("ACK", cseq=self._invite.cseq[0])
        self._ack = (ack.serialise(), self._next_hop())
        self._out.append(self._ack)
        self.state = DialogState.CONFIRMED
        if self._hanging_up:  # the answer crossed our CANCEL
            self.hang_up(now_ns)
        else:
            self._events.append(Answered(parse_audio(message.body)))

    def _acknowledge_refusal(self, message: Message) -> None:
        """ACK of the same transaction: same branch, URI and CSeq number (section 17.1.1.3)."""
        assert self._invite is not None
        kept = ("via", "max-forwards", "from", "call-id", "route")
        headers = [header for header in self._invite.headers if header[0] in kept]
        headers += [("to", message.header("to")), ("cseq", f"{self._invite.cseq[0]} ACK")]
        ack = Message(method="ACK", uri=self._invite.uri, headers=tuple(headers))
        self._out.append((ack.serialise(), self._target.address))

    # -- requests of the peer

    def _receive_request(self, message: Message, source: Address, now_ns: int) -> None:
        number, method = message.cseq
        if method != message.method:
            self.refused_requests += 1
            return
        if method == "ACK":
            self._resends.pop("ANSWER", None)
            return
        key = (number, method, message.branch)
        if self._last_reply is not None and self._last_reply[0] == key:
            self._out.append((self._last_reply[1], source))
            return
        status, body = self._decide(message, number)
        if status not in (200, 405):
            self.refused_requests += 1
        data = self._reply(message, status, body)
        self._last_reply = (key, data)
        self._out.append((data, source))
        if method == "INVITE" and status == 200:
            # Our 200 is repeated until the ACK, over TCP too (section 13.3.1.4).
            expires = now_ns + TRANSACTION_TIMEOUT_NS
            self._resends["ANSWER"] = _Resend(data, source, T1_NS, T2_NS, now_ns + T1_NS, expires)
        elif method == "BYE" and status == 200:
            self._resends.clear()
            self._end(200, "OK", "us" if self.state is DialogState.CLOSING else "peer")

    def _decide(self, message: Message, number: int) -> tuple[int, bytes]:
        """The status and body with which a request is answered."""
        if self.state not in (DialogState.CONFIRMED, DialogState.CLOSING):
            return 481, b""
        if message.tag("to") != self._tag:
            return 481, b""
        if number < self._remote_cseq:
            return 500, b""  # section 12.2.2
        self._remote_cseq = number
        if message.method in ("INVITE", "UPDATE"):
            return self._renegotiate(message)
        if message.method in ("BYE", "OPTIONS", "INFO", "NOTIFY"):
            return 200, b""
        return 405, b""

    def _renegotiate(self, message: Message) -> tuple[int, bytes]:
        """Answer an offer in the dialog. A re-INVITE without one gets ours (RFC 3264 section 5)."""
        self._remote_uri = _address_of(message.header("contact")) or self._remote_uri
        if not message.body.strip():
            return 200, self._media.describe(self._sdp_version) if message.method == "INVITE" else b""
        audio = parse_audio(message.body)
        if audio is None or self._media.codec not in audio.codecs.values():
            return 488, b""
        self._sdp_version += 1
        self._events.append(MediaChanged(audio))
        return 200, self._media.describe(self._sdp_version, answer_direction(audio.direction))

    def _reply(self, message: Message, status: int, body: bytes) -> bytes:
        copied = ("via", "from", "to", "call-id", "cseq", "record-route")
        headers = [header for header in message.headers if header[0] in copied]
        headers += [("contact", self._contact), ("allow", _ALLOW)]
        if body:
            headers.append(("content-type", "application/sdp"))
        reason = _REASONS[status]
        return Message(status=status, reason=reason, headers=tuple(headers), body=body).serialise()

    # -- our requests

    def _request(self, method: str, body: bytes = b"", cseq: int | None = None) -> Message:
        if cseq is None:
            self._cseq += 1
            cseq = self._cseq
        headers = [("via", f"{self._via}z9hG4bK{self._rng.getrandbits(64):016x}"), ("max-forwards", "70")]
        headers += [("route", route) for route in self._routes]
        headers += [("from", self._from), ("to", self._to), ("call-id", self.call_id)]
        headers += [("cseq", f"{cseq} {method}"), ("contact", self._contact)]
        if method == "INVITE":
            headers.append(("allow", _ALLOW))
        if body:
            headers.append(("content-type", "application/sdp"))
        return Message(method=method, uri=self._remote_uri, headers=tuple(headers), body=body)

    def _start(self, name: str, request: Message, now_ns: int) -> None:
        data, address = request.serialise(), self._next_hop()
        interval = 0 if self._reliable else T1_NS
        longest = TRANSACTION_TIMEOUT_NS if name == "INVITE" else T2_NS  # timer A doubles without a bound
        expires = now_ns + TRANSACTION_TIMEOUT_NS
        self._resends[name] = _Resend(data, address, interval, longest, now_ns + interval, expires)
        self._out.append((data, address))

    def _cancel(self, now_ns: int) -> None:
        """CANCEL with the INVITE's branch, URI and CSeq number (section 9.1)."""
        assert self._invite is not None
        if "CANCEL" in self._resends:
            return
        kept = ("via", "max-forwards", "from", "to", "call-id", "route")
        headers = [header for header in self._invite.headers if header[0] in kept]
        headers.append(("cseq", f"{self._invite.cseq[0]} CANCEL"))
        self._start("CANCEL", Message(method="CANCEL", uri=self._invite.uri, headers=tuple(headers)), now_ns)
        # Without a 487 the call is over all the same after 64 T1.
        self._resends["INVITE"].expires_ns = now_ns + TRANSACTION_TIMEOUT_NS

    def _next_hop(self) -> Address:
        """Where an in-dialog request goes: the first route, else the peer's Contact, when it is an
        address."""
        if self._ack is None and not self._routes and self._remote_uri == self._target.text:
            return self._target.address
        try:
            hop = parse_uri(self._routes[0] if self._routes else self._remote_uri)
        except ValueError:
            return self._target.address
        literal = hop.host.replace(".", "").isdigit() or ":" in hop.host or is_loopback(hop.host)
        return hop.address if literal else self._target.address

    # -- ends

    def _expire(self, name: str, now_ns: int) -> None:
        if name == "INVITE":
            self._resends.clear()
            self._end(408, "Request Timeout", "us" if self._hanging_up else "timeout")
        elif name == "BYE":
            self._end(200, "OK, but the BYE was not answered", "timeout")
        elif name == "ANSWER" and self.state is DialogState.CONFIRMED:
            self.hang_up(now_ns)  # section 13.3.1.4: no ACK, so the session ends

    def _end(
        self, status: int, reason: str, by: str, retry_after_s: int | None = None, redirect: str = ""
    ) -> None:
        if self.state is not DialogState.ENDED:
            self.state = DialogState.ENDED
            self._events.append(Ended(status, reason, by, retry_after_s, redirect))


def _address_of(header: str) -> str:
    """The URI of a Contact, or '' when it is none that we can call."""
    try:
        return parse_uri(header).text
    except ValueError:
        return ""


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
