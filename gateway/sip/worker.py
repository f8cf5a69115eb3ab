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

import structlog

from gateway import control
from gateway.commands import obey
from gateway.cut_time import TELEPHONE_COST_NS, CutTime
from gateway.figures import TELL_S, Quality, figures_of
from gateway.recording.call import CallRecording, Recorder
from gateway.safety.screen import Screens
from gateway.sip import pj
from gateway.sip.handovers import Handovers
from gateway.sip.joining import Joining
from gateway.sip.main_line import answer
from gateway.sip.options import WorkerOptions
from gateway.sip.pj import Endpoint, SipCall
from gateway.sip.placed_calls import PlacedCalls
from gateway.sip.session import Counters, Session
from gateway.state.keys import name_of_telephone_call
from gateway.state.records import Figures
from gateway.worker_process import WorkerProcess, prepare_process
from media.keys import ToneEar
from media.timebase import MODEL_HZ, NS_PER_S

log = structlog.get_logger()

POLL_S = 0.05
"""The library's timers are polled so often; messages are dealt with when they come, and media waits for neither."""
RING_S = 60.0
"""The target of a transfer may ring for so long."""


class Worker:
    """Calls of one process. `CallEvents` of its endpoint."""

    def __init__(self, options: WorkerOptions) -> None:
        self.options = options
        self.counters = Counters()
        self.quality = Quality("telephone")
        self.endpoint = Endpoint(options.endpoint, self)
        self.process = WorkerProcess(
            options.name, options.control, options.model,
            CutTime(options.endpoint.max_calls, TELEPHONE_COST_NS),
            ready=self._ready, is_busy=lambda: bool(self._sessions), look_after=self._look_after,
            report=self._report, hear=self._hear, takes_notes=options.traces, engines=options.engines,
        )  # fmt: skip
        self.turns, self.link = self.process.turns, self.process.link
        self.recorder = Recorder(options.recording, options.announcements, options.endpoint.rate_hz)
        self.screens = (
            Screens(options.safety, options.endpoint.rate_hz, self.link.tell) if options.safety else None
        )
        self.joining = Joining(
            self.endpoint, self.counters, self.link.tell, options.transfer_words, self.recorder.consent
        )
        self.placed_calls = PlacedCalls(
            self.endpoint, self.turns, self.counters, self.link.tell, self._placed,
            lambda: self._has_room, self._lives,
        )  # fmt: skip
        self.handovers = Handovers(self.counters, self.link.tell, shows_words=options.transfer_words)
        self._sessions: dict[str, Session] = {}
        self._seconds = 0
        self._by_call: dict[SipCall, Session] = {}

    # -- events of the library, in the loop's thread but for `key`

    def incoming(self, call: SipCall) -> None:
        """A new INVITE: lease a slot, then answer; refuse at once when there is no model server."""
        session = self._by_call[call] = self._session(call, call.persona, call.tenant, call.engine)
        if session.name in self._sessions:  # of a caller that was transferred
            self.counters.calls_refused += 1
            call.answer_with(482, "Call-ID In Use")
            return
        if not self.turns.is_attached(call.engine) or not self._has_room:
            self.counters.calls_refused += 1
            call.answer_with(503, retry_after_s=self.options.retry_after_s)
            return
        call.pull = session.hear
        self._sessions[session.name] = session
        self._record(session, call.may_be_recorded)
        self.process.spawn(self._answer(session))

    @property
    def _has_room(self) -> bool:
        return len(self._sessions) + len(self.joining) < self.options.endpoint.max_calls

    def _session(self, call: SipCall, persona: str, tenant: str, engine: str) -> Session:
        session = Session(
            call, self.endpoint.rate_hz, self.counters, persona, self.link.tell, self.handovers.ask,
            self.options.endpoint.dtmf_out, self.joining.ask, engine,
        )  # fmt: skip
        if self.options.hears_tones:
            session.leg.tones = ToneEar(MODEL_HZ)
        if self.screens is not None:
            self.screens.look_after(session, persona, tenant, engine)
        return session

    def _record(self, session: Session, allowed: bool) -> None:
        """If it may be; and what its caller hears first."""
        name = name_of_telephone_call(session.name)
        session.recording = CallRecording(
            self.recorder, session.name, name, session.leg, self.link.tell, session.first_pull_ns, allowed=allowed
        )  # fmt: skip

    def media_changed(self, call: SipCall) -> None:
        """Negotiated anew: hold and resume are events of the leg."""
        session = self._by_call.get(call)
        if session is not None and call is session.call:
            session.leg.hold(call.held)
            if call.held:
                session.stop_pressing()
            session.heard_at_ns = time.monotonic_ns()

    def key(self, call: SipCall, digit: str, timestamp_ms: int | None, duration_ms: int) -> None:
        """RFC 4733 or INFO; may come in the library's media thread."""
        self._loop.call_soon_threadsafe(self._key, call, digit, timestamp_ms, duration_ms)

    def ended(self, call: SipCall) -> None:
        """Over, whoever ended it: free what it held and bury it outside of this callback."""
        session = self._by_call.pop(call, None)
        self.endpoint.bury(call)
        self.process.garbage.call_ended()
        if self.joining.ended(call) or session is None:
            return
        self.placed_calls.forget(session)
        figures = (
            self._figures(session) if call is session.call and session.name == call.sip_call_id else None
        )
        notes = self.turns.notes_of(session) if figures is not None else None
        if call is session.child:
            session.child = None
            self.counters.transfers_failed += 1
            log.info("transfer failed", call=session.name)
        elif call is session.call and session.child is not None:
            session.move(session.child)  # which still rings
        elif call is session.call and self._lives(session):
            del self._sessions[session.name]
            self.counters.calls_ended += 1
            self.counters.transfers_failed += call.is_ours and not call.connected and not session.placed
            if session.placed and not call.connected:
                self.placed_calls.unanswered(session)
            self.handovers.caller_left(session)
            self.joining.caller_left(session)
            self.turns.leave(session)
            session.conversation.end()
            if session.recording is not None:
                session.recording.end()
        if figures is not None:
            self.quality.note(figures)
        if call.sip_call_id:
            cause = (session.cause or "caller") if figures is not None else ""
            if figures is not None:
                log.info("call over", call=session.name, reason=cause)
            self.link.tell(control.CallEnded(call.sip_call_id, cause, figures, notes))

    def _figures(self, session: Session) -> Figures:
        tasks = session.conversation.tasks_begun
        session.line_sums.codec = session.line_sums.codec or session.call.codec
        return figures_of(session.line_sums, self.turns.sums_of(session), session.leg, tasks)

    def transfer(self, call: SipCall) -> SipCall | None:
        """One at a time; the library dials once this has returned."""
        session = self._by_call.get(call)
        if session is None or call is not session.call or session.child is not None or not call.connected:
            return None
        child = session.child = SipCall(self.endpoint)
        child.sound6 = call.sound6  # the library calls by the same account
        self._by_call[child] = session
        self._loop.call_soon(self._check_dialled, child)
        self._loop.call_later(RING_S, self._stop_ringing, child)
        return child

    def ringing(self, call: SipCall, status: int) -> None:
        """Whom we call is being called."""
        session = self._by_call.get(call)
        if self.joining.ringing(call, status):
            return
        if session is not None and session.placed and call is session.call:
            self.placed_calls.ringing(session, status)

    def connected(self, call: SipCall) -> None:
        """The target has answered: what the model hears and says is there from now on."""
        session = self._by_call.get(call)
        if self.joining.connected(call) or session is None:
            return
        if session.placed and call is session.call:
            self.placed_calls.answered(session)
            return
        self.counters.calls_transferred += 1
        log.info("transferred", call=session.name, to=call.sip_call_id)
        if call is session.child:
            self._loop.call_soon(session.call.hang_up)  # after the library's last NOTIFY
            session.move(call)
        else:
            session.call.resume_media()
            session.leg.hold(call.held)

    def referred(self, call: SipCall, status: int, reason: str, final: bool) -> None:
        """The peer takes our REFER, or has its last word about it."""
        session = self._by_call.get(call)
        if session is not None and call is session.call:
            self.handovers.said(session, status, reason, final)

    def _check_dialled(self, child: SipCall) -> None:
        """The library told the caller if it did not dial, but not us."""
        if child.getId() < 0 and not child.over:
            child.over = True
            self.ended(child)

    def _stop_ringing(self, child: SipCall) -> None:
        if not child.over and not child.connected:
            log.info("target of a transfer did not answer", call=child.sip_call_id, seconds=RING_S)
            child.hang_up()

    # -- what the main process asks

    async def _dial(self, dial: control.Dial) -> None:
        if dial.joins:
            self.joining.dial(dial, self._find(dial.joins), self._has_room)
        else:
            await self.placed_calls.dial(dial)

    def _placed(self, call: SipCall, dial: control.Dial) -> Session:
        session = self._by_call[call] = self._session(call, dial.persona, dial.tenant, dial.engine)
        session.placed = True
        call.pull = session.hear
        self._sessions[session.name] = session
        self._record(session, dial.recording)
        return session

    def _lives(self, session: Session) -> bool:
        return self._sessions.get(session.name) is session

    def _find(self, call_id: str) -> Session | None:
        """By its first Call-ID, or by that of the call that carries it now."""
        found = self._sessions.get(call_id)
        return found or next((s for s in self._sessions.values() if s.call.sip_call_id == call_id), None)

    def _hang_up(self, message: control.HangUp) -> None:
        session, guest = self._find(message.call), self.joining.find(message.call)
        if guest is not None:
            guest.hang_up("api")
            answer(self.link.tell, message.id, 200)
            return
        if session is None:
            answer(self.link.tell, message.id, 404, "no such call")
            return
        session.hang_up("api")
        answer(self.link.tell, message.id, 200)

    def _obey(self, command: control.Command) -> control.Done:
        guest = self.joining.find(command.call)
        if guest is None:
            return obey(self._find(command.call), command)
        if command.do != "hang-up":
            return control.Done(command.id, 409, "joined", "who has joined a call has no model of his own")
        guest.hang_up(command.value or "api")
        return control.Done(command.id, 204)

    # -- the loop

    async def run(self) -> None:
        """Take calls until told to stop."""
        self._loop = asyncio.get_running_loop()
        self.process.heed_signals()
        self.endpoint.start()
        await self.process.serve(self._poll_sip())
        self.process.close()
        for session in self._sessions.values():
            if session.recording is not None:
                session.recording.end()
        self.recorder.stop()
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
        session.conversation.engine = self.turns.kind_of(session)
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
            log.info("call", call=call.sip_call_id)

    def _key(self, call: SipCall, digit: str, timestamp_ms: int | None, duration_ms: int) -> None:
        session = self._by_call.get(call)
        if self.joining.key(call, digit, timestamp_ms, duration_ms):
            return
        if session is not None and call is session.call:
            session.hear_key(digit, timestamp_ms, duration_ms)

    # -- once a second

    async def _look_after(self) -> None:
        """RTP silence and statistics."""
        now_ns = time.monotonic_ns()
        for session in list(self._sessions.values()):
            if session.recording is not None:
                session.recording.poll()
            silent_ns = session.check_stream(now_ns)
            session.call.lock_source(silent_ns)
            # on hold nothing need come; but while the main process is away, nobody could resume or end it
            is_held = session.leg.held and self.link.is_up
            patience_s = self.options.hold_timeout_s if is_held else self.options.rtp_timeout_s
            if silent_ns > patience_s * NS_PER_S:
                self.counters.rtp_timeouts += 1
                log.info("no RTP", call=session.name, seconds=patience_s, held=session.leg.held)
                session.cause = session.cause or "no-rtp"
                session.call.hang_up()  # a transfer that is pending goes on
        self.joining.look_after(now_ns, self.options.rtp_timeout_s, self.options.hold_timeout_s)
        self._seconds += 1
        if self._seconds % TELL_S == 0:
            for session in self._sessions.values():
                self.quality.note(figures := self._figures(session))
                self.link.tell(control.Measured(session.name, figures))
            for guest in self.joining:
                self.link.tell(control.Measured(guest.name, guest.figures()))

    # -- what the main process says, and is told

    def _hear(self, message: control.MainMessage) -> None:
        match message:
            case control.TaskNews():
                if message.call in self._sessions:
                    self._sessions[message.call].conversation.take_news(message)
            case control.Dial():
                self.process.spawn(self._dial(message))
            case control.HangUp():
                self._hang_up(message)
            case control.Refer():
                self.handovers.refer(self._find(message.call), message)
            case control.Command():
                self.link.tell(self._obey(message))
            case control.Leave():
                answer(self.link.tell, message.id, *self.joining.leave(self._find(message.call)))
            case control.JoinRefused():
                self.joining.refused(self._find(message.call), message.status)

    def _report(self) -> control.Report:
        counters = dataclasses.asdict(self.counters) | self.turns.report() | self.recorder.report()
        counters |= self.screens.report() if self.screens is not None else {}
        counters |= self.quality.report()
        live = {"calls_live": float(len(self._sessions) + len(self.joining))}
        return control.Report(counters, live | self.turns.gauges())

    def _calls(self) -> list[SipCall]:
        return [session.call for session in self._sessions.values()] + [guest.call for guest in self.joining]

    def _ready(self) -> control.Ready:
        options = self.options
        for session in self._sessions.values():
            session.conversation.tell_again()
            if session.recording is not None:
                session.recording.tell_again()
        return control.Ready(
            options.name,
            os.getpid(),
            self.endpoint.sip_port,
            options.endpoint.max_calls,
            options.endpoint.rate_hz,
            pj.version(),
            self.turns.is_attached(""),
            [
                *(session.call.sip_call_id for session in self._sessions.values()),
                *(guest.name for guest in self.joining),
            ],
            [call.sip_call_id for call in self._calls() if call.sound6],
            [engine for engine in self.turns.attached if engine],
        )


def run(options: WorkerOptions) -> None:
    """The process: never returns, since pjsua2 does not survive the interpreter's own end."""
    import uvloop

    prepare_process(realtime=options.realtime)
    uvloop.run(Worker(options).run())
    os._exit(0)
