"""What was said until a caller is handed to a person, or a person joins him: one event with the transcript, for a
screen that shows it before anybody says hello.

The transcript is Redis's. Where nobody answers for `PATIENCE_S` the event is told without it, and says so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

import msgspec
import structlog

from gateway.events.desk import EventDesk
from gateway.sip.call_events import CallEvent
from gateway.state.records import Line, Session, decode
from gateway.state.sessions import Sessions

log = structlog.get_logger()

TOLD: Final = ("transferring", "joined")
MOST_WAITING: Final = 256
MOST_LINES: Final = 1_000
MOST_BYTES: Final = 48_000
"""Of the lines, as JSON: an event has 64 KiB at most."""
PATIENCE_S, AGAIN_S = 2.0, 0.1


class Handovers:
    """Of one gateway. Its `run` is to run; `begin` returns at once."""

    def __init__(self, desk: EventDesk, sessions: Sessions) -> None:
        self._desk, self._sessions = desk, sessions
        self._waiting: deque[tuple[Session, CallEvent, str]] = deque()
        self._wake = asyncio.Event()

    def begin(self, session: Session, event: CallEvent, what: str) -> None:
        """The caller of that call is being handed to somebody, or somebody has joined; `what` tells it from others
        of the call. Where too many wait it is told at once, without a transcript."""
        if len(self._waiting) >= MOST_WAITING:
            self._tell(session, event, what, None)
            return
        self._waiting.append((session, event, what))
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled; one after another."""
        while True:
            self._wake.clear()
            while self._waiting:
                lines = await self._lines(self._waiting[0][0].call)
                self._tell(*self._waiting.popleft(), lines)
            await self._wake.wait()

    def close(self) -> None:
        """`run` is over: what waits is told as it is."""
        while self._waiting:
            self._tell(*self._waiting.popleft(), None)

    async def _lines(self, call: str) -> list[bytes] | None:
        """Oldest first; None where nobody answers."""
        store = self._sessions.store
        for _ in range(round(PATIENCE_S / AGAIN_S)):
            if not store.gauges()["state_buffered"]:  # the newest line is there, too
                kept = await store.read(call, MOST_LINES)
                if kept is not None:
                    return kept.lines
            await asyncio.sleep(AGAIN_S)
        kept = await store.read(call, MOST_LINES)
        return kept.lines if kept is not None else None

    def _tell(self, session: Session, event: CallEvent, what: str, lines: list[bytes] | None) -> None:
        data: dict[str, Any] = {"target": event.target} if event.target else {"person": event.person}
        if lines is None:
            log.warning("a caller is handed on without a transcript: nobody answers", call=session.call)
            data["unknown"] = True
        else:
            data |= _newest(lines)
        self._desk.noted(session, "call.handover", data, what)


def _newest(lines: list[bytes]) -> dict[str, Any]:
    """What there is room for, oldest first; `more` where older lines are left out."""
    told: list[dict[str, Any]] = []
    size = 0
    for packed in reversed(lines):
        try:
            line = decode(Line, packed)
        except msgspec.DecodeError:
            continue
        shown = {"turn": line.turn, "speaker": line.speaker, "text": line.text}
        size += len(msgspec.json.encode(shown)) + 1
        if size > MOST_BYTES:
            break
        told.append(shown)
    more = len(told) < len(lines) or len(lines) >= MOST_LINES
    return {"lines": told[::-1]} | ({"more": True} if more else {})
