# SPDX-License-Identifier: GPL-3.0-or-later
"""What the edge is about to send: requests to the workers and answers of its own."""

from __future__ import annotations

from typing import Final

from gateway.sip.counters import Counters
from gateway.sip.digest import answered_anew
from gateway.sip.flows import Flow, Send
from gateway.sip.header import BadMessage, Header, find, media_type
from gateway.sip.load import Call
from gateway.sip.marks import Marks, sound_mark
from gateway.sip.message import Message, Request, render, reply
from gateway.sip.path import DEFAULT_MAX_FORWARDS, Path, received, response_flow
from gateway.sip.sdp_policy import Policy, with_body
from gateway.sip.sdp_screen import family_of, screen_body
from gateway.sip.sips import for_worker
from gateway.sip.transfers import for_target

MAX_WORKER_MESSAGE_BYTES: Final = 4_000  # the packet buffer of pjsua2
_ANSWERS: Final = (b"authorization", b"proxy-authorization")


def authorized(request: Request, policy: Policy) -> Request:
    """A worker's request with our own answer to the peer's challenge: the worker knows no password, and answers for
    a name and a URI that the peer never sees."""
    if not any(h.name in _ANSWERS for h in request.headers):
        return request
    headers: list[Header] = []
    for h in request.headers:
        if h.name in _ANSWERS:
            method, uri = request.method.decode(), request.uri.decode("ascii", "replace")
            value = answered_anew(h.value, policy.login, method, uri) if policy.login is not None else None
            if value is None:
                continue
            h = Header.make(h.name.title(), value)
        headers.append(h)
    return request.with_headers(headers, request.via)


