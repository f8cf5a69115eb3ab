"""Call detail records of all gateways, as Redis has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from gateway.api.problem import Problem
from gateway.api.v1 import shapes
from gateway.api.v1.paging import cursor_of, place_of
from gateway.api.v1.surface import Asked, no_state
from gateway.state import records

if TYPE_CHECKING:
    from gateway.state.sessions import Sessions

R = TypeVar("R", records.Cdr, records.Session)


class Cdrs:
    """Without sessions there are none."""

    def __init__(self, sessions: Sessions | None) -> None:
        self._sessions = sessions

    async def page(self, asked: Asked) -> shapes.CdrPage:
        """By when the calls ended; records that are gone meanwhile are left out."""
        if self._sessions is None:
            raise no_state()
        query: shapes.CdrsAsked = asked.query
        store = self._sessions.store
        after, most = place_of(query.cursor), query.limit + 1
        ended = await store.index.page(
            asked.holder.tenant, query.since_ms, query.until_ms, query.order, after, most
        )
        found = None if ended is None else await store.cdrs(
            [(one.call, one.began_ms) for one in ended[: query.limit]]
        )  # fmt: skip
        if ended is None or found is None:
            raise Problem(503, "not-ready", "the state of calls is away", {"Retry-After": "2"})
        given = []
        for data, kept in found:
            cdr, session = _decoded(records.Cdr, data), _decoded(records.Session, kept)
            if cdr is None or not cdr.ended_ms or not asked.sees(cdr.tenant):
                continue
            is_its = session is not None and session.began_ms == cdr.began_ms
            given.append(record_of(cdr, session if is_its else None))
        more = len(ended) > query.limit
        return shapes.CdrPage(given, cursor_of(ended[query.limit - 1]) if more else "")


def record_of(cdr: records.Cdr, session: records.Session | None) -> shapes.CallRecord:
    """As it is given; who called is known as long as the session is kept."""
    given = msgspec.convert(cdr, shapes.CallRecord, from_attributes=True)
    if session is None:
        return given
    return msgspec.structs.replace(given, caller=session.caller, number=session.number, called=session.called)


def _decoded(what: type[R], data: bytes | None) -> R | None:
    try:
        return records.decode(what, data or b"")
    except msgspec.DecodeError:
        return None
