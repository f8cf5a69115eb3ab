"""New calls of this gateway: which rule they fall under, whose they are, and whether their tenant and trunk may
have another one.

A call is *coming* from its INVITE or offer until it is written down as a session or has come to nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from gateway import personas
from gateway.api.tokens import Holder
from gateway.cluster.parties import NOBODY, Parties, Party
from gateway.cluster.registry import Registry
from gateway.rules import Inbound, Rules, Ruling
from gateway.sip.admission import Later, Refusal
from gateway.sip.digest import Doorman
from gateway.sip.edge import Edge
from gateway.sip.header import Header, find
from gateway.sip.marks import engine_mark, persona_mark, recording_mark, source_mark, tenant_mark
from gateway.sip.message import Request
from gateway.sip.outbound import OutboundCall
from gateway.state.keys import name_of_telephone_call
from gateway.webrtc.pool import WebrtcPool

if TYPE_CHECKING:
    from gateway.probe.desk import ProbeDesk
    from gateway.sip.stir.verdict import Verdict
    from gateway.sip.stir.verifier import Verifier
    from gateway.state.records import Session
    from gateway.state.sessions import Sessions

log = structlog.get_logger()

TELL_S: Final = 1.0
MOST_COMING: Final = 4096
"""Beyond it, calls are taken without a word of whose they are: as many are never on the way at once."""


@dataclass(slots=True)
class Coming:
    """A call on its way."""

    party: Party
    call_id: str = ""
    """Of a telephone."""
    ruling: Ruling | None = None


class Desk:
    """Of one main process. `spawn` runs a task until the process ends."""

    def __init__(
        self,
        parties: Parties,
        registry: Registry,
        edge: Edge,
        pool: WebrtcPool | None,
        sessions: Sessions | None,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        retry_after_s: int,
        rules: Rules,
        doorman: Doorman | None = None,
        verifier: Verifier | None = None,
        stir_of: Callable[[str], str] = lambda trunk: "off",
        source_of: Callable[[str], str] = lambda trunk: "learn",
    ) -> None:
        """`doorman` knows the trunks that come from anywhere, `verifier` whether a caller is who it says. By trunk:
        `stir_of` is what becomes of one that is not (off, show, require), `source_of` whom sound may come from."""
        self._rules, self._doorman = rules, doorman
        self._verifier, self._stir_of, self._source_of = verifier, stir_of, source_of
        self._told_s: float | None = None
        self._untold = 0
        self.has_engine: Callable[[str], bool] = lambda engine: True
        """Whether there is a model server of that engine."""
        self._parties, self._registry, self._edge, self._pool = parties, registry, edge, pool
        self._sessions, self._spawn, self._retry_after_s = sessions, spawn, retry_after_s
        self._coming: dict[str, Coming] = {}
        self.probes: ProbeDesk | None = None
        """Whose calls are let in without rules, and are nobody's."""
        self.arrived: Callable[[str, str], None] = lambda call, traceparent: None
        """To be told of every call that rules let in, with the caller's trace context (W3C)."""
        if sessions is not None:
            sessions.recalled, sessions.over = self._recalled, self._over

    # -- telephones

    def admit(self, request: Request) -> Refusal | Later | None:
        """`sip.admission.Admit`: an INVITE that would be taken here."""
        if self.probes is not None and self.probes.knows(_called(request)):
            return self._probed(self.probes, request)
        party, inbound = self._look(request)
        if self._doorman and not party.trunk:  # nobody else is asked who he is
            now_ns = time.monotonic_ns()
            values = [h.value for h in request.headers if h.name == b"authorization"]
            trunk = self._doorman.who(values, request.method.decode(), now_ns)
            if trunk is None:
                stale = self._doorman.is_stale(values, request.method.decode())
                return Refusal(401, "Unauthorized", self._doorman.challenges(now_ns, stale))
            party = self._parties.of_trunk(trunk, _from(request))
            inbound = dataclasses.replace(inbound, trunk=trunk)
        if self._verifier is None or self._stir_of(party.trunk) == "off":
            return self._ruled(request, party, inbound)
        verdict = self._verifier.at_once(request, time.time())
        if verdict is None:  # its certificate is to be asked for
            self._spawn(self._verify(self._verifier, request, party, inbound))
            return Later()
        return self._verified(self._verifier, request, party, inbound, verdict)

    def _probed(self, probes: ProbeDesk, request: Request) -> Refusal | None:
        """A probe call: of no tenant, and only where it is in nobody's way."""
        engine, why = probes.ruling.engine, ""
        if not self.has_engine(engine):
            why = f"engine {engine} has no model server now" if engine else "no model server now"
        elif not probes.admit():
            why = "too few places are free for a probe"
        if why:
            warning = Header.make(b"Warning", f'399 microturn "{why}"'.encode())
            return Refusal(503, "No Room For A Probe" if self.has_engine(engine) else "No Engine", (warning,))
        call_id = request.call_id.decode(errors="replace")
        self._note(name_of_telephone_call(call_id), Coming(NOBODY, call_id, probes.ruling))
        return None

    async def _verify(self, verifier: Verifier, request: Request, party: Party, inbound: Inbound) -> None:
        verdict = await verifier.verify(request, time.time())
        call_id = request.call_id.decode(errors="replace")
        if self._edge.knows(call_id):  # not cancelled meanwhile
            outcome = self._verified(verifier, request, party, inbound, verdict)
            if not isinstance(outcome, Later):
                self._edge.decide(call_id, outcome)

    def _verified(
        self, verifier: Verifier, request: Request, party: Party, inbound: Inbound, verdict: Verdict
    ) -> Refusal | Later | None:
        refusal = verdict.refusal if self._stir_of(party.trunk) == "require" else None
        name = name_of_telephone_call(request.call_id.decode(errors="replace"))
        verifier.note(verdict, inbound.source, inbound.trunk, refusal is not None, name)
        if refusal is not None:
            why = f'399 microturn "caller not verified: {verdict.why or "no Identity header"}"'
            return Refusal(*refusal, (Header.make(b"Warning", why.encode()),))
        party = dataclasses.replace(party, attestation=verdict.text)
        return self._ruled(request, party, dataclasses.replace(inbound, attestation=verdict.word))

    def _ruled(self, request: Request, party: Party, inbound: Inbound) -> Refusal | Later | None:
        """What the rules and the limits say."""
        call_id = request.call_id.decode(errors="replace")
        name = name_of_telephone_call(call_id)
        ruling = self._rules.find(inbound)
        if ruling is None:
            return self._no_rule(name, inbound)
        if not self.has_engine(ruling.engine):
            return self._no_engine(name, ruling, inbound)
        party = _by_rule(party, ruling)
        self._note(name, Coming(party, call_id, ruling))
        self.arrived(name, (find(request.headers, b"traceparent") or b"").decode(errors="replace"))
        limits = self._parties.limits(party)
        if not limits:
            return None
        self._spawn(self._ask(name, call_id, limits))
        return Later()

    def marks(self, request: Request) -> tuple[Header, ...]:
        """`sip.marks.Marks`: by the same rules, of an INVITE that was admitted."""
        coming = self._coming.get(name_of_telephone_call(request.call_id.decode(errors="replace")))
        party, ruling = (coming.party, coming.ruling) if coming is not None else (None, None)
        if party is None:
            party, inbound = self._look(request)
            ruling = self._rules.find(inbound)
        if ruling is None:
            return ()
        source, tenant = self._source_of(self.trunk_of(request)), _by_rule(party, ruling).tenant
        return (
            *persona_mark(ruling.persona), *engine_mark(ruling.engine), *recording_mark(ruling.recording),
            *source_mark(source), *tenant_mark(tenant),
        )  # fmt: skip

    def trunk_of(self, request: Request) -> str:
        """Of an INVITE that was admitted; "" is none."""
        coming = self._coming.get(name_of_telephone_call(request.call_id.decode(errors="replace")))
        return coming.party.trunk if coming is not None else self._look(request)[0].trunk

    async def permit(self, wish: OutboundCall, ticket: str) -> str:
        """Whether tenant and trunk may have another call, which counts under `ticket` until `placed` or
        `not_placed`; "" when they may, else the limit that is full."""
        return await self._registry.take(ticket, self._parties.limits(self._party_of_wish(wish)))

    def placed(self, wish: OutboundCall, ticket: str, call_id: str) -> None:
        """It is on its way under this Call-ID."""
        party = self._party_of_wish(wish)
        name = name_of_telephone_call(call_id)
        self._note(name, Coming(party, call_id))
        self._registry.hold(name, self._parties.limits(party))
        self._registry.give(ticket)

    def not_placed(self, ticket: str) -> None:
        """It came to nothing."""
        self._registry.give(ticket)

    def _party_of_wish(self, wish: OutboundCall) -> Party:
        party = self._parties.of_trunk(wish.trunk, f"<sip:{wish.to}@x>")
        return dataclasses.replace(party, tenant=wish.tenant or party.tenant, recording=wish.recording)

    def _look(self, request: Request) -> tuple[Party, Inbound]:
        source = (request.via.params.get(b"received") or b"").decode(errors="replace")
        party = self._parties.of_telephone(source, _from(request))
        if not party.trunk and (registered := self._edge.trunk_at(source)):
            party = self._parties.of_trunk(registered, _from(request))
        headers: dict[str, list[str]] = {}
        for header in request.headers:
            headers.setdefault(header.name.decode(errors="replace"), []).append(
                header.value.decode(errors="replace")
            )
        return party, Inbound(_called(request), source, party.trunk, headers)

    def _no_rule(self, name: str, inbound: Inbound) -> Refusal:
        """404 and why."""
        self._tell_refused("call refused: no rule matches", name, inbound)
        why = f"no rule matches a call from {inbound.source}" + (
            f" ({inbound.trunk})" if inbound.trunk else ""
        )
        return Refusal(404, "No Rule Matches", (Header.make(b"Warning", f'399 microturn "{why}"'.encode()),))

    def _no_engine(self, name: str, ruling: Ruling, inbound: Inbound) -> Refusal:
        """503 and why: it may be there again in a moment."""
        which = f"engine {ruling.engine}" if ruling.engine else "the usual engine"
        self._tell_refused(f"call refused: {which} has no model server", name, inbound)
        retry = Header.make(b"Retry-After", str(self._retry_after_s).encode())
        why = Header.make(b"Warning", f'399 microturn "{which} has no model server now"'.encode())
        return Refusal(503, "Service Unavailable", (retry, why))

    def _tell_refused(self, what: str, name: str, inbound: Inbound) -> None:
        """One line of log a second at most."""
        now_s = time.monotonic()
        if self._told_s is None or now_s - self._told_s >= TELL_S:
            called = inbound.called[:64] if self._parties.keeps_numbers else "(not shown: caller_numbers)"
            log.warning(
                what, call=name, called=called, source=inbound.source, trunk=inbound.trunk,
                others=self._untold,
            )  # fmt: skip
            self._told_s, self._untold = now_s, 0
        else:
            self._untold += 1

    def ruling_of_telephone(self, call_id: str) -> Ruling | None:
        """Of a call that is on its way."""
        coming = self._coming.get(name_of_telephone_call(call_id))
        return coming.ruling if coming is not None else None

    def party_of_telephone(self, call_id: str) -> Party:
        """Of a call that was answered: its session knows it from here on."""
        coming = self._coming.pop(name_of_telephone_call(call_id), None)
        return coming.party if coming is not None else NOBODY

    async def _ask(self, name: str, call_id: str, limits: dict[str, int]) -> None:
        full = await self._registry.take(name, limits)
        refusal = None
        if full:  # 480: 503 would tell a carrier that this gateway is ill (RFC 3261 21.4.18, 21.5.4)
            retry = Header.make(b"Retry-After", str(self._retry_after_s).encode())
            refusal = Refusal(480, "Too Many Calls", (retry,))
            self._coming.pop(name, None)
        self._edge.decide(call_id, refusal)

    # -- browsers

    async def take(self, call: str, holder: Holder, ruling: Ruling, traceparent: str = "") -> bool:
        """A new browser call; False when a limit is full. `answered` or `refused` follows."""
        self.arrived(call, traceparent)
        party = self._parties.of_browser(holder.name, holder.tenant or ruling.tenant)
        party = dataclasses.replace(party, recording=ruling.recording)
        self._note(call, Coming(party))
        full = None
        try:
            full = await self._registry.take(call, self._parties.limits(party))
        finally:  # whoever asked may be gone
            if full != "":
                self.refused(call)
        return not full

    def take_over(self, session: Session) -> None:
        """A call that goes on here counts here, whether there is room or not."""
        self._registry.hold(session.call, self._parties.limits(_party(session)))

    def refused(self, call: str) -> None:
        """No worker has taken it."""
        self._coming.pop(call, None)
        self._registry.give(call)

    def party_of(self, call: str) -> Party:
        """Of a browser call that was answered."""
        coming = self._coming.get(call)
        return coming.party if coming is not None else NOBODY

    def answered(self, call: str) -> None:
        """It lives in a worker."""
        self._coming.pop(call, None)

    # -- what became of them

    def sweep(self) -> None:
        """Once a second: what has come to nothing counts no more."""
        for name in [name for name in self._coming if not self._lives(name)]:
            del self._coming[name]
        if self._registry.permits.sweep(self._lives):
            self._registry.tell()

    def _lives(self, name: str) -> bool:
        if self._sessions is not None and name in self._sessions:
            return True
        coming = self._coming.get(name)
        if coming is None:
            return self._pool is not None and self._pool.has(name)
        return not coming.call_id or self._edge.knows(coming.call_id)

    def _note(self, name: str, coming: Coming) -> None:
        if len(self._coming) < MOST_COMING:
            self._coming[name] = coming

    def _recalled(self, session: Session) -> None:
        self._registry.hold(session.call, self._parties.limits(_party(session)), adopted=True)

    def _over(self, call: str) -> None:
        self._registry.give(call)


def _called(request: Request) -> str:
    return personas.called(request.start_line.decode(errors="replace"))


def _from(request: Request) -> str:
    return (find(request.headers, b"from") or b"").decode(errors="replace")


def _by_rule(party: Party, ruling: Ruling) -> Party:
    """As the rule has it; what it does not say goes by the address."""
    return dataclasses.replace(
        party,
        tenant=ruling.tenant or party.tenant,
        trunk=ruling.trunk or party.trunk,
        recording=ruling.recording,
    )


def _party(session: Session) -> Party:
    return Party(session.tenant, session.trunk, session.caller)
