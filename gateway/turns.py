"""The turns of one worker's calls: slots leased and left, chunks cut and published, replies handed out.

What SIP and WebRTC workers share. A worker puts a call in with `lease` and takes it out with `leave`; in
between this is the driving rule of its leg:

    before a phase group's tick   drain what came in, cut the legs that are whole, publish
    a little later                cut the others as they are: concealed, and said
    doorbell                      replies to their playouts

`gateway/cut_time.py` says how long before. When the model server goes, the calls live on without slots; when one is
back, each leases again. When it says that it leaves, they move to another one: `gateway/departure.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import structlog

from gateway.attachment import Attachment
from gateway.control import CallNotes
from gateway.cut_time import CutTime
from gateway.departure import Departure
from gateway.servers import Servers
from gateway.state.keys import kept_name
from gateway.turn_notes import TurnNotes
from media.chunk import MEMORY, Reply, VideoFrame
from media.leases import Lease, Leased, Refused
from media.leg import Leg, Tenancy
from media.slots import SlotTable
from media.timebase import NS_PER_S, TURN_NS, phase_offset_ns
from media.turn_log import TurnLog

log = structlog.get_logger()

LEASE_AGAIN_S = 0.1
MOST_MEMORY_LETTERS = 40


@dataclass(slots=True)
class TurnCounters:
    """Of one worker, since its start."""

    turns_cut: int = 0
    turns_missed: int = 0
    turns_late: int = 0
    replies_stale: int = 0
    samples_concealed: int = 0
    samples_dropped: int = 0
    frames_skipped: int = 0
    packets_lost: int = 0
    events_dropped: int = 0
    texts_dropped: int = 0
    video_frames: int = 0
    calls_moved: int = 0
    slots_damaged: int = 0
    """Given back, since their rings' counts could not be."""
    model_servers_lost: int = 0


@dataclass(slots=True)
class CallSums:
    """Of one call, since it was answered."""

    turns: int = 0
    concealed_samples: int = 0
    dropped_samples: int = 0
    lost_packets: int = 0
    engine_us: int = 0
    notes: TurnNotes | None = None
    """Where traces are taken."""
    memory: str = ""
    """What the model has told of its own (`media.chunk.MEMORY`)."""


class Pulls(NamedTuple):
    """When a call's ear was served: the first time and the newest, monotonic ns."""

    first_ns: int
    last_ns: int


class Call(Protocol):
    """What turns ask of a call, whoever carries it."""

    @property
    def name(self) -> str: ...
    @property
    def persona(self) -> str:
        """What the model is to be in it; empty is the model server's own."""
        ...

    @property
    def engine(self) -> str:
        """Which of the worker's engines answers it, for as long as it lives; empty is the usual one."""
        ...

    @property
    def leg(self) -> Leg[Any]: ...
    @property
    def is_over(self) -> bool: ...
    def drain(self) -> None:
        """What has come in since the last time, into the leg."""
        ...

    def pulls(self) -> Pulls | None:
        """None as long as nobody listens: no turn is cut."""
        ...

    def pictures(self, now_ns: int, wanted: int) -> tuple[VideoFrame, ...]:
        """What was seen in this turn; the model looks at so many pictures at most, in the next one, too."""
        ...

    def turned(self, chunk: Any) -> None:
        """Its chunk was published."""
        ...

    def replied(self, reply: Reply, taken: bool) -> None:
        """A reply for this call; not `taken` when it was stale or late."""
        ...

    def fail(self, wrong: Exception) -> None:
        """Its turn went wrong by a bug of ours: the call ends, the others do not."""
        ...


