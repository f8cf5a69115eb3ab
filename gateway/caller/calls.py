"""Placing calls: `place_call` for one, `Caller` for many in one process.

A `Caller` owns the sockets, the pacer and the timers; a `Dialog` and an `RtpStream` per call hold the
rest. It returns a `CallLog`, raw; the analysis (`gateway.caller.report`) is for when no call is live any
more, since it would hold up the pacing of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from gateway.caller.codec import CLOCK_HZ, FRAME_TICKS, Codec, find_codec
from gateway.caller.dialog import Answered, Dialog, Ended, LocalMedia, MediaChanged, Ringing
from gateway.caller.messages import Address, Message, SipUri, StreamSplitter, parse_message, parse_uri
from gateway.caller.pacer import Pacer
from gateway.caller.report import CallReport, report_call
from gateway.caller.sdp import RemoteAudio
from gateway.caller.stream import RtpStream, open_rtp_socket

Samples = NDArray[np.int16]

MAX_REDIRECTS = 2
_FORGET_S = 32.0  # timer D of RFC 3261: how long a final response may come again


@dataclass(frozen=True, slots=True)
class CallPlan:
    """One call to make. Raises ValueError for what cannot be called or played."""

    uri: str
    codec: str  # PCMU, PCMA or G722
    play_pcm: Samples  # int16 [n], played once, then silence
    play_rate_hz: int = 16000
    seconds: float | None = None  # from the answer to the BYE; None: as long as what is played
    dtmf: str = ""  # sent from one second after the answer, in place of audio
    record: bool = True  # keep the received samples in the report
    lead_in_s: float = 0.2  # silence first: the peer's media path opens and learns our address
    tail_s: float = 1.0  # silence last: what we said gets back before we hang up
    answer_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        parse_uri(self.uri)
        find_codec(self.codec)
        if self.play_rate_hz <= 0 or (self.seconds is not None and self.seconds <= 0):
            raise ValueError("a call needs a positive sample rate and length")

    @property
    def length_s(self) -> float:
        """How long the call lasts once it is answered."""
        if self.seconds is not None:
            return self.seconds
        return self.lead_in_s + self.play_pcm.size / self.play_rate_hz + self.tail_s

    def timeline(self) -> Samples:
        """int16 [whole packets] at the codec's rate: lead-in, what is played, tail."""
        codec = find_codec(self.codec)
        tail_s = min(self.tail_s, self.length_s / 4)
        packets = max(1, int(self.length_s * CLOCK_HZ) // FRAME_TICKS)
        pcm = np.zeros(packets * FRAME_TICKS * codec.samples_per_tick, dtype=np.int16)
        start = round(min(self.lead_in_s, tail_s) * codec.rate_hz)
        room = max(0, pcm.size - start - round(tail_s * codec.rate_hz))
        play = self.play_pcm
        if self.play_rate_hz != codec.rate_hz:
            play = soxr.resample(play, self.play_rate_hz, codec.rate_hz)
        played = play[:room]
        pcm[start : start + played.size] = played
        return pcm


@dataclass(slots=True)
class CallLog:
    """What happened in one call, not yet looked at. Times are monotonic ns."""

    plan: CallPlan
    codec: Codec
    sent_pcm: Samples  # the timeline at the codec's rate
    status: int = 0  # final SIP status of the INVITE
    reason: str = ""
    retry_after_s: int | None = None
    ended_by: str = ""
    invited_ns: int = 0
    ringing_ns: int | None = None
    answered_ns: int | None = None
    media_at: Address | None = None  # where the peer listened
    listened_until_ns: int = 0
    received_type: int = -1  # RTP payload type of the codec
    send_errors: int = 0
    sent_ns: array[int] = field(default_factory=lambda: array("q"))
    audio_sent: bytearray = field(default_factory=bytearray)
    datagrams: list[bytes] = field(default_factory=list)
    arrivals_ns: array[int] = field(default_factory=lambda: array("q"))

    @property
    def answered(self) -> bool:
        return self.answered_ns is not None


async def place_call(plan: CallPlan) -> CallReport:
    """Make one call from invitation to hang-up and say how it was. A refused call is a report, not an error.

    Raises OSError when no socket can be had or a TCP or TLS peer does not accept.
    """
    async with Caller() as caller:
        return report_call(await caller.place(plan))


class Caller:
    """Makes many calls at once. An async context manager; one SIP socket per local address, one pacer for
    all."""

    def __init__(self) -> None:
        self.pacer = Pacer()
        self._rng = random.SystemRandom()  # unseeded: a Call-ID must never come again
        self._dialogs: dict[str, _LiveDialog] = {}
        self._udp: dict[str, asyncio.DatagramTransport] = {}
        self._udp_lock = asyncio.Lock()

    async def __aenter__(self) -> Caller:
        await self.pacer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for live in self._dialogs.values():
            live.close()
        for transport in self._udp.values():
            transport.close()
        await self.pacer.__aexit__(kind, error, trace)

    async def place(self, plan: CallPlan, begun: Callable[[RtpStream], None] | None = None) -> CallLog:
        """Call, play, listen, hang up. Follows a redirection (3xx) up to twice.

        `begun` is told the stream when media begins: who speaks while the call goes on writes into its `payload`
        ahead of `next_index`, and reads `datagrams`.
        """
        codec = find_codec(plan.codec)
        pcm = await asyncio.to_thread(plan.timeline)  # both take milliseconds that the pacer cannot spare
        payload = await asyncio.to_thread(codec.encode, pcm)
        target = parse_uri(plan.uri)
        for _ in range(MAX_REDIRECTS + 1):
            log = CallLog(plan, codec, pcm)
            redirect = await self._attempt(target, log, payload, begun)
            if not redirect:
                break
            try:
                target = parse_uri(redirect)
            except ValueError:
                break
        return log

    def wind_up(self) -> None:
        """Calls that are up fall silent now, and hang up when `tail_s` of their plans has passed, if not before."""
        for live in self._dialogs.values():
            live.wind_up()

    def streams(self) -> list[RtpStream]:
        """Media of the calls that are up, in the order in which they were placed: a load test cuts their lines."""
        return [live.talking.stream for live in self._dialogs.values() if live.talking is not None]

    async def _attempt(
        self, target: SipUri, log: CallLog, payload: bytes, begun: Callable[[RtpStream], None] | None
    ) -> str:
        """One INVITE and what follows. Returns where a 3xx points, or ''."""
        name, target = target.host, await _resolve(target)
        host = _local_host(target.address)
        rtp = open_rtp_socket(host)
        live: _LiveDialog | None = None
        try:
            media = LocalMedia(host, rtp.getsockname()[1], log.codec.name, log.codec.payload_type)
            live = await self._open_dialog(target, host, media, name)
            log.invited_ns = time.monotonic_ns()
            live.dialog.invite(log.invited_ns)
            live.flush()
            ended = await self._wait_for_answer(live, log)
            if ended is None:
                assert live.audio is not None
                stream = self._make_stream(rtp, live.audio, payload, log)
                if begun is not None:
                    begun(stream)
                ended = await self._talk(live, stream, log)
            log.status, log.reason, log.ended_by = ended.status, ended.reason, ended.by
            log.retry_after_s = ended.retry_after_s
            if log.answered:
                log.status, log.reason = 200, "OK"
            elif log.status == 200:  # the answer crossed our CANCEL
                log.status, log.reason = 408, "answered too late"
            return ended.redirect
        finally:
            if live is not None:
                asyncio.get_running_loop().call_later(_FORGET_S, self._forget, live)
            rtp.close()

    async def _wait_for_answer(self, live: _LiveDialog, log: CallLog) -> Ended | None:
        """None once the call is up with audio that we can send; else how it ended."""
        try:
            async with asyncio.timeout(log.plan.answer_timeout_s):
                await live.answered_or_ended.wait()
        except TimeoutError:
            live.hang_up()
            await live.ended.wait()
        except asyncio.CancelledError:
            live.hang_up()
            raise
        log.ringing_ns = live.ringing_ns
        if live.end is not None:
            return live.end
        if live.audio is not None and live.audio.payload_type(log.codec.name) is not None:
            log.answered_ns = live.answered_ns
            return None
        live.hang_up()
        await live.ended.wait()
        return Ended(488, f"the answer has no {log.codec.name}", "us")

    def _make_stream(self, rtp: socket.socket, audio: RemoteAudio, payload: bytes, log: CallLog) -> RtpStream:
        number = audio.payload_type(log.codec.name)
        assert number is not None
        log.media_at = (audio.host, audio.port)
        log.received_type = log.codec.payload_type  # the peer uses our offer's numbers (RFC 3264 section 5.1)
        return RtpStream(
            rtp,
            (audio.host, audio.port) if audio.wants_audio else None,
            payload,
            number,
            ssrc=self._rng.getrandbits(32),
            sequence=self._rng.getrandbits(16),
            timestamp=self._rng.getrandbits(32),
            dtmf=log.plan.dtmf,
        )

    async def _talk(self, live: _LiveDialog, stream: RtpStream, log: CallLog) -> Ended:
        """Media until the plan is over or the peer hangs up, then BYE."""
        live.stream = stream
        self.pacer.add(stream)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(len(stream.payload) / CLOCK_HZ) as until:
                    live.talking = Talking(stream, log, until)
                    await live.ended.wait()
        finally:
            live.talking = None
            log.listened_until_ns = time.monotonic_ns()
            self.pacer.remove(stream)
            live.hang_up()
            log.sent_ns, log.audio_sent = stream.sent_ns, stream.audio_sent
            log.send_errors = stream.send_errors
            log.datagrams, log.arrivals_ns = stream.datagrams, stream.arrivals_ns
        await live.ended.wait()
        assert live.end is not None
        return live.end

    async def _open_dialog(self, target: SipUri, host: str, media: LocalMedia, name: str) -> _LiveDialog:
        """`name`: whom the certificate of a TLS peer has to be for. OpenSSL knows whom to trust (SSL_CERT_FILE)."""
        reliable = target.transport != "udp"
        if reliable:
            of_tls = {"ssl": ssl.create_default_context(), "server_hostname": name}
            more: dict[str, Any] = of_tls if target.transport == "tls" else {}
            reader, writer = await asyncio.open_connection(*target.address, **more)
            local: Address = writer.get_extra_info("sockname")[:2]
            send: Callable[[bytes, Address], None] = lambda data, _: writer.write(data)  # noqa: E731
        else:
            transport = await self._udp_transport(host)
            local = transport.get_extra_info("sockname")[:2]
            send = transport.sendto
        live = _LiveDialog(Dialog(target, local, media, rng=self._rng, transport=target.transport), send)
        self._dialogs[live.dialog.call_id] = live
        if reliable:
            live.reader = asyncio.create_task(_read_tcp(reader, writer, self._dispatch), name="sip-tcp")
        return live

    async def _udp_transport(self, host: str) -> asyncio.DatagramTransport:
        async with self._udp_lock:
            if host not in self._udp:
                loop = asyncio.get_running_loop()
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _SipDatagrams(self._dispatch), local_addr=(host, 0)
                )
                sock = transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                self._udp[host] = transport
            return self._udp[host]

    def _dispatch(self, data: bytes, source: Address) -> None:
        message = parse_message(data)
        live = self._dialogs.get(message.call_id) if message is not None else None
        if message is not None and live is not None:
            live.receive(message, source)

    def _forget(self, live: _LiveDialog) -> None:
        self._dialogs.pop(live.dialog.call_id, None)
        live.close()


