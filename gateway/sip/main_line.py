"""What a SIP worker tells the main process of its requests, and of calls that somebody else is told of."""

from __future__ import annotations

from collections.abc import Callable

from gateway import control
from gateway.sip.session import Session

Tell = Callable[[control.WorkerMessage], None]


def answer(tell: Tell, number: int, status: int, reason: str = "", call: str = "") -> None:
    """The request of that number; 0 is of nobody who waits."""
    if number:
        tell(control.Answered(number, status, reason=reason, call=call))


def progress(tell: Tell, session: Session, kind: control.ProgressKind, status: int, reason: str) -> None:
    """What became of a call of ours, or of a caller who is handed on."""
    tell(control.Progress(session.call.sip_call_id or session.name, kind, status, reason[:120]))
