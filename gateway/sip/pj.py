"""pjsua2, and the only place that imports it: endpoint, account, call and audio port for the worker.

The library's traps, met with both builds, that the shape of this file answers:

- every pj object lives and dies in one thread, the one that called `Endpoint.start` (`poll`, `close` too);
  the worker turns the collector off and collects there itself;
- Python is called by two native threads only for `_Port` (clock thread: copies, nothing else) and for
  RFC 4733 digits (`on_digit`: handed to the loop by the worker);
- a callback that raises is printed and forgotten by SWIG: each one here is `_guarded`, which logs it;
- members of a temporary dangle: parents (`getInfo()`, `getStreamStat()`, `rdata`) are bound to a local first;
- a call object that outlives its call hangs up the next call of its number: `sweep` says when it dies;
- the clock thread calls a port until the library's half of it is destroyed: a Python half that is gone by then is
  called in its last breath, and crashes the process (once in some thousand calls), so `sweep` destroys that half
  while the other still lives;
- a transfer that is accepted without a call object of ours leaves one that nobody owns: `newCall` is always
  given, and is buried by the worker if the library then does not dial;
- the process ends by `os._exit` after `libDestroy`: leaving otherwise hangs or crashes.

Names that are no API of the library and are leaned on: `ByteVector.this` (address of a libstdc++ vector);
`_vectors_are_fast` tests it at start and falls back to plain copies. `__swig_destroy__` of calls and ports, SWIG's
own destructor, which also takes the object out of Python's hands.
"""

from __future__ import annotations

import ctypes
import functools
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pjsua2 as pj
import structlog

from gateway.sip.options import EndpointOptions
from media.timebase import FRAME_MS, FRAME_NS

log = structlog.get_logger()

INBOX_FRAMES = 50
"""One second: the loop of the worker was away for so long that the oldest frames are dropped, counted."""
CODEC_ORDER = {"PCMU/8000/1": 130, "PCMA/8000/1": 129}
WIDEBAND_ORDER = {"G722/16000/1": 131, **CODEC_ORDER}

_TOKEN = re.compile(r"\bsip:refer-[0-9a-f]{32}@127\.0\.0\.1:")
"""What the edge puts in place of a transfer's target (`gateway/sip/transfers.py`)."""

_Vector: Any = ctypes.c_void_p * 3  # libstdc++ std::vector: begin, end, capacity
_Vector_from = _Vector.from_address
_copy_out, _copy_in = ctypes.string_at, ctypes.memmove


def _get(vector: Any) -> bytes:
    begin, end, _ = _Vector_from(int(vector.this))
    return _copy_out(begin, end - begin) if begin else b""


def _put(vector: Any, data: bytes) -> None:
    vector.resize(len(data))
    _copy_in(_Vector_from(int(vector.this))[0], data, len(data))


def _get_slowly(vector: Any) -> bytes:
    return bytes(vector)


def _put_slowly(vector: Any, data: bytes) -> None:
    vector.assign(0, 0)
    for byte in data:
        vector.append(byte)


def _vectors_are_fast() -> bool:
    """Whether a ByteVector lies in memory as this file believes: written, read back, compared."""
    vector = pj.ByteVector()
    data = bytes(range(256)) * 2
    _put(vector, data)
    return bytes(vector) == data and _get(vector) == data


_pinned: set[int] = set()


def _pin_this_thread() -> None:
    """Keep the Python state of a native thread between callbacks: 1.2 ms less a call-second."""
    if threading.get_ident() not in _pinned:
        _pinned.add(threading.get_ident())
        ctypes.pythonapi.PyGILState_Ensure()


def _guarded(method: Callable[..., None]) -> Callable[..., None]:
    """A callback's edge: SWIG would swallow the exception and leave the call as it is."""

    @functools.wraps(method)
    def call(self: Any, *args: Any) -> None:
        try:
            method(self, *args)
        except Exception:  # ends this callback alone; the call is ended by its owner
            log.exception("sip callback failed", callback=method.__name__)
            self.failed()

    return call


class CallEvents(Protocol):
    """What the worker wants to know of calls. All but `digit` come in the owner's thread."""

    def incoming(self, call: SipCall) -> None: ...
    def media_changed(self, call: SipCall) -> None: ...
    def digit(self, call: SipCall, digit: str) -> None: ...
    def ended(self, call: SipCall) -> None: ...
    def transfer(self, call: SipCall) -> SipCall | None:
        """The caller asks to be called elsewhere: what shall call there, None to refuse it for now."""
        ...

    def connected(self, call: SipCall) -> None:
        """A call that we began is answered and acknowledged."""
        ...


