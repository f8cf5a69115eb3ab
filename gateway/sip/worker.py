"""A SIP worker: one process, one pjsua2 endpoint, its calls from answer to burial.

Three threads and no more: the library's clock thread sends frames, its media thread moves RTP, and the
loop here does everything else: SIP events, and the turns of `gateway/turns.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
from dataclasses import dataclass

import structlog

from gateway import control
from gateway.background.conversation import Conversation, Tell
from gateway.cut_time import TELEPHONE_COST_NS, CutTime
from gateway.sip import pj
from gateway.sip.options import WorkerOptions
from gateway.sip.pj import Endpoint, SipCall
from gateway.turns import Pulls
from gateway.worker_process import WorkerProcess, prepare_process
from media.chunk import PCM, Chunk, Reply, VideoFrame
from media.chunker import Chunker, Line
from media.leg import Leg
from media.timebase import NS_PER_S

log = structlog.get_logger()

POLL_S = 0.05
"""The library's timers are polled so often; messages are dealt with when they come, and media waits for neither."""
RING_S = 60.0
"""The target of a transfer may ring for so long."""


@dataclass(slots=True)
class Counters:
    """Of this process's calls, since its start."""

    calls_answered: int = 0
    calls_refused: int = 0
    calls_ended: int = 0
    calls_broken: int = 0
    calls_transferred: int = 0
    transfers_failed: int = 0
    rtp_timeouts: int = 0


class Session:
    """One conversation: its leg, and the call of the library that carries it. `turns.Call`.

    While a transfer is pending, `child` is the call to its target; when that is answered, it becomes `call`.
    """

    def __init__(
        self,
        call: SipCall,
        rate_hz: int,
        counters: Counters,
        persona: str = "",
        tell: Tell = lambda message: None,
    ) -> None:
        """`tell` is the line to the main process."""
        self.call, self.persona = call, persona
        self.child: SipCall | None = None
        self.name = call.sip_call_id
        """The SIP Call-ID of its first call: a lease goes by it."""
        self.leg = Leg(Chunker(rate_hz, self))
        self.conversation = Conversation(self.name, self.leg, tell)
        self.heard_at_ns = time.monotonic_ns()
        self._counters = counters
        self._packets = 0

    @property
    def is_over(self) -> bool:
        """Hung up, by whomever."""
        return self.call.over

    def drain(self) -> None:
        """See what waits for the leg; raises what went wrong in its ear, which ends the call."""
        if self.call.ear is not None and self.call.ear.wrong is not None:
            raise self.call.ear.wrong
        self.leg.intake.look()

    def look(self) -> int | None:
        """`media.chunker.Store`: of the call that carries it now."""
        return None if self.call.over else self.call.look()

    def line(self) -> Line:
        """`media.chunker.Store`."""
        return self.call.line()

    def pull(self) -> PCM | None:
        """`media.chunker.Store`, after `look` has found something."""
        assert self.call.stream is not None, "no stream"
        return self.call.stream.pull()

    def pulls(self) -> Pulls | None:
        """Of the library's clock thread."""
        ear = self.call.ear
        return Pulls(ear.first_pull_ns, ear.last_pull_ns) if ear is not None and ear.pulls else None

    def pictures(self, now_ns: int, wanted: int) -> tuple[VideoFrame, ...]:
        """A telephone sees nothing."""
        return ()

    def turned(self, chunk: Chunk) -> None:
        """The chunk was published; nobody at a telephone watches the turns."""
        self.conversation.turned()

    def replied(self, reply: Reply, taken: bool) -> None:
        """The model's actions; its text is for those who can read."""
        for event in self.conversation.replied(reply, taken):
            action, _, value = event.partition(" ")
            if action == "hangup":
                self.hang_up()
            elif action == "dtmf" and value and self._can_send:
                self.call.send_digits(value)
            elif action == "dtmf" and value:
                log.info("no one to send digits to", call=self.name)
            else:
                log.warning("unknown action", call=self.name, action=event[:40])

    def fail(self, wrong: Exception) -> None:
        """A bug of ours in this call's turn: hang up."""
        log.error("call broken", call=self.name, exc_info=wrong)
        self._counters.calls_broken += 1
        self.hang_up()

    def hang_up(self) -> None:
        """From our side, and whom we are about to call, too."""
        if self.child is not None:
            self.child.hang_up()
        self.call.hang_up()

    @property
    def _can_send(self) -> bool:
        """Not while the caller is gone and the target of its transfer still rings."""
        return self.call.connected or not self.call.is_ours

    def move(self, child: SipCall) -> None:
        """The conversation goes on in `child`: with its ear, in the turn that is under way."""
        child.take_over(self.call)
        self.call, self.child = child, None
        self.leg.hold(child.held or not child.connected)
        self.heard_at_ns, self._packets = time.monotonic_ns(), 0

    def check_stream(self, now_ns: int) -> int:
        """How long, in ns, nothing has been heard."""
        packets = self.call.received_packets() if self.call.connected and not self.call.over else None
        if packets is None:
            return 0
        if packets != self._packets or self.leg.held:
            self.heard_at_ns = now_ns
        self._packets = packets
        return now_ns - self.heard_at_ns


