"""A WebRTC worker: one process, its UDP and TCP port, its browser calls from offer to end.

One thread and no more for sound: the loop takes packets as they come, the pacer asks each call for its next
20 ms, and `gateway/turns.py` cuts and publishes. Pictures are decoded by one more thread (`video.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import os
import socket
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from gateway import control
from gateway.commands import obey
from gateway.cut_time import BROWSER_COST_NS, CutTime
from gateway.figures import TELL_S, Quality, figures_of
from gateway.histogram import SETUP, Histogram
from gateway.realtime.call import RealtimeCall
from gateway.realtime.socket import Sockets
from gateway.recording.call import CallRecording, Recorder
from gateway.safety.screen import Screens
from gateway.state.records import Figures
from gateway.webrtc.call import BrowserCall
from gateway.webrtc.certificate import Certificate
from gateway.webrtc.ice import IceServer, IceSettings
from gateway.webrtc.offer import Offer, Refused, read_offer
from gateway.webrtc.options import WebrtcOptions
from gateway.webrtc.pacer import Pacer
from gateway.webrtc.peer import Peer
from gateway.webrtc.sight import BUDGET_BIT_S, Sight
from gateway.webrtc.tally import Tally
from gateway.webrtc.transport import TransportCounters
from gateway.webrtc.video import DecoderThread
from gateway.webrtc.voice import Voice
from gateway.worker_process import WorkerProcess, prepare_process
from media.chunk import Reply
from media.codecs.opus import OpusDecoder
from media.jitter import JitterBuffer
from media.leg import WAKE_NS, Leg, Tenancy
from media.rtp import RtpPacket, parse_packet
from media.timebase import FRAME_NS, FRAMES_PER_TURN, MODEL_HZ, NS_PER_S, phase_offset_ns

log = structlog.get_logger()


@dataclass(slots=True)
class Counters:
    """Of this process's calls, since its start."""

    calls_answered: int = 0
    """Media flowed."""
    calls_refused: int = 0
    calls_ended: int = 0
    calls_broken: int = 0
    calls_resumed: int = 0
    calls_timed_out: int = 0
    """Away for longer than a browser may be."""
    offers_malformed: int = 0
    ice_restarts: int = 0


Carried = BrowserCall | RealtimeCall


