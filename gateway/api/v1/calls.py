"""Calls: those of this gateway are known here, those of others are asked for there.

A list asks every gateway that is alive and joins what they say; a command goes to the gateway whose lease it is, as
a browser's request does (`cluster/homes.py`), and there to the worker that has the call (`intercom.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from gateway import control
from gateway.api.forward import HOP
from gateway.api.problem import Problem
from gateway.api.v1 import shapes
from gateway.api.v1.paging import Place, cursor_of, place_of
from gateway.api.v1.surface import Asked, gone, no_state
from gateway.cluster.node import Node
from gateway.further_engines import check_engine
from gateway.personas import check_persona
from gateway.reading import reader
from gateway.sip.outbound import OutboundCall, Refused
from gateway.state import records
from media.timebase import MODEL_HZ

if TYPE_CHECKING:
    from gateway.cluster.member import Cluster
    from gateway.intercom import Intercom
    from gateway.recording.desk import RecordingDesk
    from gateway.sip.switchboard import Switchboard
    from gateway.sip.trunks import Trunk
    from gateway.state.client import Kept
    from gateway.state.sessions import Sessions

Placing = Callable[[str, str, str], None]
_decode_page = reader(msgspec.json.Decoder(shapes.CallPage).decode)


class Calls:
    """Of one main process; without sessions nothing is known of any call."""

    def __init__(
        self,
        sessions: Sessions | None,
        intercom: Intercom,
        cluster: Cluster | None,
        switchboard: Switchboard | None = None,
        trunks: Mapping[str, Trunk] | None = None,
        node: str = "",
        placing: Placing = lambda call, tenant, traceparent: None,
        recordings: RecordingDesk | None = None,
    ) -> None:
        """Without a switchboard no call is made, or handed to anybody; `placing` is told of calls, tenants and the
        trace contexts of requests."""
        self._sessions, self._intercom, self._cluster = sessions, intercom, cluster
        self._switchboard, self._trunks, self._node = switchboard, trunks or {}, node
        self._placing, self._recordings = placing, recordings

    # -- what there is

    async def page(self, asked: Asked) -> shapes.CallPage:
        """Of all gateways; from another one asked for its own alone."""
        if self._sessions is None:
            raise no_state()
        query: shapes.CallsAsked = asked.query
        after = place_of(query.cursor)
        found = [
            _call(session)
            for session in self._sessions
            if asked.sees(session.tenant) and query.door in ("", session.door)
        ]
        found = [call for call in found if after is None or _place(call) > after]
        silent: list[str] = []
        if self._cluster is not None and HOP not in asked.request.headers:
            for node, page in await self._ask_others(asked):
                if page is None:
                    silent.append(node)
                else:
                    found += page.calls
        found.sort(key=_place)
        more = len(found) > query.limit
        found = found[: query.limit]
        return shapes.CallPage(found, cursor_of(_place(found[-1])) if more else "", sorted(silent))

    async def _ask_others(self, asked: Asked) -> list[tuple[str, shapes.CallPage | None]]:
        assert self._cluster is not None
        nodes = self._cluster.reachable()
        pages = await asyncio.gather(*(self._ask(node, asked) for node in nodes))
        return [(node.node, page) for node, page in zip(nodes, pages, strict=True)]

    async def _ask(self, node: Node, asked: Asked) -> shapes.CallPage | None:
        """None when it does not answer, or not with a list."""
        assert self._cluster is not None
        try:
            answer = await self._cluster.forward.ask(node, asked.request, number=asked.number)
            return _decode_page(answer.body or b"") if answer.status == 200 else None  # type: ignore[arg-type]
        except (Problem, msgspec.DecodeError):
            return None

    async def get(self, asked: Asked) -> shapes.Call:
        """One that lives here, or what is kept of one."""
        live = self._sessions.find(asked.call) if self._sessions is not None else None
        session = live or (await self._kept(asked, 1))[0]
        if not asked.sees(session.tenant):
            raise gone()
        return _call(session)

    async def transcript(self, asked: Asked) -> shapes.Transcript:
        """Of a call that lives, up to a second or two ago, or of one that is over."""
        limit = asked.query.limit
        session, kept = await self._kept(asked, limit + 1)
        if not asked.sees(session.tenant):
            raise gone()
        lines = []
        for data in kept.lines[-limit:]:
            with contextlib.suppress(msgspec.DecodeError):
                line = records.decode(records.Line, data)
                heard_ms = 1_000 * line.played_samples // MODEL_HZ
                lines.append(shapes.SaidLine(line.turn, line.speaker, line.text, heard_ms))
        return shapes.Transcript(asked.call, lines, len(kept.lines) > limit)

    async def _kept(self, asked: Asked, lines: int) -> tuple[records.Session, Kept]:
        """What Redis has of it; `Problem` when that is nothing, or nobody answers."""
        if self._sessions is None:
            raise no_state()
        kept = await self._sessions.store.read(asked.call, lines)
        if kept is None:
            raise Problem(503, "not-ready", "the state of calls is away", {"Retry-After": "2"})
        try:
            return records.decode(records.Session, kept.session or b""), kept
        except msgspec.DecodeError:
            raise gone() from None

    async def elsewhere(self, asked: Asked) -> web.Response | None:
        """The answer of the gateway that has the call, where that is another one."""
        if self._cluster is None or self._sessions is None or HOP in asked.request.headers:
            return None
        if asked.call in self._sessions:
            return None
        node = await self._cluster.home_of(asked.call)
        return (
            await self._cluster.forward.ask(node, asked.request, asked.text, asked.number)
            if node is not None
            else None
        )

    # -- what becomes of them

    async def hang_up(self, asked: Asked) -> None:
        """One that nobody has answered yet, too."""
        if self._rings(asked):
            assert self._switchboard is not None
            try:
                await self._switchboard.hang_up(asked.call)
            except Refused as wrong:
                raise _refused(wrong) from None
        else:
            await self._tell(asked, "hang-up")

    def _rings(self, asked: Asked) -> bool:
        """Whether it is a call of the holder's that we began and that is no session yet."""
        if self._switchboard is None or (self._sessions is not None and asked.call in self._sessions):
            return False
        wish = self._switchboard.placed(asked.call)
        trunk = self._trunks.get(wish.trunk) if wish is not None else None
        return wish is not None and asked.sees(wish.tenant or (trunk.tenant if trunk is not None else ""))

    async def send_text(self, asked: Asked) -> None:
        if len(asked.body.text.encode(errors="replace")) > shapes.MOST_TEXT_LETTERS:
            told = f"more than {shapes.MOST_TEXT_LETTERS} bytes of UTF-8: a turn takes no more"
            raise Problem(422, "wrong-value", told)
        await self._tell(asked, "text", asked.body.text)

    async def send_digits(self, asked: Asked) -> None:
        await self._tell(asked, "digits", asked.body.digits)

    async def mute(self, asked: Asked) -> None:
        await self._tell(asked, "mute-caller" if asked.body.who == "caller" else "mute-model")

    async def unmute(self, asked: Asked) -> None:
        await self._tell(asked, "unmute-caller" if asked.body.who == "caller" else "unmute-model")

    async def originate(self, asked: Asked) -> shapes.Placed:
        """By a trunk that the holder may use."""
        wish: shapes.CallWish = asked.body
        switchboard, trunk = self._way_out(asked, wish.trunk)
        try:
            if wish.persona:
                check_persona(wish.persona, "persona")
            check_engine(wish.engine, switchboard.engines, "engine")
        except ValueError as wrong:
            raise Problem(422, "wrong-value", str(wrong)) from None
        out = OutboundCall(
            wish.to, wish.trunk, wish.caller_id, wish.caller_name, wish.persona, asked.holder.tenant,
            float(wish.ring_s), float(wish.answer_s), wish.recording,
            float(wish.minutes), engine=wish.engine,
        )  # fmt: skip
        try:
            call = await switchboard.originate(out)
        except Refused as wrong:
            raise _refused(wrong) from None
        self._placing(call, asked.holder.tenant or trunk.tenant, asked.traceparent)
        return shapes.Placed(call, self._node)

    async def transfer(self, asked: Asked) -> None:
        """A telephone's caller alone: a browser has nowhere to go."""
        switchboard = self._telephone(asked, "a browser's call cannot be handed to anybody")
        wish: shapes.TransferWish = asked.body
        if bool(wish.target) == bool(wish.call):
            raise Problem(422, "wrong-value", "the body: give target or call, one of the two")
        other = self._sessions.find(wish.call) if wish.call and self._sessions is not None else None
        if wish.call and (other is None or not asked.sees(other.tenant)):
            raise Problem(404, "no-such-target", "the other call is not there")
        try:
            if other is not None:
                await switchboard.transfer_to_call(asked.call, other.call)
            else:
                await switchboard.transfer(asked.call, wish.target)
        except Refused as wrong:
            raise _refused(wrong) from None

    async def join(self, asked: Asked) -> shapes.Placed:
        """As `originate`, of a telephone's call alone: a browser's is in a process that calls nobody."""
        self._telephone(asked, "nobody can join a browser's call")
        wish: shapes.JoinWish = asked.body
        switchboard, trunk = self._way_out(asked, wish.trunk)
        tenant = self._own(asked).tenant or trunk.tenant  # the person's call is theirs whose call it joins
        out = OutboundCall(
            wish.to, wish.trunk, wish.caller_id, wish.caller_name, tenant=tenant,
            ring_s=float(wish.ring_s), answer_s=float(wish.answer_s), minutes=float(wish.minutes),
            model=wish.model,
        )  # fmt: skip
        try:
            call = await switchboard.join(asked.call, out)
        except Refused as wrong:
            raise _refused(wrong) from None
        self._placing(call, tenant, asked.traceparent)
        return shapes.Placed(call, self._node)

    async def leave(self, asked: Asked) -> None:
        """The caller goes on with the model."""
        switchboard = self._telephone(asked, "nobody can have joined a browser's call")
        try:
            await switchboard.leave(asked.call)
        except Refused as wrong:
            raise _refused(wrong) from None

    async def recording(self, asked: Asked) -> shapes.Recording:
        """Whether it is recorded now."""
        self._own(asked)
        found = self._recordings.find(asked.call) if self._recordings is not None else None
        if found is None:
            return shapes.Recording(asked.call, False, "off")
        return shapes.Recording(asked.call, True, found.state, found.file)

    async def record(self, asked: Asked) -> shapes.Recording:
        """Where a rule allows it alone, and after the announcement."""
        self._own(asked)
        if self._recordings is None or self._recordings.find(asked.call) is None:
            raise Problem(403, "not-recorded", "no rule allows that this call is recorded")
        wish: shapes.RecordingWish = asked.body
        await self._tell(asked, "record", wish.action)
        return await self.recording(asked)

    # -- inside

    def _way_out(self, asked: Asked, name: str) -> tuple[Switchboard, Trunk]:
        """Of calls of ours; `Problem` unless the holder may use that trunk."""
        trunk = self._trunks.get(name)
        if self._switchboard is None or trunk is None or not asked.sees(trunk.tenant):
            raise Problem(404, "no-such-trunk", f"{name!r} is not among the trunks")
        return self._switchboard, trunk

    def _telephone(self, asked: Asked, told: str) -> Switchboard:
        """`Problem` unless it lives here, is the holder's and a telephone's."""
        session = self._own(asked)
        if session.door != "sip" or self._switchboard is None:
            raise Problem(409, "no-telephone", told)
        return self._switchboard

    async def _tell(self, asked: Asked, do: control.Do, value: str = "") -> None:
        self._own(asked)
        done = await self._intercom.tell(asked.call, do, value)
        if done.status == 404:
            raise gone()
        if done.status >= 400:
            headers = {"Retry-After": "1"} if done.status == 503 else {}
            raise Problem(done.status, done.code, done.reason, headers)

    def _own(self, asked: Asked) -> records.Session:
        """`Problem` unless it lives here and is the holder's."""
        if self._sessions is None:
            raise no_state()
        session = self._sessions.find(asked.call)
        if session is None or not asked.sees(session.tenant):
            raise gone()
        return session


def _refused(wrong: Refused) -> Problem:
    headers = {"Retry-After": "2"} if wrong.status == 503 else {}
    status = wrong.status if wrong.status in (400, 402, 403, 404, 409, 503, 504) else 409
    return Problem(status, wrong.code, wrong.text, headers)


def _place(call: shapes.Call) -> Place:
    return call.began_ms, call.id


def _call(session: records.Session) -> shapes.Call:
    return shapes.Call(
        session.call, session.door, "over" if session.ended_ms else "live", session.node, session.began_ms,
        session.persona, session.called, session.tenant, session.trunk, session.caller, session.number,
        session.recording, session.placed, session.ended_ms, session.attestation, session.joined,
        session.engine,
    )  # fmt: skip