class Turns:
    """Every call of one worker that has, had or waits for a slot of one engine: `gateway/engine_turns.py` has one
    for each."""

    def __init__(
        self,
        worker: str,
        model: Path,
        cut_time: CutTime,
        *,
        attachable: Callable[[bool], None],
        between: Callable[[], None] = lambda: None,
        takes_notes: bool = False,
        name: str = "",
    ) -> None:
        """`between` is called when replies have been handed out; how far the next cuts are, `cut_time` says.
        `takes_notes`: of every call, for its trace. `name` is the engine's, where a worker has several."""
        self._name = name
        self._takes_notes = takes_notes
        self.counters = TurnCounters()
        self._servers = Servers(
            worker,
            model,
            came=self._came,
            went=self._went,
            replied=self._replied,
            told=lambda server, message: self._departure.told(server, message),
        )
        self._departure = Departure(worker, self._servers, self, self._start)
        self._attachable = attachable
        self._between = between
        self._calls: dict[Call, int] = {}
        """Call -> the generation of its last lease."""
        self._logs: dict[Call, TurnLog] = {}
        self._settled: dict[Call, tuple[int, ...]] = {}
        self._sums: dict[Call, CallSums] = {}
        self._groups: list[dict[Call, None]] = []
        self._server_of: dict[Call, Attachment] = {}
        """Of those that have a slot."""
        self._tenants: dict[tuple[Attachment, int], Call] = {}
        self._ticking: list[asyncio.Task[None]] = []
        self._leasing: set[asyncio.Task[None]] = set()
        self._broken: asyncio.Future[None] | None = None
        self._cut_time = cut_time

    @property
    def is_attached(self) -> bool:
        """Whether a model server is there for new calls."""
        return bool(self._servers.attached)

    @property
    def table(self) -> SlotTable | None:
        """Of the model server that new calls go to; None while there is none."""
        return self._departure.by_choice[0].table if self.is_attached else None

    @property
    def engine(self) -> str:
        """What answers new calls; empty while there is no model server."""
        return self._departure.by_choice[0].engine if self.is_attached else ""

    @property
    def live(self) -> int:
        """Calls that have a slot, or had one and wait for another."""
        return len(self._calls)

    @property
    def is_empty(self) -> bool:
        """No call has a slot: nobody waits for a turn."""
        return not self._tenants

    async def keep(self) -> None:
        """Stay attached until cancelled; raises what broke a tick, which is a bug of ours."""
        self._broken = asyncio.get_running_loop().create_future()
        attaching = asyncio.create_task(self._servers.keep())
        try:
            await asyncio.wait([attaching, self._broken], return_when=asyncio.FIRST_COMPLETED)
            (attaching if attaching.done() else self._broken).result()
        finally:
            self._departure.stop()
            for task in (attaching, *self._ticking, *self._leasing):
                task.cancel()

    async def lease(self, call: Call) -> bool:
        """A slot for a call, which takes part in turns from now on; False when there is none."""
        wish = self.wish_of(call)
        turns = self._logs.get(call) or TurnLog()
        answer: Leased | Refused = Refused(wish.call, "no model server", 2)
        asked: list[Attachment] = []
        while others := [server for server in self._departure.by_choice if server not in asked]:
            asked.append(server := others[0])  # while we wait for it another one may come
            answer = await server.lease(wish, turns.pack())
            if isinstance(answer, Leased):
                break
        if not isinstance(answer, Leased):
            log.info("no slot", call=wish.call, reason=answer.reason)
            return False
        if call.is_over or server.table is None:
            server.release(wish.call, answer.slot, answer.generation)
            return False
        self._logs[call] = turns
        self._sums.setdefault(call, CallSums(notes=TurnNotes() if self._takes_notes else None))
        self._seat(call, server, answer)
        call.leg.lease(_tenancy(answer))
        self._groups[answer.group][call] = None
        return True

    def leave(self, call: Call) -> None:
        """The call is over: what it counted is kept, its slot is given back."""
        self.settle(call)
        self._calls.pop(call, None)
        self._logs.pop(call, None)
        self._settled.pop(call, None)
        self._sums.pop(call, None)
        self._departure.drop(call)
        if call.leg.tenancy is not None:
            self._groups[call.leg.tenancy.group].pop(call, None)
        self._unseat(call)

    def settle(self, call: Call) -> None:
        """What the leg has counted since last time, into the worker's counters."""
        ledger, leg, counters = call.leg.playout.ledger, call.leg.counters, self.counters
        now = (
            ledger.missed_turns, ledger.late_turns, leg.stale_replies, leg.events_dropped, leg.texts_dropped,
        )  # fmt: skip
        before = self._settled.get(call, (0,) * len(now))
        counters.turns_missed += now[0] - before[0]
        counters.turns_late += now[1] - before[1]
        counters.replies_stale += now[2] - before[2]
        counters.events_dropped += now[3] - before[3]
        counters.texts_dropped += now[4] - before[4]
        if call in self._calls:
            self._settled[call] = now

    def sums_of(self, call: Call) -> CallSums:
        """Until it leaves."""
        return self._sums.get(call) or CallSums()

    def notes_of(self, call: Call) -> CallNotes | None:
        """For its trace, until it leaves."""
        notes = self.sums_of(call).notes
        return notes.told() if notes is not None else None

    def report(self) -> dict[str, int]:
        """Counters for the main process; every live call is settled first."""
        for call in self._calls:
            self.settle(call)
        names = TurnCounters.__slots__
        counters = {name: int(getattr(self.counters, name)) for name in names}
        counters["moves_given_up"] = self._departure.given_up
        return counters | asdict(self._servers.counters)

    # -- model servers come and go

    def _came(self, server: Attachment) -> None:
        """A model server is there: every call without a slot gets one of it."""
        table = server.table
        assert table is not None
        if len(self._servers.attached) > 1:
            return
        self._groups = [{} for _ in range(table.groups)]
        self._cut_time.forget(self._name)
        self._attachable(True)
        self._ticking = [self._start(self._tick(group, table.groups)) for group in range(table.groups)]
        for call in self._calls:
            self._lease_soon(call)

    def _went(self, server: Attachment) -> None:
        """It is gone: its calls go on with another one if there is one, else with a soft comfort sound."""
        struck = self.calls_at(server)
        inherited = {call: self._departure.inherit(call, server) for call in struck}
        was_leaving = self._departure.went(server)
        for call in struck:
            assert call.leg.tenancy is not None
            group = call.leg.tenancy.group
            self._unseat(call)
            if (heir := inherited[call]) is not None:
                self._seat(call, *heir)
                call.leg.move(_tenancy(heir[1]))
                continue
            self._groups[group].pop(call, None)
            call.leg.vacate()
            if self.is_attached:
                self._lease_soon(call)
        if was_leaving and not struck:
            log.debug("model server gone", socket=str(server.path))
        else:
            self.counters.model_servers_lost += 1
            log.warning("model server gone", socket=str(server.path), calls=len(struck))
        if not self.is_attached:
            self._cut_time.forget(self._name)
            self._attachable(False)
            for task in self._ticking:
                task.cancel()
            self._groups = []

    def _seat(self, call: Call, server: Attachment, leased: Leased) -> None:
        self._calls[call] = leased.generation
        self._server_of[call] = server
        self._tenants[server, leased.slot] = call

    def _unseat(self, call: Call) -> None:
        """Give its slot back, if it has one."""
        server, tenancy = self._server_of.pop(call, None), call.leg.tenancy
        if server is not None and tenancy is not None:
            self._tenants.pop((server, tenancy.slot), None)
            server.release(kept_name(call.name), tenancy.slot, tenancy.generation)

    def _lease_soon(self, call: Call) -> None:
        task = self._start(self._lease_again(call))
        self._leasing.add(task)
        task.add_done_callback(self._leasing.discard)

    async def _lease_again(self, call: Call) -> None:
        while not call.is_over and self.is_attached and not await self.lease(call):
            await asyncio.sleep(LEASE_AGAIN_S)

    # -- calls move: what a handover asks of us

    def calls_at(self, server: Attachment) -> list[Call]:
        """By phase group: those of one group are appended together."""
        calls = [call for call, its in self._server_of.items() if its is server]
        return sorted(calls, key=lambda call: call.leg.tenancy.group if call.leg.tenancy else 0)

    def wish_of(self, call: Call) -> Lease:
        """For its next lease; if it has a slot, with the group and the budget that it has."""
        leg, tenancy = call.leg, call.leg.tenancy
        wish = Lease(kept_name(call.name), self._calls.get(call, 0), leg.turn, call.persona)
        if tenancy is None:
            return wish
        return replace(wish, group=tenancy.group, budget_ns=tenancy.budget_ns)

    def log_of(self, call: Call) -> TurnLog:
        """Of its turns until now."""
        return self._logs[call]

    def move(self, call: Call, server: Attachment, leased: Leased) -> None:
        """Between two turns: the next one is that server's."""
        self._unseat(call)
        self._seat(call, server, leased)
        call.leg.move(_tenancy(leased))
        self.counters.calls_moved += 1

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        wrong = None if task.cancelled() else task.exception()
        if wrong is not None and self._broken is not None and not self._broken.done():
            self._broken.set_exception(wrong)

    # -- turns

    async def _tick(self, group: int, groups: int) -> None:
        """The driving rule of one phase group."""
        offset = phase_offset_ns(group, groups)
        calls = self._groups[group]
        tick_ns = 0
        while True:
            early_ns, late_ns = self._cut_time.ahead_ns(group, len(calls), groups, self._name)
            now_ns = time.monotonic_ns()
            last_ns, tick_ns = tick_ns, now_ns + early_ns + (offset - now_ns - early_ns) % TURN_NS
            if tick_ns <= last_ns:  # the timer fired early, by up to a millisecond: that tick has its chunks
                tick_ns += TURN_NS
            self._cut_time.next_cut(self._name, group, tick_ns - early_ns, len(calls))
            await asyncio.sleep((tick_ns - early_ns - now_ns) / NS_PER_S)
            waiting: list[Call] = []
            for call in list(calls):
                if not self._turn(call, tick_ns - early_ns, tick_ns, only_whole=True):
                    waiting.append(call)
            if waiting:
                self._cut_time.next_cut(self._name, group, tick_ns - late_ns, len(waiting))
                await asyncio.sleep(max(0, tick_ns - late_ns - time.monotonic_ns()) / NS_PER_S)
            for call in waiting:
                if call in calls:  # else it ended meanwhile
                    self._turn(call, tick_ns - early_ns, tick_ns, only_whole=False)

    def _turn(self, call: Call, now_ns: int, tick_ns: int, *, only_whole: bool) -> bool:
        """Drain and cut; False when the leg is not whole and may wait."""
        began_ns = time.monotonic_ns()
        try:
            call.drain()
            if only_whole and not call.leg.intake.is_whole():
                return False
            self._cut(call, now_ns, tick_ns)
        except Exception as wrong:  # the edge of a call
            call.fail(wrong)
        self._cut_time.took(time.monotonic_ns() - began_ns)
        return True

    def _cut(self, call: Call, now_ns: int, tick_ns: int) -> None:
        """One chunk, published at once: nobody waits for the others of its group."""
        leg, pulls = call.leg, call.pulls()
        if pulls is None or leg.tenancy is None:
            return
        counters = self.counters
        counters.frames_skipped += leg.catch_up(pulls.last_ns - pulls.first_ns)
        server, slot = self._server_of[call], leg.tenancy.slot
        if server.is_damaged(slot):
            self._move_out(call, leg.tenancy)
            return
        pictures = call.pictures(now_ns, server.pictures_wanted(slot))
        chunk = leg.cut(now_ns, tick_ns, pulls.last_ns, pictures)
        if chunk is not None:
            server.publish(slot, chunk)
            self._logs[call].add(chunk)
            counters.turns_cut += 1
            sums = self._sums[call]
            sums.turns += 1
            if sums.notes is not None:
                ledger = leg.playout.ledger
                sums.notes.look(
                    chunk.turn, ledger.missed_turns, ledger.late_turns, pulls.first_ns, time.monotonic_ns(),
                    time.time_ns(),
                )  # fmt: skip
            sums.concealed_samples += chunk.concealed_samples
            sums.dropped_samples += chunk.dropped_samples
            sums.lost_packets += chunk.lost_packets
            counters.samples_concealed += chunk.concealed_samples
            counters.samples_dropped += chunk.dropped_samples
            counters.packets_lost += chunk.lost_packets
            counters.video_frames += len(chunk.video)
            call.turned(chunk)

    def _move_out(self, call: Call, tenancy: Tenancy) -> None:
        """Another slot for the call, which brings its log: only a new lease sets a ring's counts right."""
        self.counters.slots_damaged += 1
        log.error("slot damaged: the call gets another", call=call.name, slot=tenancy.slot)
        self._departure.drop(call)
        self._groups[tenancy.group].pop(call, None)
        self._unseat(call)
        call.leg.vacate()
        self._lease_soon(call)

    def _replied(self, server: Attachment, replies: list[tuple[int, Reply]]) -> None:
        for slot, reply in replies:
            call = self._tenants.get((server, slot))
            if call is None:
                self.counters.replies_stale += 1
                continue
            self._logs[call].answer(reply.turn)
            self._sums[call].engine_us += reply.engine_us
            if reply.events:
                reply = self._noted(call, reply)
            try:
                heard = call.leg.screened(reply)
                call.replied(heard, call.leg.receive_reply(heard))
            except Exception as wrong:  # the edge of a call
                call.fail(wrong)
            self._departure.answered(server, call, reply.pcm)
        self._between()

    def _noted(self, call: Call, reply: Reply) -> Reply:
        """Without what is for the call's record alone."""
        for event in reply.events:
            if event.startswith(MEMORY):
                self._sums[call].memory = event.removeprefix(MEMORY)[:MOST_MEMORY_LETTERS]
        return replace(reply, events=tuple(event for event in reply.events if not event.startswith(MEMORY)))


def _tenancy(leased: Leased) -> Tenancy:
    return Tenancy(leased.slot, leased.generation, leased.group, leased.budget_ns)