class Worker:
    """Calls of one process. `CallEvents` of its endpoint."""

    def __init__(self, options: WorkerOptions) -> None:
        self.options = options
        self.counters = Counters()
        self.endpoint = Endpoint(options.endpoint, self)
        self.process = WorkerProcess(
            options.name, options.control, options.model,
            CutTime(options.endpoint.max_calls, TELEPHONE_COST_NS),
            ready=self._ready, is_busy=lambda: bool(self._sessions), look_after=self._look_after,
            report=self._report, hear=self._hear,
        )  # fmt: skip
        self.turns, self.link = self.process.turns, self.process.link
        self._sessions: dict[str, Session] = {}
        self._by_call: dict[SipCall, Session] = {}

    # -- events of the library, in the loop's thread but for `digit`

    def incoming(self, call: SipCall) -> None:
        """A new INVITE: lease a slot, then answer; refuse at once when there is no model server."""
        session = self._by_call[call] = Session(
            call, self.endpoint.rate_hz, self.counters, call.persona, self.link.tell
        )
        if session.name in self._sessions:  # of a caller that was transferred
            self.counters.calls_refused += 1
            call.answer_with(482, "Call-ID In Use")
            return
        if not self.turns.is_attached or len(self._sessions) >= self.options.endpoint.max_calls:
            self.counters.calls_refused += 1
            call.answer_with(503, retry_after_s=self.options.retry_after_s)
            return
        call.pull = session.leg.playout.pull
        self._sessions[session.name] = session
        self.process.spawn(self._answer(session))

    def media_changed(self, call: SipCall) -> None:
        """Negotiated anew: hold and resume are events of the leg."""
        session = self._by_call.get(call)
        if session is not None and call is session.call:
            session.leg.hold(call.held)
            session.heard_at_ns = time.monotonic_ns()

    def digit(self, call: SipCall, digit: str) -> None:
        """RFC 4733 or INFO; may come in the library's media thread."""
        self._loop.call_soon_threadsafe(self._digit, call, digit)

    def ended(self, call: SipCall) -> None:
        """Over, whoever ended it: free what it held and bury it outside of this callback."""
        session = self._by_call.pop(call, None)
        self.endpoint.bury(call)
        self.process.garbage.call_ended()
        if session is None:
            return
        if call is session.child:
            session.child = None
            self.counters.transfers_failed += 1
            log.info("transfer failed", call=session.name)
        elif call is session.call and session.child is not None:
            session.move(session.child)  # which still rings
        elif call is session.call and self._sessions.get(session.name) is session:
            del self._sessions[session.name]
            self.counters.calls_ended += 1
            self.counters.transfers_failed += call.is_ours and not call.connected
            self.turns.leave(session)
            session.conversation.end()
        if call.sip_call_id:
            self.link.tell(control.CallEnded(call.sip_call_id))

    def transfer(self, call: SipCall) -> SipCall | None:
        """One at a time; the library dials once this has returned."""
        session = self._by_call.get(call)
        if session is None or call is not session.call or session.child is not None or not call.connected:
            return None
        child = session.child = SipCall(self.endpoint)
        self._by_call[child] = session
        self._loop.call_soon(self._check_dialled, child)
        self._loop.call_later(RING_S, self._stop_ringing, child)
        return child

    def connected(self, call: SipCall) -> None:
        """The target has answered: what the model hears and says is there from now on."""
        session = self._by_call.get(call)
        if session is None:
            return
        self.counters.calls_transferred += 1
        log.info("transferred", call=session.name, to=call.sip_call_id)
        if call is session.child:
            self._loop.call_soon(session.call.hang_up)  # after the library's last NOTIFY
            session.move(call)
        else:
            session.call.resume_media()
            session.leg.hold(call.held)

    def _check_dialled(self, child: SipCall) -> None:
        """The library told the caller if it did not dial, but not us."""
        if child.getId() < 0 and not child.over:
            child.over = True
            self.ended(child)

    def _stop_ringing(self, child: SipCall) -> None:
        if not child.over and not child.connected:
            log.info("target of a transfer did not answer", call=child.sip_call_id, seconds=RING_S)
            child.hang_up()

    # -- the loop

    async def run(self) -> None:
        """Take calls until told to stop."""
        self._loop = asyncio.get_running_loop()
        self.process.heed_signals()
        self.endpoint.start()
        await self.process.serve(self._poll_sip())
        self.process.close()
        self.endpoint.close()

    async def _poll_sip(self) -> None:
        socket, arrived = self.endpoint.sip_socket, asyncio.Event()
        assert socket is not None, "the endpoint was started"
        self._loop.add_reader(socket, arrived.set)
        try:
            while True:
                arrived.clear()
                self.endpoint.poll()
                self.endpoint.sweep()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await arrived.wait()
        finally:
            self._loop.remove_reader(socket)

    async def _answer(self, session: Session) -> None:
        """Lease, then 183 if early media is wanted, then 200."""
        call = session.call
        if not call.answer_with(180):
            return
        leased = await self.turns.lease(session)
        session.conversation.engine = self.turns.engine
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

    def _digit(self, call: SipCall, digit: str) -> None:
        session = self._by_call.get(call)
        if session is not None and call is session.call:
            session.leg.receive_event(f"dtmf {digit}")

    # -- once a second

    async def _look_after(self) -> None:
        """RTP silence and statistics."""
        now_ns = time.monotonic_ns()
        for session in list(self._sessions.values()):
            if session.check_stream(now_ns) > self.options.rtp_timeout_s * NS_PER_S:
                self.counters.rtp_timeouts += 1
                log.info("no RTP", call=session.name, seconds=self.options.rtp_timeout_s)
                session.call.hang_up()  # a transfer that is pending goes on

    # -- what the main process says, and is told

    def _hear(self, message: control.MainMessage) -> None:
        if isinstance(message, control.TaskNews) and message.call in self._sessions:
            self._sessions[message.call].conversation.take_news(message)

    def _report(self) -> control.Report:
        counters = dataclasses.asdict(self.counters) | self.turns.report()
        return control.Report(counters, {"calls_live": float(len(self._sessions))})

    def _ready(self) -> control.Ready:
        options = self.options
        for session in self._sessions.values():
            session.conversation.tell_again()
        return control.Ready(
            options.name,
            os.getpid(),
            self.endpoint.sip_port,
            options.endpoint.max_calls,
            options.endpoint.rate_hz,
            pj.version(),
            self.turns.is_attached,
            [session.call.sip_call_id for session in self._sessions.values()],
        )


def run(options: WorkerOptions) -> None:
    """The process: never returns, since pjsua2 does not survive the interpreter's own end."""
    import uvloop

    prepare_process(realtime=options.realtime)
    uvloop.run(Worker(options).run())
    os._exit(0)
