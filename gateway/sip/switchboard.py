"""What others of the main process may ask of telephone calls: to call somebody, to hang up, to hand a caller to a
person. The HTTP API is one of those who ask.

    originate -> a ticket of the edge -> `control.Dial` -> worker --INVITE ticket--> edge --INVITE target--> trunk
    transfer  -> `control.Refer` -> worker --REFER--> edge --REFER--> peer;  its NOTIFYs -> `control.Progress`
    join      -> as `originate`, of the caller's worker alone: who answers there joins the caller and the model

Nobody waits here for a person: `originate` and `transfer` return when the request is on its way, what becomes of it
comes as a `CallEvent`, in order, to everyone in `watchers`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import structlog

from gateway import control
from gateway.further_engines import check_engine
from gateway.personas import check_persona
from gateway.sip.call_events import CallEvent, Kind, Watcher, Why, why_of
from gateway.sip.outbound import Limits, OutboundCall, Refused, Spending
from gateway.sip.trunks import Trunk, caller_uri, destination
from gateway.sip.worker_requests import ANSWER_S, WorkerRequests
from gateway.state.keys import name_of_telephone_call

if TYPE_CHECKING:
    from gateway.sip.edge import Edge
    from gateway.sip.targets import Target
    from gateway.sip.tickets import Ticket
    from gateway.sip.trunks import Person

log = structlog.get_logger()

PLACE_S, PLACE_AGAIN_S = 2.0, 0.02
"""A call of ours waits so long for a worker that may have another INVITE, and looks so often."""


class Switchboard:
    """Of one main process. `send` gives what sends to a worker, None when it is away."""

    def __init__(
        self,
        edge: Edge,
        trunks: Mapping[str, Trunk],
        targets: Mapping[str, str],
        send: Callable[[str], Callable[[bytes], object] | None],
        srtp: int = 0,
        answer_s: float = ANSWER_S,
        rtp_source: Literal["learn", "lock", "sdp"] = "learn",
        persons: Mapping[str, Person] | None = None,
    ) -> None:
        """`targets` are whom callers may be handed to, by name: `transfers` of the settings; `persons` those whom
        the model may have join: `joins`. `srtp` is that of calls whose trunk does not say: 0 off, 1 optional, 2
        required, as `rtp_source` is."""
        self.watchers: list[Watcher] = []
        self.has_engine: Callable[[str], bool] = lambda engine: True
        """Whether there is a model server of that engine, and no draining."""
        self.engines: Mapping[str, str] = {}
        """Further engines, and what each is to be where nobody says it."""
        self.engine_of: Callable[[str], str] = lambda call: ""
        """Which of them that call has."""
        self.records = False
        """Whether there is a place for recordings."""
        self.limits: Limits | None = None
        """Whether tenants and trunks may have another call."""
        self.spending: Spending | None = None
        """What they may cost."""
        self.tenant_of: Callable[[str], str] = lambda call: ""
        """Whose that call is."""
        self.placing: Callable[[str, str], None] = lambda call, tenant: None
        """Told of each call that the model wanted, and whose it is."""
        self.began: Callable[[str, str, OutboundCall], None] = lambda call_id, worker, wish: None
        """Told of each call that was answered: Call-ID, worker, what was wished."""
        self._edge, self._trunks, self._targets, self._send = edge, trunks, targets, send
        self._srtp, self._rtp_source, self._persons = srtp, rtp_source, persons or {}
        self._joining: set[asyncio.Task[None]] = set()
        """What models have asked for; bounded by their calls, each with one."""
        self._requests = WorkerRequests(send, answer_s)
        self._last_permit = 0
        self._wishes: dict[str, tuple[str, OutboundCall]] = {}
        """Call-ID -> worker, of calls that were begun and are not over."""
        self._transfers: dict[str, str] = {}
        """Call-ID -> name of the target."""
        self._joins: dict[str, str] = {}
        """Call-ID -> Call-ID of the call whose other end the caller is handed to."""

    # -- what may be asked

    async def originate(self, wish: OutboundCall) -> str:
        """The call's name; `CallEvent`s follow: `ringing`, then `answered` or `failed`, at last `ended`. Raises
        `Refused`."""
        return await self._place(wish)

    async def join(self, call: str, wish: OutboundCall, *, by_model: bool = False) -> str:
        """Call somebody who is to join the caller and the model of `call`: the name of that person's call, of which
        events follow as of any call of ours. Of `call` itself `joined`, and `left` at last, or `join-failed`, with
        which it goes on as before. Raises `Refused`."""
        worker, call_id = self._find(call)
        name = name_of_telephone_call(call_id)
        if any(other.joins == name for _, other in self._wishes.values()):
            raise Refused(409, "joined", "somebody has joined, or is being called: one a call")
        wish = dataclasses.replace(wish, joins=name, recording=False, engine=self.engine_of(name))
        try:
            return await self._place(wish, worker, call_id, by_model=by_model)
        except Refused as refused:
            if refused.code == "no-room":
                self._tell(call_id, "join-failed", refused.status, refused.text, why="no-room")
            raise

    async def leave(self, call: str) -> None:
        """Who has joined that call, or is called for it, is hung up. Raises `Refused`."""
        worker, call_id = self._find(call)
        await self._requests.ask(worker, control.Leave(0, call_id))

    async def _place(
        self, wish: OutboundCall, worker: str = "", joins: str = "", *, by_model: bool = False
    ) -> str:
        """Of any worker, or of that one, whose call of this Call-ID it `joins`."""
        trunk = self._trunk(wish.trunk)
        try:
            target = destination(trunk, wish.to)
            caller = caller_uri(trunk, wish.caller_id, wish.caller_name)
            if wish.persona:
                check_persona(wish.persona, "persona")
            if not wish.joins:
                check_engine(wish.engine, self.engines, "engine")
        except ValueError as wrong:
            raise Refused(400, "bad-request", str(wrong)) from None
        if not trunk.may_call(wish.to):
            raise Refused(
                403, "not-allowed", f"trunk {wish.trunk} may not call {wish.to[:64]!r}: see its dial"
            )
        if self.spending is not None:
            self.spending.check(wish)
        if wish.recording and not (trunk.recording and self.records):
            told = (
                f"trunk {wish.trunk} has no recording = true" if self.records else "recording_dir is not set"
            )
            raise Refused(403, "not-recorded", f"the call cannot be recorded: {told}")
        if not self.has_engine(wish.engine):
            which = f"engine {wish.engine} has no model server now, or " if wish.engine else ""
            raise Refused(503, "not-ready", f"{which}no new calls are taken now")
        srtp = trunk.srtp_mode if trunk.srtp else self._srtp
        persona = wish.persona or self.engines.get(wish.engine, "")
        self._last_permit += 1
        permit = f"placing-{self._last_permit}"
        if self.limits is not None and (full := await self.limits.permit(wish, permit)):
            raise Refused(503, "no-room", f"{full} has as many calls as it may")
        minutes = 0.0
        try:
            if self.spending is not None:
                minutes = self.spending.minutes(wish)
                await self.spending.reserve(wish, permit)
            ticket = await self._ticket(target, caller, wish.trunk, worker)
            if ticket is None:
                told = "the process with this call is full" if worker else "all workers are full"
                raise Refused(503, "no-room", told)
        except BaseException:
            self._not_placed(permit)
            raise
        dial = control.Dial(
            0, ticket.uri.decode(), persona, srtp, trunk.session_expires_s, wish.ring_s, wish.answer_s,
            wish.recording, trunk.rtp_source or self._rtp_source, 60 * minutes, wish.tenant or trunk.tenant,
            joins, wish.model, by_model, trunk.rtp_family == "ipv6", wish.engine,
        )  # fmt: skip
        try:
            answered = await self._requests.ask(
                ticket.worker,
                dial,
                lambda answered: self._dialled(ticket.worker, wish, permit, answered.call),
            )
        except BaseException:
            self._edge.revoke(ticket)
            self._not_placed(permit)
            raise
        return name_of_telephone_call(answered.call)

    async def hang_up(self, call: str) -> None:
        """From our side: BYE, or CANCEL while it rings. Raises `Refused`."""
        worker, call_id = self._find(call)
        await self._requests.ask(worker, control.HangUp(0, call_id))

    async def transfer(self, call: str, target: str) -> None:
        """Hand the caller to one of the configured targets (REFER); returns once the peer is being asked.
        `transferring` and then `transferred` or `transfer-failed` follow; a call whose transfer failed goes on
        with the model, which is told. Raises `Refused`."""
        worker, call_id = self._find(call)
        uri = self._targets.get(target)
        if uri is None:
            raise Refused(404, "no-such-target", f"{target[:64]!r} is not among the transfers")
        await self._begin_transfer(worker, call_id, uri, target)

    async def transfer_to_call(self, call: str, other: str) -> None:
        """Attended: hand the caller to whom we talk to in `other`, a call of ours that was answered (REFER with
        Replaces, RFC 5589 7). Events as of `transfer`; when it is done `other` is over, too. Raises `Refused`."""
        worker, call_id = self._find(call)
        _, other_id = self._find(other)
        uri = self._edge.replaces(other_id) if other_id != call_id else None
        if uri is None:
            raise Refused(409, "not-answered", "the other call is not one of ours that was answered")
        self._joins[call_id] = other_id
        try:
            await self._begin_transfer(worker, call_id, uri, name_of_telephone_call(other_id))
        except Refused:
            self._joins.pop(call_id, None)
            raise

    # -- of the workers

    def hear(self, worker: str, message: control.Answered | control.SipMessage) -> None:
        """What a SIP worker says of what it was asked."""
        match message:
            case control.Answered():
                self._requests.answered(message)
            case control.Progress():
                self._progress(message)
            case control.TransferAsked():
                self._asked_by_model(worker, message)
            case control.JoinAsked():
                task = asyncio.get_running_loop().create_task(self._join_for_model(worker, message))
                self._joining.add(task)
                task.add_done_callback(self._joining.discard)

    def over(self, call_id: str) -> None:
        """A worker says that a call is over."""
        known = self._wishes.pop(call_id, None)
        transfer = self._transfers.pop(call_id, None)
        self._joins.pop(call_id, None)
        if known is not None or transfer is not None:
            self._tell(call_id, "ended", target=transfer or "")

    def lose(self, worker: str) -> None:
        """It is gone, with its calls; who waits for its answer gets one."""
        self._requests.lose(worker)
        for call_id in [c for c, (its, _) in self._wishes.items() if its == worker]:
            self.over(call_id)

    def wish_of(self, call_id: str) -> OutboundCall | None:
        """What was wished of a call that we began and that is not over."""
        known = self._wishes.get(call_id)
        return known[1] if known is not None else None

    def placed(self, call: str) -> OutboundCall | None:
        """What was wished of a call of that name that we began and that is not over, answered or not."""
        found = (
            wish for call_id, (_, wish) in self._wishes.items() if name_of_telephone_call(call_id) == call
        )
        return next(found, None)

    # -- inside

    async def _begin_transfer(self, worker: str, call_id: str, uri: str, target: str) -> None:
        before = self._transfers.get(call_id)
        self._transfers[call_id] = target  # known when the peer's word comes
        try:
            await self._requests.ask(worker, control.Refer(0, call_id, uri, name_of_telephone_call(call_id)))
        except Refused:
            self._transfers.pop(call_id, None)
            if before is not None:  # one is under way
                self._transfers[call_id] = before
            raise
        self._tell(call_id, "transferring", target=target)

    def _hang_up_joined(self, call_id: str) -> None:
        """Who was consulted talks to the caller now: our call with him is over, if he has not ended it himself."""
        found = self._edge.find(self._joins.pop(call_id, ""))
        send = self._send(found[0]) if found is not None else None
        if found is not None and send is not None:
            send(control.encode(control.HangUp(0, found[1])))

    def _progress(self, told: control.Progress) -> None:
        target = self._transfers.get(told.call_id, "")
        if told.kind == "failed":
            self._tell(told.call_id, "failed", told.status, told.reason, why=why_of(told.status, told.reason))
        elif told.kind == "transfer-failed":
            self._transfers.pop(told.call_id, None)
            self._joins.pop(told.call_id, None)
            why = why_of(told.status, told.reason)
            self._tell(told.call_id, "transfer-failed", told.status, told.reason, why, target)
        elif told.kind in ("joined", "left", "join-failed"):
            person = name_of_telephone_call(told.other)
            said = why_of(told.status, told.reason) if told.kind == "join-failed" else ""
            self._tell(told.call_id, told.kind, told.status, told.reason, said, person=person)
        elif told.kind == "answered":
            self._tell(told.call_id, "answered", told.status)
            known = self._wishes.get(told.call_id)
            if known is not None:
                self.began(told.call_id, *known)
        else:
            self._tell(told.call_id, told.kind, told.status, told.reason, target=target)
            if told.kind == "transferred":
                self._hang_up_joined(told.call_id)

    def _asked_by_model(self, worker: str, asked: control.TransferAsked) -> None:
        """The model wants the caller handed over: the same path, and it hears what came of it."""
        name = asked.target or (next(iter(self._targets)) if len(self._targets) == 1 else "")
        uri = self._targets.get(name)
        send = self._send(worker)
        if send is None:
            return
        if uri is None:
            log.warning("the model asked for a transfer to nobody we know", call=asked.call_id)
        if uri is not None:
            self._transfers[asked.call_id] = name
            self._tell(asked.call_id, "transferring", target=name)
        send(
            control.encode(control.Refer(0, asked.call_id, uri or "", name_of_telephone_call(asked.call_id)))
        )

    async def _join_for_model(self, worker: str, asked: control.JoinAsked) -> None:
        """The model wants a person to join: the same path, and it hears what came of it."""
        name = asked.target or (next(iter(self._persons)) if len(self._persons) == 1 else "")
        person = self._persons.get(name)
        call = name_of_telephone_call(asked.call_id)
        try:
            if person is None:
                raise Refused(404, "no-such-target", f"{asked.target[:64]!r} is not among the joins")
            tenant = self.tenant_of(call)
            wish = OutboundCall(person.to, person.trunk, person.caller_id, tenant=tenant, model=person.model)
            self.placing(
                await self.join(call, wish, by_model=True), tenant or self._trunk(person.trunk).tenant
            )
        except Refused as refused:
            log.warning("nobody joins as the model asked", call=call, reason=refused.code)
            if refused.code != "no-room":  # which was told
                told = why_of(refused.status, "")
                self._tell(asked.call_id, "join-failed", refused.status, refused.text, told)
            if (send := self._send(worker)) is not None:
                send(control.encode(control.JoinRefused(asked.call_id, refused.status)))

    async def _ticket(self, target: Target, caller: bytes, trunk: str, worker: str = "") -> Ticket | None:
        """A worker may have had an INVITE just now: there is a least time between two of some."""
        deadline_s = time.monotonic() + PLACE_S
        while (ticket := self._edge.issue(target, caller, trunk, worker)) is None:
            room = self._edge.room_at(worker) if worker else self._edge.room
            if room <= 0 or time.monotonic() >= deadline_s:
                return None
            await asyncio.sleep(PLACE_AGAIN_S)
        return ticket

    def _not_placed(self, permit: str) -> None:
        if self.limits is not None:
            self.limits.not_placed(permit)
        if self.spending is not None:
            self.spending.give(permit)

    def _dialled(self, worker: str, wish: OutboundCall, permit: str, call_id: str) -> None:
        """Known before the next message about this call."""
        self._wishes[call_id] = (worker, wish)
        if self.limits is not None:
            self.limits.placed(wish, permit, call_id)
        if self.spending is not None:
            self.spending.placed(permit, name_of_telephone_call(call_id))
        self._tell(call_id, "dialled")

    def _trunk(self, name: str) -> Trunk:
        trunk = self._trunks.get(name)
        if trunk is None:
            raise Refused(404, "no-such-trunk", f"{name[:64]!r} is not among the trunks")
        if not trunk.server:
            raise Refused(403, "not-allowed", f"trunk {name} has no server: calls only come from it")
        return trunk

    def _find(self, call: str) -> tuple[str, str]:
        found = self._edge.find(call)
        if found is None:
            raise Refused(404, "no-such-call", "no telephone call of that name lives here")
        return found

    def _tell(
        self, call_id: str, kind: Kind, status: int = 0, reason: str = "", why: Why | Literal[""] = "",
        target: str = "", person: str = "",
    ) -> None:  # fmt: skip
        event = CallEvent(name_of_telephone_call(call_id), kind, status, reason, why, target, person)
        for watcher in self.watchers:
            watcher(event)
