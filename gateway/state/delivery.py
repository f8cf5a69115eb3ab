"""The way from the buffer to the server: rounds of batches, renewals, and the time while nobody answers.

When nobody answers, it is tried again ever more rarely, up to every `MOST_PAUSE_S`; said once, and once when the
server is back, with what was lost meanwhile. What waits is then sent in order, each call's under the token that it
had: what another gateway took over meanwhile is refused there, dropped here and counted. A server that comes back
empty is sent what we know of each live call anew; transcripts were there alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog

from gateway.histogram import ROUND_TRIP, Histogram
from gateway.state import keys
from gateway.state.buffer import Buffer, Waiting
from gateway.state.client import Kept
from gateway.state.faults import Away, Rejected
from gateway.state.lease import Batch, Outcome
from gateway.state.owned import Owned

log = structlog.get_logger()

MOST_AT_ONCE: Final = 512
"""Writes, or renewals, of one round trip."""
FIRST_PAUSE_S: Final = 0.05
MOST_PAUSE_S: Final = 2.0


@dataclass(slots=True)
class StateCounters:
    """Since the start of this process."""

    writes: int = 0
    """Records that are with the server."""
    dropped: int = 0
    """That had no room here while it was away."""
    refused_size: int = 0
    """Larger than its kind may be."""
    refused_unknown: int = 0
    """Of a call that is none of ours, or is over."""
    refused_full: int = 0
    """Whose call has all the legs or tasks that it may have."""
    fencing_refusals: int = 0
    """Of calls that another gateway has."""
    rejected: int = 0
    """That the server takes in no case."""
    leases_lost: int = 0
    forgotten: int = 0
    """Calls that the server knew nothing of any more, and was sent anew."""
    disconnects: int = 0
    reconnects: int = 0


@dataclass(frozen=True, slots=True)
class Times:
    """Of leases and of what a call leaves."""

    lease_ms: int = keys.LEASE_MS
    renew_ms: int = keys.RENEW_MS
    live_s: int = keys.LIVE_S


class Server(Protocol):
    """What is asked of `client.Client`."""

    async def ping(self) -> str: ...
    async def send(
        self, batches: Sequence[Batch], lease_ms: int, live_s: int
    ) -> list[Outcome | Away | Rejected]: ...
    async def read(self, call: str, most_lines: int) -> Kept: ...
    async def owner(self, call: str) -> str: ...
    async def cdrs(self, places: Sequence[tuple[str, int]]) -> list[tuple[bytes | None, bytes | None]]: ...
    async def script(
        self, text: str, names: Sequence[str], arguments: Sequence[str | bytes | int]
    ) -> Any: ...
    async def close(self) -> None: ...


@dataclass(slots=True)
class Parcel:
    """Writes of one call, in order, as they go to the server. Without any it renews the lease."""

    owned: Owned
    waiting: list[Waiting] = field(default_factory=list)

    def batch(self, *, again: bool = False) -> Batch:
        """What the server is asked."""
        writes = [waiting.write for waiting in self.waiting if waiting.write is not None]
        leaves = not self.waiting or self.waiting[-1].is_last
        pack = self.owned.batch_again if again else self.owned.batch
        return pack(writes, leaves=leaves)

    @property
    def records(self) -> int:
        """Writes without the marks of begin and end."""
        return sum(waiting.write is not None for waiting in self.waiting)


def rounds(taken: Iterable[Waiting]) -> list[list[Parcel]]:
    """One parcel for each call, in order; a second round for names that were used again."""
    parcels: dict[int, Parcel] = {}
    for waiting in taken:
        parcels.setdefault(id(waiting.owned), Parcel(waiting.owned)).waiting.append(waiting)
    found: list[dict[str, Parcel]] = []
    for parcel in parcels.values():
        place = next((names for names in found if parcel.owned.call not in names), None)
        if place is None:
            found.append(place := {})
        place[parcel.owned.call] = parcel
    return [list(names.values()) for names in found]


class Delivery:
    """Belongs to one event loop. `owned` is shared with the store: calls whose end is delivered leave it."""

    def __init__(
        self, connect: Callable[[], Server], buffer: Buffer, owned: dict[str, Owned], times: Times
    ) -> None:
        self.counters = StateCounters()
        self.round_trip = Histogram("state.round_trip", ROUND_TRIP)
        """Of requests that were answered, us."""
        self.server: Server | None = None
        self.is_connected = False
        self.wake = asyncio.Event()
        """Set when something was put into the buffer."""
        self._connect, self._buffer, self._owned, self._times = connect, buffer, owned, times
        self._told: set[str] = set()
        self._was_away = False
        self._dropped_before = 0
        self._running: asyncio.Task[None] | None = None
        self._closing = False

    async def run(self) -> None:
        """Until cancelled, or `close`."""
        self._running = asyncio.current_task()
        self.server = self._connect()
        loop, pause_s, renewed_s = asyncio.get_running_loop(), FIRST_PAUSE_S, 0.0
        while not self._closing:
            renewing = not self.is_connected or loop.time() - renewed_s >= self._times.renew_ms / 1e3
            try:
                await self._meet()
                await self._send_all(renewing)
            except Away as wrong:
                self._gone(wrong)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MOST_PAUSE_S)
                continue
            if renewing:
                renewed_s, pause_s = loop.time(), FIRST_PAUSE_S
            if self._closing:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, renewed_s + self._times.renew_ms / 1e3 - loop.time())):
                    await self.wake.wait()

    async def close(self, patience_s: float) -> None:
        """Ends `run`, then sends what is left, for so long at most."""
        if self.server is None or self._running is None:
            return
        self._closing = True  # Python 3.11's wait_for, which redis-py uses, may swallow the cancellation
        self._running.cancel()
        self.wake.set()
        await asyncio.wait([self._running], timeout=patience_s)
        try:
            async with asyncio.timeout(patience_s):
                await self._send_all(renewing=False)
        except (Away, TimeoutError):
            log.error("state lost at the end", writes=len(self._buffer))
        await self.server.close()

    async def _meet(self) -> None:
        if self.is_connected:
            return
        assert self.server is not None
        version = await self.server.ping()
        self.is_connected = True
        if not self._was_away:
            log.info("state is kept", server=version)
            return
        self._was_away = False
        self.counters.reconnects += 1
        lost = self._buffer.dropped - self._dropped_before
        tell = log.error if lost else log.info
        tell("Redis is back", server=version, writes_waiting=len(self._buffer), writes_lost=lost)

    def _gone(self, wrong: Away) -> None:
        self.is_connected = False
        if self._was_away:
            return
        self._was_away = True
        self._dropped_before = self._buffer.dropped
        self.counters.disconnects += 1
        log.warning("Redis is away: calls go on, their state waits here", reason=str(wrong))

    async def _send_all(self, renewing: bool) -> None:
        """Everything that waits; when renewing, the leases of all other calls too."""
        self.wake.clear()
        silent = set(self._owned.values()) if renewing else set()
        for _ in range(
            1 + self._buffer.waiting // MOST_AT_ONCE
        ):  # what comes meanwhile is not before renewals
            taken = self._buffer.take(MOST_AT_ONCE)
            left = {id(waiting): waiting for waiting in taken}
            try:
                for parcels in rounds(taken):
                    await self._deliver(parcels, left)
                    silent.difference_update(parcel.owned for parcel in parcels)
            finally:
                self._buffer.give_back(list(left.values()))
        renewals = [Parcel(owned) for owned in silent if not owned.is_lost]
        for start in range(0, len(renewals), MOST_AT_ONCE):
            await self._deliver(renewals[start : start + MOST_AT_ONCE], {})
        if renewing and not renewals:
            assert self.server is not None
            await self.server.ping()

    async def _deliver(self, parcels: list[Parcel], left: dict[int, Waiting]) -> None:
        """Takes what is settled out of `left`; `Away` when something has to go again."""
        away: Away | None = None
        mine = [parcel for parcel in parcels if not parcel.owned.is_lost]
        refused: list[tuple[Parcel, Outcome | Away | Rejected]] = [
            (parcel, Outcome("stale")) for parcel in parcels if parcel.owned.is_lost
        ]
        for parcel, outcome in [*refused, *zip(mine, await self._ask(mine), strict=True)]:
            if isinstance(outcome, Away):
                away = outcome
                continue
            self._settle(parcel, outcome)
            self._buffer.settle(parcel.waiting)
            for waiting in parcel.waiting:
                del left[id(waiting)]
        if away is not None:
            raise away

    async def _ask(self, parcels: list[Parcel]) -> list[Outcome | Away | Rejected]:
        assert self.server is not None
        lease_ms, live_s = self._times.lease_ms, self._times.live_s
        asked_ns = time.monotonic_ns()
        outcomes = await self.server.send([parcel.batch() for parcel in parcels], lease_ms, live_s)
        if parcels and not all(isinstance(outcome, Away) for outcome in outcomes):
            self.round_trip.observe((time.monotonic_ns() - asked_ns) // 1_000)
        forgotten = [
            place
            for place, outcome in enumerate(outcomes)
            if isinstance(outcome, Outcome) and outcome.verdict == "forgotten"
        ]
        anew = [parcels[place].batch(again=True) for place in forgotten]
        for place, outcome in zip(forgotten, await self.server.send(anew, lease_ms, live_s), strict=True):
            outcomes[place] = outcome
        self.counters.forgotten += len(forgotten)
        return outcomes

    def _settle(self, parcel: Parcel, outcome: Outcome | Rejected) -> None:
        counters, owned = self.counters, parcel.owned
        if isinstance(outcome, Rejected):
            counters.rejected += parcel.records
            self._tell_once(str(outcome))
        elif outcome.verdict == "held":
            owned.token = outcome.token
            counters.refused_full += outcome.full
            counters.writes += parcel.records - outcome.full
        else:
            counters.fencing_refusals += parcel.records
            self._lose(owned)
        left = not parcel.waiting or parcel.waiting[-1].is_last
        if left and owned.leave_s is not None and self._owned.get(owned.call) is owned:
            del self._owned[owned.call]

    def _lose(self, owned: Owned) -> None:
        if not owned.is_lost:
            owned.lose()
            self.counters.leases_lost += 1
            log.error("another gateway has this call: nothing more is written of it", call=owned.call)

    def _tell_once(self, error: str) -> None:
        if error not in self._told:
            self._told.add(error)
            log.error("Redis refuses what it is sent", error=error)