@dataclass(frozen=True, slots=True)
class StreamStats:
    """Counters of one call's received RTP, as pjmedia keeps them."""

    packets: int
    lost: int
    discarded: int
    duplicates: int
    jitter_us: int
    buffer_ms: int


class _Port(pj.AudioMediaPort):  # type: ignore[misc]  # pjsua2 has no types
    """One call's 20 ms port on the bridge; both callbacks run in the native clock thread."""

    def __init__(self, rate_hz: int, pull: Callable[[], bytes]) -> None:
        super().__init__()
        self.inbox: deque[tuple[bytes, int]] = deque(maxlen=INBOX_FRAMES)
        self.received = 0
        self.pulls = 0
        self.first_pull_ns = 0
        self.last_pull_ns = 0
        self.pull = pull
        self._silence = bytes(2 * rate_hz * FRAME_MS // 1000)

    def onFrameReceived(self, frame: Any) -> None:  # noqa: N802
        self.received += 1
        self.inbox.append((_get(frame.buf) or self._silence, time.monotonic_ns()))

    def onFrameRequested(self, frame: Any) -> None:  # noqa: N802
        now_ns = time.monotonic_ns()
        if not self.first_pull_ns:
            self.first_pull_ns = now_ns
            _pin_this_thread()
        self.last_pull_ns = now_ns
        self.pulls += 1
        data = self.pull()
        frame.type = pj.PJMEDIA_FRAME_TYPE_AUDIO
        _put(frame.buf, data)
        frame.size = len(data)

    def destroy(self) -> None:
        """The library's half, in the owner's thread. It waits for a callback that is under way, so who calls this
        holds the other half until it returns."""
        pj.AudioMediaPort.__swig_destroy__(self)


class SipCall(pj.Call):  # type: ignore[misc]
    """One call of the library, and its port once media is up. Without a `call_id` it is one that we begin, for a
    transfer: it has no media of ours before it is answered."""

    def __init__(self, endpoint: Endpoint, call_id: int = -1) -> None:
        super().__init__(endpoint.account, call_id)
        self._endpoint = endpoint
        self.is_ours = call_id < 0
        self.port: _Port | None = None
        self.pull: Callable[[], bytes] | None = None
        self.held = False
        self.connected = False
        self.over = False
        self.sip_call_id = ""
        self.remote = ""

    # -- what the worker asks for

    def answer_with(self, status: int, reason: str = "", retry_after_s: int | None = None) -> bool:
        """Final or provisional answer; media lines other than one audio are refused.

        False when the library will not, as with an offer that it only now finds to be no use: the call ends.
        """
        if self.over:
            return False
        op = pj.CallOpParam(True)
        op.statusCode = status
        op.reason = reason
        op.opt.audioCount = 1
        op.opt.videoCount = 0
        if hasattr(op.opt, "textCount"):  # 2.17: real-time text, 1 by default
            op.opt.textCount = 0
        if retry_after_s is not None:
            header = pj.SipHeader()
            header.hName, header.hValue = "Retry-After", str(retry_after_s)
            op.txOption.headers.append(header)
        try:
            self.answer(op)
        except pj.Error as wrong:
            log.info("answer failed", call=self.sip_call_id, status=status, error=wrong.reason)
            self.hang_up(500)
            return False
        return True

    def hang_up(self, status: int = 0) -> None:
        """End the call from our side; nothing happens if it is over."""
        if self.over:
            return
        if self.getId() < 0:  # one that the library did not dial
            self._finish()
            return
        op = pj.CallOpParam(True)
        op.statusCode = status
        try:
            self.hangup(op)
        except pj.Error as wrong:
            log.warning("hang-up failed", call=self.sip_call_id, error=wrong.reason)
            self._finish()  # the library has it no more, and may never say so

    def take_over(self, other: SipCall) -> None:
        """The port of `other`, with what is in it: who fills it and who empties it notice nothing."""
        port = other.port
        if port is not None and not other.over:
            for audio in other._audio():
                audio.stopTransmit(port)
                port.stopTransmit(audio)
        self.pull, self.port, other.pull, other.port = other.pull, port, None, None
        if self.connected:
            self._connect_all()

    def send_digits(self, digits: str) -> None:
        """RFC 4733 digits towards the caller."""
        self.dialDtmf(digits)

    def stats(self) -> StreamStats | None:
        """Counters of the received stream; None while there is none."""
        try:
            stat = self.getStreamStat(0)
        except pj.Error:
            return None
        rtcp, buffer = stat.rtcp, stat.jbuf
        received = rtcp.rxStat
        jitter = received.jitterUsec
        return StreamStats(
            received.pkt, received.loss, received.discard, received.dup, jitter.last, buffer.avgDelayMsec
        )

    # -- callbacks of the library

    def failed(self) -> None:
        """A callback of this call raised: the call ends, the others live."""
        self.hang_up(500)

    @_guarded
    def onCallState(self, prm: Any) -> None:  # noqa: N802
        info = self.getInfo()
        self.sip_call_id = self.sip_call_id or str(info.callIdString)
        if info.state == pj.PJSIP_INV_STATE_CONFIRMED and not self.connected:
            self.connected = True
            if self.is_ours:
                self._endpoint.events.connected(self)
        if info.state == pj.PJSIP_INV_STATE_DISCONNECTED:
            self._finish()

    def _finish(self) -> None:
        """Over, once."""
        if not self.over:
            self.over = True
            self._endpoint.events.ended(self)

    @_guarded
    def onCallMediaState(self, prm: Any) -> None:  # noqa: N802
        if self.pull is None or (self.is_ours and not self.connected):
            return  # it was transferred, or its target is not with us yet: early media is not heard
        self._connect_all()
        self._endpoint.events.media_changed(self)

    def resume_media(self) -> None:
        """Connect what there is; who owns the port has it already."""
        self._connect_all()

    def _connect_all(self) -> None:
        found = self._audio()
        for audio in found:
            self._connect(audio)
        self.held = not found

    def _audio(self) -> list[Any]:
        """Sound that goes now, not held by anyone."""
        info = self.getInfo()
        return [
            self.getAudioMedia(index)
            for index, media in enumerate(info.media)
            if media.type == pj.PJMEDIA_TYPE_AUDIO and media.status == pj.PJSUA_CALL_MEDIA_ACTIVE
        ]

    def _connect(self, audio: Any) -> None:
        """(Re)connect the port both ways; the library forgets it at each new negotiation."""
        if self.port is None:
            assert self.pull is not None, "the worker sets pull before it answers"
            self.port = _Port(self._endpoint.rate_hz, self.pull)
            fmt = pj.MediaFormatAudio()
            fmt.type = pj.PJMEDIA_TYPE_AUDIO
            fmt.init(pj.PJMEDIA_FORMAT_PCM, self._endpoint.rate_hz, 1, FRAME_NS // 1000, 16)
            self.port.createPort(f"call{self.getId()}", fmt)
        audio.startTransmit(self.port)
        self.port.startTransmit(audio)

    @_guarded
    def onDtmfDigit(self, prm: Any) -> None:  # noqa: N802
        self._endpoint.events.digit(self, str(prm.digit))

    @_guarded
    def onCallTransferRequest(self, prm: Any) -> None:  # noqa: N802
        prm.statusCode = 603  # unless it is the edge that says whom to call
        target = str(prm.dstUri)
        if not _TOKEN.search(target):
            log.warning("transfer refused", call=self.sip_call_id, target=target[:120])
            return
        call = self._endpoint.events.transfer(self)
        if call is None:
            prm.statusCode = 491
            return
        prm.opt.audioCount, prm.opt.videoCount = 1, 0
        if hasattr(prm.opt, "textCount"):
            prm.opt.textCount = 0
        prm.statusCode, prm.newCall = 202, call


class _Account(pj.Account):  # type: ignore[misc]
    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self._endpoint = endpoint

    def failed(self) -> None:
        """Nothing of this account's to end: the library times the INVITE out."""

    @_guarded
    def onIncomingCall(self, prm: Any) -> None:  # noqa: N802
        call = SipCall(self._endpoint, prm.callId)
        info = call.getInfo()
        call.sip_call_id, call.remote = str(info.callIdString), str(info.remoteUri)
        try:
            self._endpoint.events.incoming(call)
        except Exception:
            call.hang_up(500)
            raise


class Endpoint:
    """The library in this process. Everything but the audio callbacks happens in the thread that made it."""

    def __init__(self, options: EndpointOptions, events: CallEvents) -> None:
        self.options = options
        self.events = events
        self.rate_hz = options.rate_hz
        self.account: Any = None
        self.sip_port = 0
        self._endpoint: Any = None
        self._buried: list[SipCall] = []

    def start(self) -> None:
        """Bind SIP on a loopback port of the system's choice and begin to take calls."""
        global _get, _put
        if not _vectors_are_fast():
            log.warning("pjsua2's vectors lie elsewhere in memory: frames are copied the slow way")
            _get, _put = _get_slowly, _put_slowly
        self._endpoint = pj.Endpoint()
        self._endpoint.libCreate()
        self._endpoint.libInit(self._configuration())
        transport = pj.TransportConfig()
        transport.port, transport.boundAddress = 0, "127.0.0.1"
        number = self._endpoint.transportCreate(pj.PJSIP_TRANSPORT_UDP, transport)
        order = WIDEBAND_ORDER if self.rate_hz > 8000 else CODEC_ORDER
        for codec in self._endpoint.codecEnum2():
            self._endpoint.codecSetPriority(codec.codecId, order.get(codec.codecId, 0))
        self._endpoint.audDevManager().setNullDev()
        self._endpoint.libStart()
        info = self._endpoint.transportGetInfo(number)
        self.sip_port = int(str(info.localName).rsplit(":", 1)[1])
        self.account = _Account(self)
        self.account.create(self._account_configuration())

    def poll(self) -> None:
        """Handle what SIP has to say, without waiting. Media does not depend on it."""
        for _ in range(64):
            if self._endpoint.libHandleEvents(0) <= 0:
                return

    def bury(self, call: SipCall) -> None:
        """A call that is over is destroyed at the next `sweep`, outside of its own callback."""
        self._buried.append(call)

    def sweep(self) -> None:
        """Destroy what is buried: port first, in this thread, then the rest.

        A `pj.Call` that is destroyed hangs up whatever call has its number by then: one whose number is
        in use again waits until it is free, and the moment is not left to whoever holds the last reference.
        """
        waiting = []
        for call in self._buried:
            port, call.port, call.pull = call.port, None, None
            if port is not None:
                port.destroy()
            if call.isActive():
                waiting.append(call)
            else:
                pj.Call.__swig_destroy__(call)
        self._buried = waiting

    def close(self) -> None:
        """Hang up what is left, give the BYEs half a second, and take the library down.

        The process must leave by `os._exit` afterwards: the interpreter's own end hangs or crashes.
        """
        self._endpoint.hangupAllCalls()
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            self._endpoint.libHandleEvents(20)
        self.sweep()

    def _configuration(self) -> Any:
        config = pj.EpConfig()
        config.logConfig.level = config.logConfig.consoleLevel = 1
        ua, media = config.uaConfig, config.medConfig
        ua.maxCalls, ua.threadCnt, ua.mainThreadOnly, ua.userAgent = (
            self.options.max_calls,
            0,
            True,
            "microturn",
        )
        media.clockRate = media.sndClockRate = self.rate_hz
        media.audioFramePtime, media.channelCount, media.quality = FRAME_MS, 1, 3
        media.noVad, media.ecTailLen, media.sndAutoCloseTime = True, 0, -1
        media.jbInit, media.jbMinPre, media.jbMaxPre, media.jbMax = self.options.jitter_ms
        return config

    def _account_configuration(self) -> Any:
        config = pj.AccountConfig()
        config.idUri = f"sip:microturn@127.0.0.1:{self.sip_port}"
        media = config.mediaConfig
        media.transportConfig.boundAddress = self.options.rtp_host
        media.transportConfig.port = self.options.rtp_port
        media.transportConfig.portRange = self.options.rtp_ports
        # Where it begins in its range: the callers of a worker that was killed go on sending to the first
        # ports, and a new call on one of them would hear them and be heard by them.
        media.transportConfig.randomizePort = True
        media.srtpUse, media.srtpSecureSignaling = self.options.srtp, 0
        return config


def call_limit(most: int = 2048) -> int:
    """How many calls the library really takes in one process, by asking it for more.

    Leaves the library in no usable state: run it in a process of its own (`python -m gateway.sip.limit`).
    """
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    config = pj.EpConfig()
    config.logConfig.level = config.logConfig.consoleLevel = 0
    config.uaConfig.maxCalls = most
    endpoint.libInit(config)
    transport = pj.TransportConfig()
    transport.boundAddress = "127.0.0.1"
    endpoint.transportCreate(pj.PJSIP_TRANSPORT_UDP, transport)
    endpoint.audDevManager().setNullDev()
    endpoint.libStart()
    settings = pj.AccountConfig()
    settings.idUri = "sip:limit@127.0.0.1"
    settings.mediaConfig.transportConfig.boundAddress = "127.0.0.1"
    settings.mediaConfig.useLoopMedTp = True
    account = pj.Account()
    account.create(settings)
    _KEPT.extend((endpoint, account))
    for taken in range(most):
        call = pj.Call(account)
        _KEPT.append(call)
        try:
            call.makeCall("sip:nobody@127.0.0.1:9", pj.CallOpParam(True))
        except pj.Error:
            return taken
    return most


def version() -> str:
    """The library's own version; the library must have been created in this process."""
    told = pj.Endpoint.instance().libVersion()
    return str(told.full)


_KEPT: list[Any] = []
"""Objects of `call_limit`: destroyed by the end of the process, never by the collector."""