class Worker:
    """Calls of one process."""

    def __init__(self, options: WebrtcOptions) -> None:
        self.options = options
        self.counters = Counters()
        self.quality = Quality("browser")
        self._setup = Histogram("setup_browser", SETUP)
        self.transport_counters = TransportCounters()
        self.process = WorkerProcess(
            options.name, options.control, options.model, CutTime(options.max_calls, BROWSER_COST_NS),
            ready=self._ready, is_busy=lambda: bool(self._calls), look_after=self._look_after,
            report=self._report, hear=self._hear, attend=self._attend, takes_notes=options.traces,
            engines=options.engines,
        )  # fmt: skip
        self.turns, self.link = self.process.turns, self.process.link
        self.recorder = Recorder(options.recording, options.announcements, MODEL_HZ)
        self.screens = Screens(options.safety, MODEL_HZ, self.link.tell) if options.safety else None
        self.ice = IceServer(_ice_settings(options))
        self.pacer = Pacer()
        self.decoder = DecoderThread()
        self.certificate = Certificate.generateCertificate()
        self._tally = Tally()
        self.sockets = Sockets() if options.realtime_api else None
        self._calls: dict[str, Carried] = {}
        self._seconds = 0

    async def run(self) -> None:
        """Take calls until told to stop."""
        self.process.heed_signals()
        await self.ice.start()
        if self.sockets is not None:
            self.sockets.start()
        warm_up(self.certificate)
        await self.process.serve(self.pacer.run())
        for call in list(self._calls.values()):
            call.end("drain")
        await asyncio.sleep(0.05)  # for the goodbyes
        self.process.close()
        self.recorder.stop()
        self.decoder.close()
        await self.ice.close()
        if self.sockets is not None:
            await self.sockets.close()

    # -- requests of the main process

    def _hear(self, message: control.MainMessage) -> None:
        match message:
            case control.Offer():
                self.process.spawn(self._reply(message.id, message.call, self._take_offer(message)))
            case control.IceRestart():
                self.link.tell(self._restart_ice(message))
            case control.Candidates():
                known = message.call in self._calls  # an ICE-lite agent learns addresses from checks
                self.link.tell(control.Answered(message.id, 204 if known else 404, call=message.call))
            case control.HangUp():
                call = self._calls.get(message.call)
                if call is not None:
                    call.end("hangup")
                self.link.tell(control.Answered(message.id, 200 if call else 404, call=message.call))
            case control.TaskNews():
                call = self._calls.get(message.call)
                if call is not None:
                    call.conversation.take_news(message)
            case control.Command():
                self.link.tell(obey(self._calls.get(message.call), message))
            case control.Look():
                self.process.spawn(self._look(message))

    async def _look(self, message: control.Look) -> None:
        """Answered in any case; as many at once as the calls have tasks."""
        call = self._calls.get(message.call)
        try:
            jpeg, reason = await call.still() if call is not None else (b"", "the call is over")
        except Exception as wrong:  # the edge of a call
            log.error("no picture", call=message.call, exc_info=wrong)
            jpeg, reason = b"", "the gateway failed on it"
        self.link.tell(control.Still(message.call, message.task, message.number, jpeg, reason))

    async def _reply(self, number: int, call: str, work: Coroutine[Any, Any, control.Answered]) -> None:
        try:
            answered = await work
        except Exception as wrong:  # the edge of a call: its browser is told, the others go on
            log.error("offer broken", call=call, exc_info=wrong)
            self.counters.calls_broken += 1
            answered = control.Answered(number, 500, reason="the gateway failed on this offer")
        self.link.tell(answered)

    async def _take_offer(self, message: control.Offer) -> control.Answered:
        offer = read_offer(message.sdp, want_video=self.options.video)
        if isinstance(offer, Refused):
            self.counters.offers_malformed += 1
            return control.Answered(message.id, offer.status, reason=offer.reason)
        if message.resume:
            return await self._resume(message, offer)
        call = BrowserCall(
            message.call,
            message.persona,
            message.engine,
            live=self._live,
            ended=self._ended,
            tell=self.link.tell,
        )
        call.leg.turn = message.turn
        if message.context:
            call.leg.receive_text(message.context)
        refused = await self._seat(call, message, announces=not message.turn)
        return refused or await self._carry(message.id, call, offer)

    def _attend(self, message: control.Attend, connection: socket.socket) -> None:
        self.process.spawn(self._reply(message.id, message.call, self._take_client(message, connection)))

    async def _take_client(self, message: control.Attend, connection: socket.socket) -> control.Answered:
        """The connection is ours with 201, and closed here else: the main process has its own."""
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            if self.sockets is None:
                return self._full(message.id, "this worker takes no clients of /v1/realtime")
            call = RealtimeCall(
                message.call, message.persona, message.engine, buffer_s=self.options.realtime_buffer_s,
                live=self._live, ended=self._ended, tell=self.link.tell,
            )  # fmt: skip
            refused = await self._seat(call, message)
            if refused is not None:
                return refused
            call.conversation.engine = self.turns.kind_of(call)
            try:
                await self.sockets.take_up(connection, message.head, call)
            except OSError as wrong:
                call.end("lost")
                return self._full(message.id, f"the client is gone: {wrong.strerror}")
            undo.pop_all()
        return control.Answered(message.id, 201, call=message.call)

    async def _seat(
        self, call: Carried, message: control.Offer | control.Attend, *, announces: bool = True
    ) -> control.Answered | None:
        """A place and a slot for a new call; else why not."""
        if not self.turns.is_attached(message.engine):
            told = f"engine {message.engine}" if message.engine else "the usual engine"
            return self._full(message.id, f"no model server of {told} is there")
        if len(self._calls) >= self.options.max_calls:
            return self._full(message.id)
        self._calls[call.name] = call
        if self.screens is not None:
            self.screens.look_after(call, message.persona, message.tenant, message.engine)
        call.recording = CallRecording(
            self.recorder, call.name, call.name, call.leg, self.link.tell, call.first_pull_ns,
            allowed=message.recording, announces=announces,
        )  # fmt: skip
        if not await self.turns.lease(call):
            self._calls.pop(call.name, None)
            call.recording.end()
            return self._full(message.id)
        return None

    async def _resume(self, message: control.Offer, offer: Offer) -> control.Answered:
        _, _, rest = message.resume.partition(".")
        name, _, secret = rest.partition(".")
        call = self._calls.get(name)
        if not isinstance(call, BrowserCall) or not hmac.compare_digest(
            call.secret.encode(), secret.encode()
        ):
            return control.Answered(message.id, 404, reason="there is no such call to resume: make a new one")
        self.counters.calls_resumed += 1
        return await self._carry(message.id, call, offer)

    async def _carry(self, number: int, call: BrowserCall, offer: Offer) -> control.Answered:
        """Give the call a peer; it begins, or goes on, when media flows."""
        table = self.turns.table_of(call)
        if table is not None:
            call.video_size = table.video_size
        call.conversation.engine = self.turns.kind_of(call)
        sight = None
        if offer.video is not None and self.options.video:
            sight = Sight(offer.video, self.decoder, self.options.video_frames_per_chunk)
        connection = self.ice.new_connection()
        peer = Peer(
            call, connection, self.certificate, offer, sight, self.transport_counters,
            bitrate=self.options.bitrate, red=self.options.red,
        )  # fmt: skip
        try:
            sdp = await peer.answer(BUDGET_BIT_S // 1000)
        except ConnectionError:
            if call.peer is None and not call.was_live:
                call.end("lost")
            return self._full(number)
        call.carry(peer)
        token = f"{self.options.name}.{call.name}.{call.secret}"
        return control.Answered(number, 201, sdp=sdp, call=call.name, resume=token)

    def _restart_ice(self, message: control.IceRestart) -> control.Answered:
        call = self._calls.get(message.call)
        if not isinstance(call, BrowserCall) or call.peer is None:
            return control.Answered(message.id, 404, reason="there is no such call", call=message.call)
        self.counters.ice_restarts += 1
        fragment = call.peer.restart_ice(message.ufrag, message.pwd)
        return control.Answered(message.id, 200, sdp=fragment, call=message.call)

    def _full(self, number: int, reason: str = "no room for another call now") -> control.Answered:
        self.counters.calls_refused += 1
        return control.Answered(number, 503, reason=reason, retry_after_s=self.options.retry_after_s)

    # -- calls

    def _live(self, call: Carried) -> None:
        """Media flows for the first time: its ear is served where its replies are ready."""
        tenancy, table = call.leg.tenancy, self.turns.table_of(call)
        ready_ns = 0
        if tenancy is not None and table is not None:
            ready_ns = phase_offset_ns(tenancy.group, table.groups) + tenancy.budget_ns + WAKE_NS
        self.pacer.add(call, ready_ns)
        self._setup.observe((time.monotonic_ns() - call.offered_ns) // 1_000)
        self.counters.calls_answered += 1
        log.info("call", call=call.name)

    def _ended(self, call: Carried, reason: str) -> None:
        if self._calls.pop(call.name, None) is None:
            return
        self.pacer.remove(call)
        figures, notes = self._figures(call), self.turns.notes_of(call)
        self.quality.note(figures)
        self.turns.leave(call)
        if call.recording is not None:
            call.recording.end()
        self._tally.close(call)
        self.counters.calls_ended += 1
        self.process.garbage.call_ended()
        self.link.tell(control.CallEnded(call.name, call.cause, figures, notes))
        log.info("call over", call=call.name, reason=reason)

    def _figures(self, call: Carried) -> Figures:
        return figures_of(call.line_sums, self.turns.sums_of(call), call.leg, call.conversation.tasks_begun)

    # -- once a second

    async def _look_after(self) -> None:
        """RTCP, and calls that have been away for too long."""
        self._seconds += 1
        for call in list(self._calls.values()):
            self._look_after_one(call, time.monotonic_ns())
            await asyncio.sleep(0)  # a turn may be due

    def _look_after_one(self, call: Carried, now_ns: int) -> None:
        since_ns = call.away_since_ns
        if since_ns is not None and now_ns - since_ns > self.options.resume_s * NS_PER_S:
            self.counters.calls_timed_out += 1
            call.end("timeout")
            return
        try:
            call.report(now_ns)
        except Exception as wrong:  # the edge of a call
            call.fail(wrong)
        if not call.is_over:
            self._tally.note(call)
            if call.recording is not None:
                call.recording.poll()
            if self._seconds % TELL_S == 0:
                self.quality.note(figures := self._figures(call))
                self.link.tell(control.Measured(call.name, figures))

    def _report(self) -> control.Report:
        return control.Report(self._sums(), self._gauges())

    def _sums(self) -> dict[str, int]:
        sums = dataclasses.asdict(self.counters) | self.turns.report() | self.recorder.report()
        for kind, counters in (("transport", self.transport_counters), ("ice", self.ice.counters)):
            sums |= {f"{kind}_{name}": value for name, value in dataclasses.asdict(counters).items()}
        sums |= self._tally.sums() | (self.screens.report() if self.screens is not None else {})
        if self.sockets is not None:
            counted = dataclasses.asdict(self.sockets.counters)
            sums |= {f"realtime_{name}": value for name, value in counted.items()}
        sums["pacer_steps_left_out"] = self.pacer.steps_left_out
        sums |= self.quality.report() | self._setup.report()
        return sums

    def _gauges(self) -> dict[str, float]:
        away = sum(call.away_since_ns is not None for call in self._calls.values())
        own = {"calls_live": float(len(self._calls)), "browsers_away": float(away)}
        return own | self.turns.gauges()

    def _ready(self) -> control.WebrtcReady:
        for call in self._calls.values():
            call.conversation.tell_again()
            if call.recording is not None:
                call.recording.tell_again()
        return control.WebrtcReady(
            worker=self.options.name,
            pid=os.getpid(),
            capacity=self.options.max_calls,
            attached=self.turns.is_attached(""),
            calls=list(self._calls),
            udp_port=self.ice.udp_port,
            tcp_port=self.ice.tcp_port,
            ufrags={
                name: call.peer.transport.connection.local_username
                for name, call in self._calls.items()
                if isinstance(call, BrowserCall) and call.peer is not None
            },
            engines=[engine for engine in self.turns.attached if engine],
        )


def warm_up(certificate: Certificate) -> None:
    """Two turns of a leg that nobody hears, and OpenSSL's first context, which takes 5 to 25 ms: what is only slow
    the first time must not be a caller's first turn."""
    certificate.prepare()
    leg = Leg(JitterBuffer(OpusDecoder(MODEL_HZ)))
    voice = Voice(leg.playout, 96, 32_000)
    leg.lease(Tenancy(0, 1, 0, 0))
    now_ns = time.monotonic_ns()
    for frame in range(2 * FRAMES_PER_TURN):
        due_ns = now_ns + frame * FRAME_NS
        packet = parse_packet(voice.next_packet(due_ns))
        assert isinstance(packet, RtpPacket)
        leg.intake.receive_packet(packet.ssrc, packet.sequence, packet.timestamp, packet.payload, due_ns)
        if frame % FRAMES_PER_TURN == FRAMES_PER_TURN - 1:
            chunk = leg.cut(due_ns, due_ns, due_ns)
            assert chunk is not None
            leg.receive_reply(Reply(1, chunk.turn, due_ns, chunk.pcm))


def _ice_settings(options: WebrtcOptions) -> IceSettings:
    return IceSettings(
        host=options.host,
        public_hosts=(options.public_host,) if options.public_host else (),
        udp_port=options.udp_port,
        tcp_port=options.tcp_port or None,
        tcp_only=options.tcp_only,
        consent_s=float(options.consent_s),
        max_connections=2 * options.max_calls,  # a resumed call has two for a moment
    )


def run(options: WebrtcOptions) -> None:
    """The process, until it is told to stop."""
    import uvloop

    prepare_process(realtime=options.realtime)
    uvloop.run(Worker(options).run())
