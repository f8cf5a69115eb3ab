"""Where a browser's call lives: here, at another gateway, or nowhere any more, so that it may go on here.

lease of a gateway that is alive ----> that one is asked for us (`gateway/api/forward.py`)
lease of a gateway that is gone -----> not yet: the lease runs out within seconds
no lease, the call was not ended ----> it goes on here, with what was said as context, if its token fits
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Literal

import msgspec

from gateway.cluster.node import Node
from gateway.cluster.registry import Registry
from gateway.state import records, tokens
from gateway.state.client import Kept
from gateway.state.keys import is_name
from gateway.state.sessions import Sessions, unix_ms
from gateway.webrtc.pool import WentOn
from media.timebase import TURN_MS

MOST_REMEMBERED: Final = 4096
CONTEXT_LINES: Final = 256
CONTEXT_BYTES: Final = 900
"""Of what was said before: it fits into one chunk (`media.chunk.MAX_TEXT_BYTES`)."""


class Homes:
    """Of one main process, which is the gateway `name` on the machine `host`."""

    def __init__(self, registry: Registry, sessions: Sessions, name: str, host: str) -> None:
        self._registry, self._sessions, self._name, self._host = registry, sessions, name, host
        self._remembered: OrderedDict[str, str] = OrderedDict()

    def remember(self, call: str, node: str) -> None:
        """Asked for its caller, that gateway has taken it: its lease may not be written yet."""
        self._remembered[call] = node
        if len(self._remembered) > MOST_REMEMBERED:
            self._remembered.popitem(last=False)

    async def of(self, call: str) -> Node | None:
        """The other gateway that has it, if one is alive that can be asked."""
        if not self._registry.others() or not is_name(call):
            return None
        owner = await self._sessions.store.owner(call) or self._remembered.get(call, "")
        return self._reachable(owner) if owner != self._name else None

    def roomiest(self, engine: str = "") -> Node | None:
        """Another gateway that would take a new browser call of that engine: the one with most room, then the
        quickest."""
        able = [
            n for n in self._registry.others() if n.room_for_browsers(engine) > 0 and self._reachable(n.node)
        ]
        return max(able, key=lambda n: (n.room_for_browsers(engine), -n.step_predicted_ns), default=None)

    async def go_on(
        self, token: str
    ) -> tuple[records.Session, WentOn] | Literal["gone", "not-yet", "unknown"]:
        """Take over a call whose gateway is dead: it is ours when its session is given.

        gone: it has ended, or the token is of another call. not-yet: its gateway may still be there.
        unknown: the server does not answer.
        """
        call = tokens.call_of(token)
        if not is_name(call):
            return "gone"
        kept = await self._sessions.store.read(call, CONTEXT_LINES)
        if kept is None:
            return "unknown"
        session = _session(kept)
        if session is None or session.ended_ms or not tokens.fits(token, session.resume):
            return "gone"
        if kept.lease is not None or not await self._sessions.take_over(kept, session):
            return "not-yet"
        return session, _what_was_said(kept, session)

    def _reachable(self, name: str) -> Node | None:
        found = self._registry.nodes.get(name)
        return found if found is not None and found.is_reachable_from(self._host) else None


def _session(kept: Kept) -> records.Session | None:
    try:
        return records.decode(records.Session, kept.session or b"")
    except msgspec.DecodeError:
        return None


def _what_was_said(kept: Kept, session: records.Session) -> WentOn:
    """`earlier caller: 3 plus 4; model: let me check`, its newest end, and the turn that comes next.

    Turns go on from where they would be by the clock: no line of the transcript comes before one that is there.
    """
    lines = []
    for data in kept.lines:
        try:
            lines.append(records.decode(records.Line, data))
        except msgspec.DecodeError:
            continue
    told, speaker = "", ""
    for line in lines:
        told += (
            f" {line.text.strip()}" if line.speaker == speaker else f"; {line.speaker}: {line.text.strip()}"
        )
        speaker = line.speaker
    newest = told.replace("\n", " ").removeprefix("; ").encode()[-CONTEXT_BYTES:].decode(errors="ignore")
    next_turn = max((line.turn for line in lines), default=-1) + 1
    elapsed = (unix_ms() - session.began_ms) // TURN_MS
    return WentOn(max(next_turn, elapsed, 0), f"earlier {newest}" if newest else "")
