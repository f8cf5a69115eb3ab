"""Callers whom a SIP worker hands to a person: a REFER of ours (RFC 3515), and what the peer tells of it.

ask    the model's wish: the main process knows whom it may name
refer  the main process's: REFER to the peer, which is waited for for a while
said   the peer takes it, or has its last word; the call ends, or goes on with the model, which is told
"""

from __future__ import annotations

import asyncio

import structlog

from gateway import control
from gateway.sip.joining import headers_of
from gateway.sip.main_line import Tell, answer, progress
from gateway.sip.session import Counters, Session

log = structlog.get_logger()

REFER_S = 90.0
"""Whom we asked the peer to call may take so long, and so may the peer to tell."""
DESK_S = 5.0
"""The main process says whom the model's transfer is to within milliseconds."""


class Handovers:
    """Of one worker."""

    def __init__(self, counters: Counters, tell: Tell, *, shows_words: bool) -> None:
        """`shows_words`: whoever gets the caller is given the end of what was said, in a header."""
        self._counters, self._tell, self._shows_words = counters, tell, shows_words
        self._begun = 0

    def ask(self, session: Session, target: str) -> None:
        """The model's wish; the main process knows the targets."""
        if session.referring or not session.call.connected:
            session.leg.receive_event("transfer failed 491")
            return
        self._begin(session, DESK_S, 503)
        self._tell(control.TransferAsked(session.call.sip_call_id, target))

    def refer(self, session: Session | None, message: control.Refer) -> None:
        """The main process's wish."""
        if session is None:
            answer(self._tell, message.id, 404, "no such call")
            return
        if not message.id:  # the model asked
            session.referring = 0
        if session.referring or not session.call.connected or session.call.over:
            told = "not now: a transfer is under way, or nobody has answered"
            answer(self._tell, message.id, 409, told)
            return
        if not message.uri:
            session.leg.receive_event("transfer failed 404")
            return
        headers = headers_of(session, message.reference, self._shows_words)
        self._begin(session, REFER_S, 408)
        if not session.call.refer(message.uri, headers):
            session.referring = 0
            session.leg.receive_event("transfer failed 500")
            answer(self._tell, message.id, 409, "the library does not refer")
            return
        log.info("handing over", call=session.name)
        answer(self._tell, message.id, 200)

    def said(self, session: Session, status: int, reason: str, final: bool) -> None:
        """The peer takes our REFER, or has its last word about it."""
        if not session.referring:
            return
        if final or status >= 300:
            self._over(session, status, reason)
        else:
            session.refer_accepted = True

    def caller_left(self, session: Session) -> None:
        """The call is over while a handover may be under way."""
        if session.referring and session.refer_accepted and not session.hung_up:
            self._over(session, 200, "OK")  # a peer that goes has taken the caller along (RFC 5589 6.1)
        elif session.referring:
            self._over(session, 487, "Call Ended")

    def _begin(self, session: Session, seconds: float, status: int) -> None:
        self._begun += 1
        session.referring, session.refer_accepted = self._begun, False
        asyncio.get_running_loop().call_later(seconds, self._stop, session, session.referring, status)

    def _stop(self, session: Session, number: int, status: int) -> None:
        if session.referring == number and not session.is_over:
            self._over(session, status, "Request Timeout")

    def _over(self, session: Session, status: int, reason: str) -> None:
        session.referring = 0
        if 200 <= status < 300:
            self._counters.handed_over += 1
            progress(self._tell, session, "transferred", status, reason)
            if not session.call.over:  # after the library's answer to the NOTIFY
                asyncio.get_running_loop().call_soon(session.hang_up, "handed-over")
            return
        self._counters.handovers_failed += 1
        log.info("not handed over", call=session.name, status=status)
        session.leg.receive_event(f"transfer failed {status}")
        progress(self._tell, session, "transfer-failed", status, reason)
