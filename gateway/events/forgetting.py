"""What `microturn forget` asks for reaches the events of this gateway: those that wait on disk lose who called and
what was said, and those that are still to come of a call that lives.

It is read from Redis (`gateway/state/forgotten.py`) every `LOOK_S`. Calls are known by name; those whose session
Redis has no more are found by the caller's pseudonym, in what waits. Segments are read and written in a thread.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

import msgspec
import structlog

from gateway.events.desk import EventDesk
from gateway.events.feed import Script
from gateway.events.records import decode, encode, redacted
from gateway.events.spool import Spool
from gateway.state import forgotten

log = structlog.get_logger()

LOOK_S: Final = 5.0
_CALL: Final = re.compile(rb'"call":"([^"\\]*)"')
"""The first in an event is its own."""


class Forgetting:
    """Of one gateway. Its `run` is to run; `script` is `state.store.Store.script`."""

    def __init__(self, desk: EventDesk, script: Script, namespace: str) -> None:
        self._desk, self._script, self._key = desk, script, forgotten.key(namespace)
        self._since_ms, self._done = 0, set[str]()
        """Of what was asked in that millisecond, what is done."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Do what was asked since the last time; what fails is tried again."""
        told = await self._script(forgotten.ASKED, [self._key], [self._since_ms])
        if told is None:
            return
        asked = {who.decode(): int(float(when)) for who, when in zip(told[::2], told[1::2], strict=True)}
        fresh = {who for who, when in asked.items() if when > self._since_ms or who not in self._done}
        if not fresh:
            return
        callers = {who.removeprefix(forgotten.CALLER) for who in fresh if who.startswith(forgotten.CALLER)}
        calls = {who for who in fresh if not who.startswith(forgotten.CALLER)}
        try:
            await self._forget(calls, callers)
        except OSError as wrong:
            log.error("events of a forgotten caller still wait as they were", reason=wrong.strerror)
            return
        newest = max(asked.values())
        self._done = {who for who, when in asked.items() if when == newest}
        self._since_ms = newest

    async def _forget(self, calls: set[str], callers: set[str]) -> None:
        desk, spool = self._desk, self._desk.spool
        desk.forget(calls | {session.call for session in desk.open_calls.calls if session.caller in callers})
        if spool is None:
            return
        segments = spool.seal()
        if callers:
            for segment in segments:
                calls |= await asyncio.to_thread(_calls_of, spool, segment, callers)
            desk.forget(calls)
        count = 0
        for segment in segments:
            changed = await asyncio.to_thread(spool.change, segment, lambda payload: _without(payload, calls))
            if changed:
                spool.swap(segment)
                count += changed
        if count:
            spool.counters.redacted += count
            desk.sync_soon()
            log.info("events of forgotten calls wait without words and callers", events=count)


def _calls_of(spool: Spool, segment: int, callers: set[str]) -> set[str]:
    """Names of the calls of these in a segment."""
    marks = [b'"caller":"%b"' % caller.encode() for caller in callers]
    found: set[str] = set()

    def look(payload: bytes) -> None:
        if any(mark in payload for mark in marks) and (call := _CALL.search(payload)) is not None:
            found.add(call[1].decode(errors="replace"))

    spool.change(segment, look)
    return found


def _without(payload: bytes, calls: set[str]) -> bytes | None:
    """An event of one of these calls as it may be told, as long as before; None for what may stay."""
    call = _CALL.search(payload)
    if call is None or call[1].decode(errors="replace") not in calls:
        return None
    try:
        event = decode(payload)
    except msgspec.DecodeError:
        return None  # nobody gets it either
    if event.data.get("forgotten"):
        return None
    told = encode(redacted(event))
    if len(told) > len(payload):  # it had nobody's name, and no words
        return None
    return told.ljust(len(payload))