class Outbox:
    """Messages in the order in which they are to be sent.  `retry_after_s` goes into each 503, `marks` into each
    INVITE that a worker is to begin a call with.  With `sound6` workers may see sound over IPv6."""

    def __init__(
        self,
        path: Path,
        counters: Counters,
        retry_after_s: int,
        marks: Marks = lambda request: (),
        sound6: bool = False,
    ) -> None:
        self._marks, self._sound6 = marks, sound6
        self.path = path
        self.counters = counters
        self.retry_after = (Header.make(b"Retry-After", b"%d" % retry_after_s),)
        self._out: list[Send] = []

    def __len__(self) -> int:
        return len(self._out)

    def send(self, send: Send) -> None:
        self._out.append(send)

    def to_worker(self, request: Request, source: Flow, call: Call) -> None:
        """Forward a request of the peer.  Raises BadMessage for one that the worker must not see."""
        is_new = request.method == b"INVITE" and not request.to_tag
        if is_new:  # of an INVITE without an offer we make one
            call.sound6 = family_of(request.body) == 6 if request.body else call.policy.offers6
        screen = self.screened(request, call)
        if screen is not None:
            raise screen
        out = [self.path.via(request, True, response_flow(request.via, source), call.worker.flow)]
        if is_new:
            sound = sound_mark(self._sound6 and bool(call.sound6))
            out += [*self.path.record_routes(source), *self._marks(request), *sound]
        if call.sips:
            request = for_worker(request)
        headers = [h for h in request.headers if h.name != b"identity"]  # long, and of no use to it
        data = render(request.start_line, out + headers, request.body)
        if len(data) > MAX_WORKER_MESSAGE_BYTES:
            raise BadMessage(513, "Message Too Large")
        self.send(Send(call.worker.flow, data))

    def trying(self, request: Request, source: Flow) -> None:
        self.refuse(request, source, 100, "Trying")

    def busy(self, request: Request, source: Flow) -> None:
        self.counters.refused_busy += 1
        self.refuse(request, source, 503, "Service Unavailable", self.retry_after)

    def refuse(
        self, request: Request, source: Flow, status: int, reason: str, extra: tuple[Header, ...] = ()
    ) -> None:
        """Answer `request` ourselves."""
        if request.method == b"ACK":
            self.counters.dropped += 1
            return
        data = reply(request.headers, status, reason, self.path.tag(request.call_id), extra)
        self.send(Send(response_flow(request.via, source), data))

    def refuse_bad(self, message: Message | BadMessage, bad: BadMessage, source: Flow) -> None:
        """Answer what is wrong with `message`, if that may be answered at all."""
        self.counters.bad_messages += 1
        if isinstance(message, Request):
            if source.kind == "worker":
                if message.method != b"ACK":
                    tag = self.path.tag(message.call_id)
                    self.send(Send(source, reply(message.headers, bad.status, bad.reason, tag, bad.extra)))
                return
            self.refuse(received(message, source), source, bad.status, bad.reason, bad.extra)
            return
        answerable = bad.method not in (b"", b"ACK") and source.kind != "worker"
        if answerable and find(bad.headers, b"via") and find(bad.headers, b"cseq"):
            tag = self.path.tag(find(bad.headers, b"call-id") or b"")
            self.send(Send(source, reply(bad.headers, bad.status, bad.reason, tag, bad.extra)))

    def cancel(self, invite: Request, call: Call) -> None:
        """Timer C (RFC 3261 16.8): the worker gets a CANCEL, the caller a 408."""
        if call.flow is None:
            return
        via = self.path.via(invite, True, response_flow(invite.via, call.flow), call.worker.flow)
        sent = for_worker(invite) if call.sips else invite
        kept = [h for h in sent.headers if h.name in (b"from", b"to", b"call-id", b"route")]
        kept.append(Header.make(b"CSeq", b"%d CANCEL" % invite.cseq))
        kept.append(Header.make(b"Max-Forwards", b"%d" % DEFAULT_MAX_FORWARDS))
        self.send(Send(call.worker.flow, render(b"CANCEL %b SIP/2.0" % sent.uri, [via, *kept], b"")))
        self.refuse(invite, call.flow, 408, "Request Timeout")

    def to_target(self, request: Request, headers: list[Header], call: Call, flow: Flow) -> None:
        """Forward a request of the worker along `flow`; `headers` are its own as a proxy passes them on."""
        out = [self.path.via(request, False, call.worker.flow, flow)]
        request = for_target(request.with_headers(headers, request.via), call, self.path.own_uri(flow))
        request = authorized(request, call.policy)
        if request.body and media_type(request.headers) == b"application/sdp":
            request = with_body(request, call.policy.of_worker(request.body))
        if request.method == b"INVITE" and not request.to_tag:
            out += self.path.record_routes(flow, to_worker=False)
        self.send(Send(flow, render(request.start_line, out + request.headers, request.body)))

    def cancel_target(self, invite: Request, call: Call) -> None:
        """CANCEL for an INVITE that a worker began, if it was sent at all."""
        if call.flow is None:
            return
        via = self.path.via(invite, False, call.worker.flow, call.flow)
        sent = for_target(invite, call, self.path.own_uri(call.flow))
        kept = [h for h in sent.headers if h.name in (b"from", b"to", b"call-id")]
        kept.append(Header.make(b"CSeq", b"%d CANCEL" % invite.cseq))
        kept.append(Header.make(b"Max-Forwards", b"%d" % DEFAULT_MAX_FORWARDS))
        self.send(Send(call.flow, render(b"CANCEL %b SIP/2.0" % sent.uri, [via, *kept], b"")))

    def refuse_worker(self, request: Request, call: Call, status: int, reason: str) -> None:
        """Answer a request of the worker ourselves."""
        tag = self.path.tag(request.call_id)
        self.send(Send(call.worker.flow, reply(request.headers, status, reason, tag)))

    def screened(self, message: Message, call: Call | None = None) -> BadMessage | None:
        """Why no worker may see the body of `message`, in that call or as a new one, counted; or None."""
        try:
            screen_body(message, self._sound6, call.sound6 if call is not None else None)
        except BadMessage as bad:
            self.counters.screened += 1
            return bad
        return None

    def take(self) -> list[Send]:
        """Everything so far; it is empty afterwards."""
        out, self._out = self._out, []
        return out
