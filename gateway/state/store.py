"""State of this gateway's calls. Whoever has something to keep never waits and never fails.

    begin, put_*, say, end -> buffer -> one batch a call -> client -> the script of `lease`
                                ^                             |
                                +------- not now: again ------+

What a call may not have is refused and counted: too large, too many, of a call that is none of ours. Logs and
counters say how many, and name calls by their own names: nothing of what a caller said, was or dialled.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from gateway.histogram import Histogram
from gateway.state import keys, records
from gateway.state.buffer import Buffer, Rank
from gateway.state.client import Kept
from gateway.state.delivery import Delivery, Server, StateCounters, Times
from gateway.state.faults import Away, Rejected
from gateway.state.index import CdrIndex
from gateway.state.lease import Write
from gateway.state.owned import Owned

SETTLE_POLL_S: Final = 0.005
_PLACES: dict[records.Speaker, int] = {"caller": 1, "model": 1_001}
"""Of a first piece within its turn; the others follow it."""


class Store:
    """Its `run` is to run; everything else but `read` and `close` returns at once. Belongs to one event loop.

    `connect` is called once, in `run`. State of a call that is over stays for `keep_s`.
    """

    def __init__(
        self,
        connect: Callable[[], Server],
        keep_s: int,
        times: Times | None = None,
        buffer: Buffer | None = None,
        namespace: str = "microturn",
        most_keep_s: int = 0,
    ) -> None:
        """`most_keep_s` is of the calls that stay longest; 0 is `keep_s`."""
        self.index = CdrIndex(self.script, namespace, max(keep_s, most_keep_s))
        """Of calls that are over, for lists."""
        self.namespace = namespace
        self._keep_s, self._times = keep_s, times if times is not None else Times()
        self._buffer = buffer if buffer is not None else Buffer()
        self._owned: dict[str, Owned] = {}
        self._delivery = Delivery(connect, self._buffer, self._owned, self._times)

    # -- the life of a call

    def begin(self, call: str) -> None:
        """A new call, which nobody else may have. Of an earlier one of its name only the CDR stays."""
        self._own(call, is_new=True)

    def adopt(self, call: str) -> None:
        """A call that lived on while this gateway was away."""
        self._own(call, is_new=False)

    def end(self, call: str, keep_s: int | None = None) -> None:
        """It is over; what was put before goes first. What there is of it stays for `keep_s`, or the store's."""
        self._leave(call, self._keep_s if keep_s is None else keep_s)

    def release(self, call: str) -> None:
        """Another gateway may have it from here on."""
        self._leave(call, self._times.live_s)

    def owns(self, call: str) -> bool:
        """Whether nobody else has it, as the server's last answer said."""
        owned = self._owned.get(call)
        return owned is not None and not owned.is_lost and bool(owned.token)

    # -- what is known of it; False when it was refused or had no room

    def put_session(self, call: str, session: records.Session) -> bool:
        """The newest one counts."""
        return self._put(call, Rank.STATE, Write("set", "session", records.encode(session)))

    def put_leg(self, call: str, leg: records.Leg) -> bool:
        """A leg, new or changed."""
        write = Write("field", "legs", records.encode(leg), str(leg.number), keys.MOST_LEGS)
        return self._put(call, Rank.STATE, write)

    def put_task(self, call: str, task: records.Task) -> bool:
        """A task, new or changed."""
        write = Write("field", "tasks", records.encode(task), task.key, keys.MOST_TASKS)
        return self._put(call, Rank.STATE, write)

    def put_heard(self, call: str, heard: records.Heard) -> bool:
        """The newest one counts."""
        return self._put(call, Rank.DETAIL, Write("set", "heard", records.encode(heard)))

    def put_cdr(self, call: str, cdr: records.Cdr) -> bool:
        """The call detail record, in the making or done."""
        write = Write("field", "cdr", records.encode(cdr), str(cdr.began_ms), keys.MOST_CDRS)
        return self._put(call, Rank.RECORD, write)

    def say(self, call: str, line: records.Line) -> bool:
        """A line of the transcript: turn by turn, and the caller's before the model's."""
        entry = f"{line.turn}-{_PLACES[line.speaker] + line.piece}"
        write = Write("line", "transcript", records.encode(line), entry, keys.MOST_LINES)
        return self._put(call, Rank.DETAIL, write)

    # -- what it costs and shows

    @property
    def counters(self) -> StateCounters:
        """Live; read only."""
        counters = self._delivery.counters
        counters.dropped = self._buffer.dropped + self.index.dropped
        return counters

    @property
    def round_trip(self) -> Histogram:
        """Of the requests that were answered; read only."""
        return self._delivery.round_trip

    def gauges(self) -> dict[str, float]:
        """Of now."""
        held = sum(1 for owned in self._owned.values() if owned.token and not owned.is_lost)
        return {
            "state_buffered": float(len(self._buffer)),
            "state_buffered_bytes": float(self._buffer.bytes),
            "state_connected": float(self._delivery.is_connected),
            "state_leases": float(held),
        }

    async def read(self, call: str, most_lines: int = keys.MOST_LINES) -> Kept | None:
        """What the server has of any call, ours or not; None when it does not answer."""
        if self._delivery.server is None:
            return None
        try:
            return await self._delivery.server.read(call, most_lines)
        except Away:
            return None

    async def cdrs(self, places: Sequence[tuple[str, int]]) -> list[tuple[bytes | None, bytes | None]] | None:
        """Record and session of calls by name and begin (Unix ms), None for what is gone; None without answer."""
        if self._delivery.server is None:
            return None
        try:
            return await self._delivery.server.cdrs(places)
        except Away:
            return None

    async def owner(self, call: str) -> str | None:
        """The gateway that has the lease; "" when none has, None when the server does not answer."""
        if self._delivery.server is None:
            return None
        try:
            return await self._delivery.server.owner(call)
        except Away:
            return None

    async def script(self, text: str, names: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        """The answer of a script over keys of one slot; None when the server does not answer, or not to us."""
        if self._delivery.server is None:
            return None
        try:
            return await self._delivery.server.script(text, names, arguments)
        except (Away, Rejected):
            return None

    async def settled(self, call: str, patience_s: float) -> bool:
        """Wait until it is ours or another's, for so long at most; whether it is ours."""
        deadline_s = time.monotonic() + patience_s
        while time.monotonic() < deadline_s:
            owned = self._owned.get(call)
            if owned is None or owned.is_lost or owned.token:
                break
            await asyncio.sleep(SETTLE_POLL_S)
        return self.owns(call)

    async def run(self) -> None:
        """Deliver, until cancelled."""
        indexing = asyncio.create_task(self.index.run())
        try:
            await self._delivery.run()
        finally:
            self.index.close()
            indexing.cancel()

    async def close(self, patience_s: float = 1.0) -> None:
        """End `run` and deliver what is left, for so long at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self.index.flush()
        await self._delivery.close(patience_s)

    # -- inside

    def _own(self, call: str, *, is_new: bool) -> None:
        if not keys.is_name(call):
            self.counters.refused_unknown += 1
            return
        owned = self._owned[call] = Owned(call, is_new)
        self._hand_over(owned, Rank.RECORD, None)

    def _leave(self, call: str, leave_s: int) -> None:
        owned = self._owned.get(call)
        if owned is None or owned.leave_s is not None:
            return
        owned.leave_s = leave_s
        self._hand_over(owned, Rank.RECORD, None, is_last=True)

    def _put(self, call: str, rank: Rank, write: Write) -> bool:
        owned = self._owned.get(call)
        most = keys.MOST_LINE_BYTES if write.verb == "line" else keys.MOST_RECORD_BYTES
        if owned is None or owned.leave_s is not None:
            self.counters.refused_unknown += 1
            return False
        if len(write.value) > most or len(write.field) > keys.MOST_FIELD_BYTES:
            self.counters.refused_size += 1
            return False
        if owned.is_lost:
            self.counters.fencing_refusals += 1
            return False
        owned.remember(write)
        return self._hand_over(owned, rank, write)

    def _hand_over(self, owned: Owned, rank: Rank, write: Write | None, *, is_last: bool = False) -> bool:
        had_room = self._buffer.put(owned, rank, write, is_last=is_last)
        self._delivery.wake.set()
        return had_room
