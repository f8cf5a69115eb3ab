"""A SIP worker: one process, one pjsua2 endpoint, its calls from answer to burial.

Three threads and no more: the library's clock thread copies frames, its media thread moves RTP, and the
loop here does everything else: SIP events, chunks before each tick, replies when rung. The driving rule:

    EARLY_NS before a phase group's tick   drain inboxes, cut the legs that are whole, publish
    LATE_NS before it                      cut the others as they are: concealed, and said
    doorbell                               replies to their playouts

Both times lie earlier by what the cuts of the group are measured to take, so that the last is in time, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from gateway import control
from gateway.attachment import Attachment
from gateway.priority import ask_for_realtime
from gateway.sip import pj
from gateway.sip.options import WorkerOptions
from gateway.sip.pj import Endpoint, SipCall
from media.chunk import Reply
from media.leases import Leased
from media.leg import Leg, Tenancy, to_pcm
from media.timebase import NS_PER_MS, NS_PER_S, TURN_NS, phase_offset_ns

log = structlog.get_logger()

EARLY_NS = 5 * NS_PER_MS
LATE_NS = 2 * NS_PER_MS
MOST_COST_NS = NS_PER_MS
"""Of one cut; what the measure of its usual cost is bounded by."""
POLL_S = 0.01
"""SIP is polled so often; media does not wait for it."""
LOOK_AFTER_S = 1.0
"""RTP silence, statistics and reports: once a second."""
ORPHAN_S = 10.0
"""A worker without calls leaves when its main process has been away so long."""


@dataclass(slots=True)
class Counters:
    """Of this process, since its start."""

    calls_answered: int = 0
    calls_refused: int = 0
    calls_ended: int = 0
    rtp_timeouts: int = 0
    turns_cut: int = 0
    turns_missed: int = 0
    turns_late: int = 0
    replies_stale: int = 0
    samples_concealed: int = 0
    samples_dropped: int = 0
    frames_overrun: int = 0
    frames_skipped: int = 0
    packets_lost: int = 0
    events_dropped: int = 0


@dataclass(slots=True, eq=False)
class Session:
    """One call: the library's object, its leg, and what the loop remembers of them."""

    call: SipCall
    leg: Leg
    drained: int = 0
    generation: int = 0
    live: bool = False
    last_packets: int = 0
    last_lost: int = 0
    heard_at_ns: int = 0
    settled: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The SIP Call-ID."""
        return self.call.sip_call_id


class Worker:
    """Calls of one process. `CallEvents` of its endpoint."""

    def __init__(self, options: WorkerOptions) -> None:
        self.options = options
        self.counters = Counters()
        self.endpoint = Endpoint(options.endpoint, self)
        self.attachment = Attachment(
            options.name,
            Path(options.model),
            attached=self._attached,
            detached=self._detached,
            replied=self._replied,
        )
        self._sessions: dict[str, Session] = {}
        self._by_call: dict[SipCall, Session] = {}
        self._groups: list[dict[Session, None]] = []
        self._tenants: dict[int, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._main: object | None = None
        self._send: Callable[[bytes], object] = lambda packet: None
        self._stop = asyncio.Event()
        self._cut_cost_ns = 150_000

    # -- events of the library, in the loop's thread but for `digit`

    def incoming(self, call: SipCall) -> None:
        """A new INVITE: lease a slot, then answer; refuse at once when there is no model server."""
        if self.attachment.table is None or len(self._sessions) >= self.options.endpoint.max_calls:
            self.counters.calls_refused += 1
            self._by_call[call] = Session(call, Leg(self.endpoint.rate_hz))
            call.answer_with(503, retry_after_s=self.options.retry_after_s)
            return
        leg = Leg(self.endpoint.rate_hz)
        call.pull = leg.playout.pull
        session = Session(call, leg, heard_at_ns=time.monotonic_ns())
        self._by_call[call] = self._sessions[session.name] = session
        self._spawn(self._answer(session))

    def media_changed(self, call: SipCall) -> None:
        """Negotiated anew: hold and resume are events of the leg."""
        session = self._by_call.get(call)
        if session is not None:
            session.leg.hold(call.held)
            session.heard_at_ns = time.monotonic_ns()

    def digit(self, call: SipCall, digit: str) -> None:
        """RFC 4733 or INFO; may come in the library's media thread."""
        self._loop.call_soon_threadsafe(self._digit, call, digit)

    def ended(self, call: SipCall) -> None:
        """Over, whoever ended it: free what it held and bury it outside of this callback."""
        session = self._by_call.pop(call, None)
        if session is None:
            return
        if self._sessions.pop(session.name, None) is not None:
            self.counters.calls_ended += 1
            self._vacate(session)
            self._tell(control.CallEnded(session.name))
        self.endpoint.bury(call)

    # -- the loop

    async def run(self) -> None:
        """Take calls until told to stop."""
        self._loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(name, self._stop.set)
        self.endpoint.start()
        gc.collect()
        gc.freeze()
        gc.disable()
        for work in (self.attachment.keep(), self._poll_sip(), self._look_after(), self._stay_in_touch()):
            self._spawn(work)
        await self._stop.wait()
        for task in list(self._tasks):
            task.cancel()
        self.endpoint.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("worker broken", exc_info=task.exception())
            self._stop.set()

    async def _poll_sip(self) -> None:
        while True:
            self.endpoint.poll()
            self.endpoint.sweep()
            await asyncio.sleep(POLL_S)

    async def _answer(self, session: Session) -> None:
        """Lease, then 183 if early media is wanted, then 200."""
        call = session.call
        if not call.answer_with(180):
            return
        leased = await self._lease(session)
        if call.over:
            return
        if not leased:
            self._sessions.pop(session.name, None)
            self.counters.calls_refused += 1
            call.answer_with(503, retry_after_s=self.options.retry_after_s)
            return
        if self.options.early_media_ms:
            call.answer_with(183)
            await asyncio.sleep(self.options.early_media_ms / 1000)
            if call.over:
                return
        if call.answer_with(200):
            self.counters.calls_answered += 1

    async def _lease(self, session: Session) -> bool:
        answer = await self.attachment.lease(session.name, floor=session.generation, turn=session.leg.turn)
        if not isinstance(answer, Leased):
            log.info("no slot", call=session.name, reason=answer.reason)
            return False
        if session.call.over or self.attachment.table is None:
            self.attachment.release(session.name, answer.slot, answer.generation)
            return False
        session.generation = answer.generation
        session.leg.lease(Tenancy(answer.slot, answer.generation, answer.group, answer.budget_ns))
        self._tenants[answer.slot] = session
        self._groups[answer.group][session] = None
        return True

    def _vacate(self, session: Session) -> None:
        tenancy = session.leg.tenancy
        self._settle(session)
        if tenancy is None:
            return
        self._tenants.pop(tenancy.slot, None)
        self._groups[tenancy.group].pop(session, None)
        self.attachment.release(session.name, tenancy.slot, tenancy.generation)

    def _attached(self) -> None:
        """A model server is there: every call that lives on gets a slot of it."""
        table = self.attachment.table
        assert table is not None
        self._groups = [{} for _ in range(table.groups)]
        self._tell(control.Attachable(True))
        self._ticking = [
            self._loop.create_task(self._tick(group, table.groups)) for group in range(table.groups)
        ]
        for task in self._ticking:
            task.add_done_callback(self._done)
        for session in self._sessions.values():
            self._spawn(self._lease_again(session))

    def _detached(self) -> None:
        """It is gone: the calls live on with a soft comfort sound, new ones are refused."""
        self._tell(control.Attachable(False))
        for task in self._ticking:
            task.cancel()
        self._tenants.clear()
        self._groups = []
        for session in self._sessions.values():
            session.leg.vacate()

    async def _lease_again(self, session: Session) -> None:
        while not session.call.over and self.attachment.table is not None and not await self._lease(session):
            await asyncio.sleep(0.1)

    # -- turns

    async def _tick(self, group: int, groups: int) -> None:
        """The driving rule of one phase group."""
        offset = phase_offset_ns(group, groups)
        sessions = self._groups[group]
        tick_ns = 0
        while True:
            before_ns = len(sessions) * self._cut_cost_ns
            early_ns, late_ns = EARLY_NS + 2 * before_ns, LATE_NS + before_ns
            now_ns = time.monotonic_ns()
            last_ns, tick_ns = tick_ns, now_ns + early_ns + (offset - now_ns - early_ns) % TURN_NS
            if tick_ns <= last_ns:  # the timer fired early, by up to a millisecond: that tick has its chunks
                tick_ns += TURN_NS
            await asyncio.sleep((tick_ns - early_ns - now_ns) / NS_PER_S)
            waiting: list[Session] = []
            for session in list(sessions):
                self._drain(session)
                if session.leg.chunker.is_whole():
                    self._cut(session, tick_ns - early_ns, tick_ns)
                else:
                    waiting.append(session)
            if waiting:
                await asyncio.sleep(max(0, tick_ns - late_ns - time.monotonic_ns()) / NS_PER_S)
            for session in waiting:
                if session in sessions:  # else it ended meanwhile
                    self._drain(session)
                    self._cut(session, tick_ns - early_ns, tick_ns)

    def _drain(self, session: Session) -> None:
        """What the clock thread has copied, into the leg."""
        port = session.call.port
        if port is None:
            return
        inbox, leg, taken = port.inbox, session.leg, 0
        while inbox:
            frame, arrival_ns = inbox.popleft()
            leg.receive_frame(to_pcm(frame), arrival_ns)
            taken += 1
        session.drained += taken
        lost = port.received - session.drained - len(inbox)
        if lost > 0:  # the inbox is bounded: the oldest frames went
            self.counters.frames_overrun += lost
            session.drained += lost

    def _cut(self, session: Session, now_ns: int, tick_ns: int) -> None:
        """One chunk, published at once: nobody waits for the others of its group."""
        port, leg = session.call.port, session.leg
        if port is None or not port.pulls or leg.tenancy is None:
            return
        began_ns = time.monotonic_ns()
        skipped = leg.catch_up(port.last_pull_ns - port.first_pull_ns)
        self.counters.frames_skipped += skipped
        chunk = leg.cut(now_ns, tick_ns, port.last_pull_ns)
        if chunk is not None:
            self.attachment.publish(leg.tenancy.slot, chunk)
            self.counters.turns_cut += 1
            self.counters.samples_concealed += chunk.concealed_samples
            self.counters.samples_dropped += chunk.dropped_samples
        took_ns = time.monotonic_ns() - began_ns
        self._cut_cost_ns += (min(took_ns, MOST_COST_NS) - self._cut_cost_ns) // 64

    def _replied(self, replies: list[tuple[int, Reply]]) -> None:
        for slot, reply in replies:
            session = self._tenants.get(slot)
            if session is None:
                self.counters.replies_stale += 1
                continue
            session.leg.receive_reply(reply)
            for event in reply.events:
                self._act(session, event)

    def _act(self, session: Session, event: str) -> None:
        """An action of the model."""
        action, _, value = event.partition(" ")
        if action == "hangup":
            session.call.hang_up()
        elif action == "dtmf" and value:
            session.call.send_digits(value)
        else:
            log.warning("unknown action", call=session.name, action=event[:40])

    def _digit(self, call: SipCall, digit: str) -> None:
        session = self._by_call.get(call)
        if session is not None:
            session.leg.receive_event(f"dtmf {digit}")

    # -- once a second

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AFTER_S)
            now_ns = time.monotonic_ns()
            for session in list(self._sessions.values()):
                self._check_stream(session, now_ns)
                self._settle(session)
            self._report()
            gc.collect(1)  # here, in the owner's thread, and never in a callback

    def _check_stream(self, session: Session, now_ns: int) -> None:
        """RTP that stays away ends the call; packets that were lost are told to the model."""
        stats = session.call.stats() if session.call.connected and not session.call.over else None
        if stats is None:
            return
        if stats.packets != session.last_packets or session.leg.held:
            session.heard_at_ns = now_ns
        if stats.lost > session.last_lost:
            session.leg.receive_loss(stats.lost - session.last_lost)
            self.counters.packets_lost += stats.lost - session.last_lost
        session.last_packets, session.last_lost = stats.packets, stats.lost
        if now_ns - session.heard_at_ns > self.options.rtp_timeout_s * NS_PER_S:
            self.counters.rtp_timeouts += 1
            log.info("no RTP", call=session.name, seconds=self.options.rtp_timeout_s)
            session.call.hang_up()

    def _settle(self, session: Session) -> None:
        """What the leg counted since last time, into the process's counters."""
        ledger, leg = session.leg.playout.ledger, session.leg.counters
        for name, value in (
            ("turns_missed", ledger.missed_turns),
            ("turns_late", ledger.late_turns),
            ("replies_stale", leg.stale_replies),
            ("events_dropped", leg.events_dropped),
        ):
            setattr(self.counters, name, getattr(self.counters, name) + value - session.settled.get(name, 0))
            session.settled[name] = value

    def _report(self) -> None:
        names = Counters.__slots__
        counters = {name: getattr(self.counters, name) for name in names}
        counters["rings_full"] = self.attachment.full_rings
        counters["rows_stale"] = self.attachment.stale_rows
        counters["rows_torn"] = self.attachment.torn_rows
        self._tell(control.Report(counters, {"calls_live": float(len(self._sessions))}))

    # -- the main process

    def _tell(self, message: control.WorkerMessage) -> None:
        with contextlib.suppress(OSError):  # it is away: `Ready` says all when it is back
            self._send(control.encode(message))

    async def _stay_in_touch(self) -> None:
        """Keep a connection to the main process; calls live on without it, an idle worker does not."""
        away_since = time.monotonic()
        while self._sessions or time.monotonic() - away_since < ORPHAN_S:
            try:
                connection = control.connect(Path(self.options.control))
            except OSError:
                await asyncio.sleep(0.1)
                continue
            with connection:
                self._send = connection.send
                self._tell(self._ready())
                async for packet in control.packets(connection):
                    if isinstance(control.decode_main(packet), control.Drain):
                        self._stop.set()
                self._send = lambda packet: None
            away_since = time.monotonic()
        self._stop.set()

    def _ready(self) -> control.Ready:
        options = self.options
        return control.Ready(
            options.name,
            os.getpid(),
            self.endpoint.sip_port,
            options.endpoint.max_calls,
            options.endpoint.rate_hz,
            pj.version(),
            self.attachment.table is not None,
            list(self._sessions),
        )


def run(options: WorkerOptions) -> None:
    """The process: never returns, since pjsua2 does not survive the interpreter's own end."""
    import uvloop

    sys.setswitchinterval(0.0005)
    if options.realtime:
        log.info("scheduling", got=ask_for_realtime())  # before the library starts its threads
    uvloop.run(Worker(options).run())
    os._exit(0)
