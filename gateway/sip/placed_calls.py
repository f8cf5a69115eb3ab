"""Calls that a SIP worker places: from the main process's `Dial` to the answer, or to giving up.

What only the worker knows, its calls and whether it has room, is its business: `begin` makes the session.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from gateway import control
from gateway.engine_turns import EngineTurns
from gateway.sip.main_line import Tell, answer, progress
from gateway.sip.pj import Endpoint, SipCall
from gateway.sip.session import Counters, Session

log = structlog.get_logger()

Begin = Callable[[SipCall, control.Dial], Session]


class PlacedCalls:
    """Of one worker."""

    def __init__(
        self,
        endpoint: Endpoint,
        turns: EngineTurns,
        counters: Counters,
        tell: Tell,
        begin: Begin,
        has_room: Callable[[], bool],
        lives: Callable[[Session], bool],
    ) -> None:
        """`begin` makes a session of a call that was dialled, `lives` says whether one is not over."""
        self._endpoint, self._turns, self._counters, self._tell = endpoint, turns, counters, tell
        self._begin, self._has_room, self._lives = begin, has_room, lives
        self._allowed: dict[str, float] = {}
        """Call-ID -> seconds from its answer on, of calls that nobody has answered yet."""

    async def dial(self, dial: control.Dial) -> None:
        """The INVITE goes first, since the Call-ID is its library's; a slot is there long before anybody
        answers."""
        if not self._turns.is_attached(dial.engine) or not self._has_room():
            answer(self._tell, dial.id, 503, "no room")
            return
        try:
            account = self._endpoint.dialling_account(dial.srtp, dial.session_expires_s, sound6=dial.sound6)
        except ValueError as wrong:
            answer(self._tell, dial.id, 503, str(wrong))
            return
        call = SipCall(self._endpoint, account=account)
        call.rtp_source, call.sound6 = dial.rtp_source, dial.sound6
        if not call.place(dial.uri):
            self._endpoint.bury(call)
            answer(self._tell, dial.id, 500, "the library does not call")
            return
        session = self._begin(call, dial)
        if dial.most_s:
            self._allowed[session.name] = dial.most_s
        self._counters.calls_placed += 1
        answer(self._tell, dial.id, 200, call=session.name)
        loop = asyncio.get_running_loop()
        loop.call_later(dial.ring_s, self._no_ringing, session)
        loop.call_later(dial.answer_s, self._no_answer, session)
        if not await self._turns.lease(session) and not call.over:
            session.gave_up = session.gave_up or (503, "no room")
            session.hang_up()
        session.conversation.engine = self._turns.kind_of(session)

    def ringing(self, session: Session, status: int) -> None:
        """Whom we call is being called."""
        if not session.rang:
            session.rang = True
            progress(self._tell, session, "ringing", status, "")

    def answered(self, session: Session) -> None:
        """Whom we call is there."""
        self._counters.calls_answered += 1
        self._counters.placed_answered += 1
        log.info("call", call=session.name, placed=True)
        session.call.resume_media()
        session.leg.hold(session.call.held)
        session.heard_at_ns = time.monotonic_ns()
        progress(self._tell, session, "answered", 200, "OK")
        if (most_s := self._allowed.pop(session.name, 0.0)) > 0:
            asyncio.get_running_loop().call_later(most_s, self._spent, session)

    def unanswered(self, session: Session) -> None:
        """It is over, and nobody has answered."""
        self._counters.placed_failed += 1
        progress(self._tell, session, "failed", *(session.gave_up or session.call.final))

    def forget(self, session: Session) -> None:
        """It is over."""
        self._allowed.pop(session.name, None)

    def _no_ringing(self, session: Session) -> None:
        if not session.rang:
            self._give_up(session, 408, "no ringing")

    def _no_answer(self, session: Session) -> None:
        self._give_up(session, 408, "no answer")

    def _give_up(self, session: Session, status: int, reason: str) -> None:
        if session.call.over or session.call.connected or session.gave_up:
            return
        session.gave_up = (status, reason)
        session.hang_up("no-answer")

    def _spent(self, session: Session) -> None:
        """A call of ours that may be no longer."""
        if self._lives(session):
            log.info("call ended: it has lasted as long as it may", call=session.name)
            session.hang_up("limit")