@dataclass(frozen=True, slots=True)
class Talking:
    """A call whose media runs, and when it is to end."""

    stream: RtpStream
    log: CallLog
    until: asyncio.Timeout

    def wind_up(self) -> None:
        """Silence from the next packet on, and the end after the plan's tail, if not before."""
        now_s, tail_s = asyncio.get_running_loop().time(), self.log.plan.tail_s
        ends_s = self.until.when()
        if ends_s is not None and ends_s > now_s + tail_s:
            self.until.reschedule(now_s + tail_s)
            codec, said = self.log.codec, self.stream.next_index * FRAME_TICKS
            self.log.sent_pcm[said * codec.samples_per_tick :] = 0
            silence: bytes = codec.encode(
                np.zeros((len(self.stream.payload) - said) * codec.samples_per_tick, np.int16)
            )
            self.stream.payload = self.stream.payload[:said] + silence


class _LiveDialog:
    """A dialog with its timer, its way out, and what it has said so far."""

    def __init__(self, dialog: Dialog, send: Callable[[bytes, Address], None]) -> None:
        self.dialog = dialog
        self.stream: RtpStream | None = None
        self.talking: Talking | None = None
        self.reader: asyncio.Task[None] | None = None
        self.audio: RemoteAudio | None = None
        self.ringing_ns: int | None = None
        self.answered_ns: int | None = None
        self.end: Ended | None = None
        self.answered_or_ended = asyncio.Event()
        self.ended = asyncio.Event()
        self._send = send
        self._timer: asyncio.TimerHandle | None = None

    def receive(self, message: Message, source: Address) -> None:
        self.dialog.receive(message, source, time.monotonic_ns())
        self.flush()

    def hang_up(self) -> None:
        self.dialog.hang_up(time.monotonic_ns())
        self.flush()

    def wind_up(self) -> None:
        if self.talking is not None:
            self.talking.wind_up()

    def close(self) -> None:
        """Drop the timer and the connection; sends nothing."""
        if self._timer is not None:
            self._timer.cancel()
        if self.reader is not None:
            self.reader.cancel()

    def flush(self) -> None:
        """After each call into the dialog: send, tell, and set the timer."""
        now_ns = time.monotonic_ns()
        for data, address in self.dialog.outgoing():
            self._send(data, address)
        for event in self.dialog.events():
            self._take(event, now_ns)
        if self._timer is not None:
            self._timer.cancel()
        deadline_ns = self.dialog.next_deadline()
        self._timer = None
        if deadline_ns is not None:
            delay_s = max(0.0, (deadline_ns - now_ns) / 1e9)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._poll)

    def _poll(self) -> None:
        self.dialog.poll(time.monotonic_ns())
        self.flush()

    def _take(self, event: Ringing | Answered | MediaChanged | Ended, now_ns: int) -> None:
        if isinstance(event, Ringing):
            self.ringing_ns = self.ringing_ns or now_ns
        elif isinstance(event, Answered):
            self.audio, self.answered_ns = event.audio, now_ns
            self.answered_or_ended.set()
        elif isinstance(event, MediaChanged):
            self.audio = event.audio
            if self.stream is not None:
                wanted = event.audio.wants_audio
                self.stream.remote = (event.audio.host, event.audio.port) if wanted else None
        else:
            self.end = event
            self.ended.set()
            self.answered_or_ended.set()


class _SipDatagrams(asyncio.DatagramProtocol):
    def __init__(self, receive: Callable[[bytes, Address], None]) -> None:
        self._receive = receive

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._receive(data, (addr[0], addr[1]))


async def _read_tcp(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, receive: Callable[[bytes, Address], None]
) -> None:
    splitter, peer = StreamSplitter(), writer.get_extra_info("peername")
    try:
        while data := await reader.read(65536):
            for message in splitter.feed(data):
                receive(message, (peer[0], peer[1]))
    except (OSError, ValueError):
        pass  # the dialog's timers end the call
    finally:
        writer.close()


async def _resolve(target: SipUri) -> SipUri:
    """The target with an address for its host: IPv4, unless it is an IPv6 address. Raises OSError when the name is
    not known."""
    family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    found = await asyncio.get_running_loop().getaddrinfo(
        target.host, target.port, family=family, type=socket.SOCK_DGRAM
    )
    return replace(target, host=str(found[0][4][0]))


def _local_host(remote: Address) -> str:
    """Our address as that peer sees it. Connecting a UDP socket sends nothing."""
    family = socket.AF_INET6 if ":" in remote[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(remote)
        host: str = probe.getsockname()[0]
    return host
