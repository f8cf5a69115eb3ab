"""The two doors of the gateway, seen by whoever writes down their calls.

Each wraps a `gateway.fleet.Kind`: it passes everything on unchanged, and tells `Sessions` what became of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway import control
from gateway.cluster.parties import NOBODY, Party
from gateway.fleet import Kind
from gateway.rules import Ruling
from gateway.sip.call_events import CallEvent
from gateway.sip.outbound import OutboundCall
from gateway.state import tokens
from gateway.state.keys import name_of_telephone_call
from gateway.state.records import Door
from gateway.state.sessions import Sessions
from gateway.webrtc.pool import REALTIME, WebrtcPool

Ready = control.Ready | control.WebrtcReady
Send = Callable[[bytes], object]


class TelephoneDoor:
    """SIP calls, by their Call-IDs."""

    def __init__(
        self,
        inner: Kind,
        sessions: Sessions,
        persona: str,
        party_of: Callable[[str], Party] = lambda call_id: NOBODY,
        ruling_of: Callable[[str], Ruling | None] = lambda call_id: None,
        price_of: Callable[[OutboundCall], float] = lambda wish: 0.0,
        engines: Mapping[str, str] | None = None,
    ) -> None:
        """`party_of` says who calls with that Call-ID, `ruling_of` before it which rule the call fell under,
        `price_of` what a minute of a call of ours costs; `engines` has the persona of each further engine."""
        self._engines = engines or {}
        self._inner, self._sessions, self._party_of = inner, sessions, party_of
        self._ruling_of, self._persona, self._price_of = ruling_of, persona, price_of

    def answered(self, call_id: str, worker: str, request: str) -> None:
        """The edge: a worker has answered the caller whose INVITE had this request line."""
        ruling = self._ruling_of(call_id) or Ruling("")
        name = name_of_telephone_call(call_id)
        persona = ruling.persona or ("" if ruling.engine else self._persona)
        party = self._party_of(call_id)
        self._sessions.begin(
            name, "sip", worker, persona, ruling.called, party, inside=call_id, engine=ruling.engine
        )

    def placed(self, call_id: str, worker: str, wish: OutboundCall) -> None:
        """The switchboard: whom we called has answered."""
        usual = self._engines.get(wish.engine, "") if wish.engine else self._persona
        persona = "" if wish.joins else wish.persona or usual
        self._sessions.begin(
            name_of_telephone_call(call_id),
            "sip",
            worker,
            persona,
            "",
            self._party_of(call_id),
            placed=True,
            inside=call_id,
            joined=wish.joins,
            price_minute=self._price_of(wish),
            engine="" if wish.joins else wish.engine,
        )

    def happened(self, event: CallEvent) -> None:
        """The switchboard: what became of a call."""
        if event.kind == "transferred" and event.target:
            self._sessions.hand_over(event.call, event.target)

    def welcome(self, ready: Ready, send: Send) -> int:
        """See `Kind`."""
        count = self._inner.welcome(ready, send)
        for call_id in ready.calls:
            self._sessions.adopt(name_of_telephone_call(call_id), "sip", ready.worker, call_id)
        return count

    def hear(self, worker: str, message: control.WorkerMessage) -> None:
        """See `Kind`."""
        self._inner.hear(worker, message)
        if isinstance(message, control.CallEnded):
            name = name_of_telephone_call(message.call_id)
            self._sessions.end(name, cause=message.cause, figures=message.figures)
        elif isinstance(message, control.Measured):
            self._sessions.measured(name_of_telephone_call(message.call_id), message.figures)

    def lose(self, worker: str) -> int:
        """See `Kind`."""
        self._sessions.lose("sip", worker)
        return self._inner.lose(worker)


class BrowserDoor:
    """Browser calls, by the names that the pool gave them."""

    def __init__(
        self,
        pool: WebrtcPool,
        sessions: Sessions,
        persona: str,
        party_of: Callable[[str], Party] = lambda call: NOBODY,
    ) -> None:
        """`party_of` says whose call it is."""
        self._pool, self._sessions, self._persona, self._party_of = pool, sessions, persona, party_of

    def welcome(self, ready: Ready, send: Send) -> int:
        """See `Kind`."""
        count = self._pool.welcome(ready, send)
        for call in ready.calls:
            self._sessions.adopt(call, _door_of(call), ready.worker)
        return count

    def hear(self, worker: str, message: control.WorkerMessage) -> None:
        """See `Kind`."""
        asked = (
            self._pool.places[worker].out.get(message.id) if isinstance(message, control.Answered) else None
        )
        self._pool.hear(worker, message)
        if isinstance(message, control.CallEnded):
            self._sessions.end(message.call_id, cause=message.cause, figures=message.figures)
        elif isinstance(message, control.Measured):
            self._sessions.measured(message.call_id, message.figures)
        elif isinstance(message, control.Answered) and asked is not None:
            self._answered(worker, asked.message, message)

    def lose(self, worker: str) -> int:
        """See `Kind`."""
        self._sessions.lose("webrtc", worker)
        self._sessions.lose("realtime", worker)
        return self._pool.lose(worker)

    def _answered(self, worker: str, asked: control.WebrtcRequest, answered: control.Answered) -> None:
        if isinstance(asked, control.HangUp) and answered.status == 200:
            self._sessions.end(asked.call)
        elif isinstance(asked, control.Attend) and answered.status == 201:
            persona = asked.persona or ("" if asked.engine else self._persona)
            party = self._party_of(answered.call)
            self._sessions.begin(answered.call, "realtime", worker, persona, party=party, engine=asked.engine)
        elif isinstance(asked, control.Offer) and answered.call in self._pool.places[worker].calls:
            call, token = answered.call, tokens.check_of(answered.resume)
            if call in self._sessions:
                self._sessions.resume(call, worker, token)
            else:
                persona = asked.persona or ("" if asked.engine else self._persona)
                party = self._party_of(call)
                self._sessions.begin(
                    call, "webrtc", worker, persona, party=party, resume=token, engine=asked.engine
                )


def _door_of(call: str) -> Door:
    """Of a call in a WebRTC worker."""
    return "realtime" if call.startswith(REALTIME) else "webrtc"
