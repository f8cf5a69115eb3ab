"""Call detail records of all gateways, as Redis has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.api.problem import Problem
from gateway.api.v1 import shapes
from gateway.api.v1.paging import cursor_of, place_of
from gateway.api.v1.surface import Asked, no_state
from gateway.state import records

if TYPE_CHECKING:
    from gateway.state.sessions import Sessions


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
        for data in found:
            try:
                cdr = records.decode(records.Cdr, data or b"")
            except msgspec.DecodeError:
                continue
            if cdr.ended_ms and asked.sees(cdr.tenant):
                given.append(record_of(cdr))
        more = len(ended) > query.limit
        return shapes.CdrPage(given, cursor_of(ended[query.limit - 1]) if more else "")


def record_of(cdr: records.Cdr) -> shapes.CallRecord:
    """As it is given."""
    return msgspec.convert(cdr, shapes.CallRecord, from_attributes=True)
