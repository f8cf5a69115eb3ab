"""One call of the library, and what the worker wants to know of it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pjsua2 as pj
import structlog

from gateway.sip.pj.metronome import Ear
from gateway.sip.pj.pjmedia import STORE_FRAME_MS
from gateway.sip.pj.source import LEARN_ANEW_NS, Policy, address_of, hear_only
from gateway.sip.pj.stream import Negotiated, Stream
from media.chunker import Line
from media.timebase import FRAME_MS, TURN_MS

if TYPE_CHECKING:
    from gateway.sip.pj.endpoint import Endpoint
    from gateway.sip.pj.pjmedia import Pjmedia
    from media.chunk import PCM

log = structlog.get_logger()

CUTS_UNTROUBLED = 5
"""The statistics cost fifty times as much as a look at the store: where it has no new troubles they are asked for
after so many cuts."""
INFO_MS = 160
NO_TELEPHONE_EVENTS = 220107
"""PJMEDIA_RTP_EREMNORFC2833."""
_TOKEN = re.compile(r"\bsip:refer-[0-9a-f]{32}@127\.0\.0\.1:")
"""What the edge puts in place of a transfer's target (`gateway/sip/transfers.py`)."""


def guarded(method: Callable[..., None]) -> Callable[..., None]:
    """A callback's edge: SWIG would swallow the exception and leave the call as it is."""

    @functools.wraps(method)
    def call(self: Any, *args: Any) -> None:
        try:
            method(self, *args)
        except Exception:  # ends this callback alone; the call is ended by its owner
            log.exception(
                "sip callback failed", call=getattr(self, "sip_call_id", ""), callback=method.__name__
            )
            self.failed()

    return call


class Heard(NamedTuple):
    """What the library has seen of a stream."""

    codec: str
    packets: int
    lost: int
    jitter_ms: float
    """RFC 3550 6.4.1, of now."""
    delay_ms: float
    """Waits beyond the turn that is cut, of now."""
    round_trip_ms: float
    """By the newest RTCP report; 0 where there was none."""


class CallEvents(Protocol):
    """What the worker wants to know of calls. All but `key` come in the owner's thread."""

    def incoming(self, call: SipCall) -> None: ...
    def media_changed(self, call: SipCall) -> None: ...
    def key(self, call: SipCall, digit: str, timestamp_ms: int | None, duration_ms: int) -> None:
        """A telephone event: when its press began, by the sender's clock, and how long it has lasted; INFO has no
        time."""
        ...

    def ended(self, call: SipCall) -> None: ...
    def transfer(self, call: SipCall) -> SipCall | None:
        """The caller asks to be called elsewhere: what shall call there, None to refuse it for now."""
        ...

    def ringing(self, call: SipCall, status: int) -> None:
        """A call that we began is told that somebody is being called (180 to 183)."""
        ...

    def connected(self, call: SipCall) -> None:
        """A call that we began is answered and acknowledged."""
        ...

    def referred(self, call: SipCall, status: int, reason: str, final: bool) -> None:
        """What comes of our REFER: that it was accepted (100), then how it is with whom the peer calls; `final` is
        the last word, and so is any refusal."""
        ...


class SipCall(pj.Call):  # type: ignore[misc]
    """One call of the library, and its ear once media is up. Without a `call_id` it is one that we begin, for a
    transfer or by `place`: it has no media of ours before it is answered."""

    def __init__(self, endpoint: Endpoint, call_id: int = -1, account: Any = None) -> None:
        super().__init__(account or endpoint.account, call_id)
        endpoint.calls += 1
        self._endpoint = endpoint
        self.is_ours = call_id < 0
        self.pull: Callable[[], bytes] | None = None
        self.ear: Ear | None = None
        self.stream: Stream | None = None
        """As long as the library has it."""
        self._troubles = (0, 0, 0)
        self._line = Line(0.0, 0, 0)
        self._waiting_ms = self._cuts = 0
        self.codec = ""
        """Of its stream: PCMU, PCMA, G722."""
        self.held = False
        self.connected = False
        self.over = False
        self.sip_call_id = ""
        self.remote = ""
        self.persona = ""
        """What the edge says that the model is to be in it; empty is the usual one."""
        self.engine = ""
        """By the edge's word, too."""
        self.tenant = ""
        self.may_be_recorded = False
        """By the edge's word."""
        self.rtp_source: Policy = "learn"
        """Whom its RTP may come from."""
        self._source: tuple[str, int] | None = None
        """As of the last look."""
        self._locked_to: tuple[str, int] | None = None
        self.sound6 = False
        """It is sent over IPv6."""
        self.final = (0, "")
        """Status and reason with which it ended."""

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
        one_audio(op.opt)
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

    def place(self, uri: str, headers: Sequence[tuple[str, str]] = ()) -> bool:
        """Call `uri`; False when the library will not. Its Call-ID is known then."""
        op = pj.CallOpParam(True)
        one_audio(op.opt)
        _add_headers(op, headers)
        try:
            self.makeCall(uri, op)
        except pj.Error as wrong:
            log.warning("call failed", call=self.sip_call_id, error=wrong.reason)
            return False
        return not self.over

    def refer(self, uri: str, headers: Sequence[tuple[str, str]]) -> bool:
        """Ask the peer to call somebody else (RFC 3515); False when the library will not."""
        op = pj.CallOpParam()
        _add_headers(op, headers)
        try:
            self.xfer(f"<{uri}>", op)
        except pj.Error as wrong:
            log.warning("REFER failed", call=self.sip_call_id, error=wrong.reason)
            return False
        return True

    def hang_up(self, status: int = 0) -> None:
        """End the call from our side; nothing happens if it is over."""
        if self.over:
            return
        if self.getId() < 0:  # one that the library did not dial
            self._finish()
            return
        self._leave_stream()  # the library does not say that it destroys it when it hangs up
        op = pj.CallOpParam(True)
        op.statusCode = status
        try:
            self.hangup(op)
        except pj.Error as wrong:
            log.warning("hang-up failed", call=self.sip_call_id, error=wrong.reason)
            self._finish()  # the library has it no more, and may never say so

    def take_over(self, other: SipCall) -> None:
        """The ear of `other`, with what it has heard: who fills it notices nothing."""
        self.pull, self.ear, other.pull, other.ear = other.pull, other.ear, None, None
        other._serve_ear()
        if self.connected:
            self.resume_media()

    def send_digits(self, digits: str, way: str = "auto") -> bool:
        """Keys towards the peer: by RFC 4733 where it takes them, else, or with `way` info, by INFO. False when
        nobody is there to hear them, or too many wait."""
        if self.over or self.held or self.stream is None:
            return False
        try:
            if way == "auto" and self._sends_events(digits):
                return True
            info = pj.CallSendDtmfParam()
            info.method, info.digits, info.duration = pj.PJSUA_DTMF_METHOD_SIP_INFO, digits, INFO_MS
            self.sendDtmf(info)
        except pj.Error as wrong:
            log.info("keys not sent", call=self.sip_call_id, error=wrong.reason)
            return False
        return True

    def _sends_events(self, digits: str) -> bool:
        """False where the peer did not offer telephone events."""
        try:
            self.dialDtmf(digits)
        except pj.Error as wrong:
            if wrong.status != NO_TELEPHONE_EVENTS:
                raise
            return False
        return True

    def look(self, reader: Pjmedia | None = None) -> int | None:
        """ms that wait to be pulled; None while there is no stream, or nobody is to hear it. The clock's thread has
        a `reader` of its own."""
        stream = self.stream
        if stream is None or self.held or (self.is_ours and not self.connected):
            return None
        state = stream.state(reader)
        if state.troubles != self._troubles:
            self._troubles, self._cuts = state.troubles, CUTS_UNTROUBLED
        self._waiting_ms = stream.waiting_ms(state)
        return self._waiting_ms

    def next_frame(self, reader: Pjmedia | None = None) -> PCM | None:
        """The oldest 20 ms, after `look` has found some; None where there should be some."""
        stream = self.stream
        return stream.pull(reader) if stream is not None else None

    def line(self) -> Line:
        """What the library has seen of the packets: told now, or, where just a turn waits, in the last second."""
        self._cuts += 1
        is_as_always = TURN_MS <= self._waiting_ms <= TURN_MS + FRAME_MS
        if self._cuts > CUTS_UNTROUBLED or not is_as_always:
            stat = self._stat()
            if stat is not None:
                self._cuts = 0
                rtcp = stat.rtcp
                received = rtcp.rxStat
                jitter = received.jitterUsec
                late = self._troubles[1] * STORE_FRAME_MS // FRAME_MS - received.dup
                self._line = Line(jitter.last / 1000, received.loss, max(0, late))
        return self._line

    def heard(self) -> Heard | None:
        """Of the stream since it began; None while there is none."""
        stat = self._stat()
        if stat is None or self.stream is None:
            return None
        rtcp = stat.rtcp
        received, trip = rtcp.rxStat, rtcp.rttUsec
        return Heard(
            self.codec, int(received.pkt), int(received.loss), received.jitterUsec.last / 1000,
            float(max(0, self._waiting_ms - TURN_MS)), trip.last / 1000,
        )  # fmt: skip

    def _stat(self) -> Any:
        if self.stream is None:
            return None
        try:
            return self.getStreamStat(self.stream.index)
        except pj.Error:
            return None

    # -- callbacks of the library

    def failed(self) -> None:
        """A callback of this call raised: the call ends, the others live."""
        self.hang_up(500)

    @guarded
    def onCallState(self, prm: Any) -> None:  # noqa: N802
        info = self.getInfo()
        self.sip_call_id = self.sip_call_id or str(info.callIdString)
        if info.state == pj.PJSIP_INV_STATE_CONFIRMED and not self.connected:
            self.connected = True
            if self.is_ours:
                self._endpoint.events.connected(self)
        if info.state == pj.PJSIP_INV_STATE_EARLY and self.is_ours:
            self._endpoint.events.ringing(self, int(info.lastStatusCode))
        if info.state == pj.PJSIP_INV_STATE_DISCONNECTED:
            self.final = (int(info.lastStatusCode), str(info.lastReason))
            self._finish()

    def _finish(self) -> None:
        """Over, once."""
        self._leave_stream()
        if not self.over:
            self.over = True
            self._endpoint.events.ended(self)

    @guarded
    def onCallMediaState(self, prm: Any) -> None:  # noqa: N802
        if self.pull is None or (self.is_ours and not self.connected):
            return  # it was transferred, or its target is not with us yet: early media is not heard
        self.resume_media()
        self._endpoint.events.media_changed(self)

    def resume_media(self) -> None:
        """What is heard goes to the stream that there is, unless the call is held by anyone."""
        info = self.getInfo()
        self.held = not any(
            media.type == pj.PJMEDIA_TYPE_AUDIO and media.status == pj.PJSUA_CALL_MEDIA_ACTIVE
            for media in info.media
        )
        if self.ear is None and not self.held:
            assert self.pull is not None, "the worker sets pull before it answers"
            self.ear = Ear(self.pull)
        self._serve_ear()

    def _serve_ear(self) -> None:
        if self.stream is not None:
            self._endpoint.metronome.serve(self.stream, None if self.held else self.ear)

    @guarded
    def onStreamCreated(self, prm: Any) -> None:  # noqa: N802
        self._leave_stream()
        endpoint = self._endpoint
        port, number = int(prm.pPort), int(prm.stream)
        negotiated = self._negotiated(prm.streamIdx)
        endpoint.pjmedia.give_bridge_nothing(prm, endpoint.rate_hz)
        self.stream = Stream(endpoint.pjmedia, port, number, prm.streamIdx, endpoint.rate_hz, negotiated)
        endpoint.metronome.serve(self.stream, None)  # what is heard comes when the negotiation is over
        self._cuts = CUTS_UNTROUBLED

        self._begin_source(prm.streamIdx)

    def _begin_source(self, index: int) -> None:
        """Whom the new stream hears."""
        if self.rtp_source == "sdp":
            info, own = self.getStreamInfo(index), self.getMedTransportInfo(index)
            told = (str(info.remoteRtpAddress), str(info.remoteRtcpAddress))
            for local, remote in zip((own.localRtpName, own.localRtcpName), told, strict=True):
                if (peer := address_of(remote)) is not None:  # 0.0.0.0 is hold
                    self._hear_only(str(local), peer)
        elif self._locked_to is not None:  # negotiated anew: it may come from elsewhere now
            self._unlock(index)

    def _unlock(self, index: int) -> None:
        """Hear everybody, until it is locked again."""
        own, self._locked_to, self._source = self.getMedTransportInfo(index), None, None
        hear_only(str(own.localRtpName), None)
        hear_only(str(own.localRtcpName), None)

    def lock_source(self, silent_ns: int) -> None:
        """Once a second: where its RTP comes from now is where it comes from. The library tells the source of the
        last packet, whosever that was: it has to be the one of the SDP, or, behind NAT, the same at two looks.

        `silent_ns`: for how long no packet has come. A peer that is not heard any more may send from elsewhere now
        (its NAT forgot it, a media server took over for another): it is learned anew.
        """
        if self.rtp_source != "lock" or self.stream is None or self.held:
            return
        if self._locked_to is not None:
            if silent_ns >= LEARN_ANEW_NS:
                self._unlock(self.stream.index)
            return
        if silent_ns:  # the source of the last packet is an old one
            return
        try:
            own = self.getMedTransportInfo(self.stream.index)
            told = address_of(str(self.getStreamInfo(self.stream.index).remoteRtpAddress))
        except pj.Error:
            return
        peer = address_of(str(own.srcRtpName))
        before, self._source = self._source, peer
        if peer is not None and peer in (told, before) and self._hear_only(str(own.localRtpName), peer):
            self._locked_to = peer
            control = address_of(str(own.srcRtcpName))
            if control is not None and control[0] == peer[0]:
                self._hear_only(str(own.localRtcpName), control)

    def _hear_only(self, local: str, peer: tuple[str, int]) -> bool:
        done = hear_only(local, peer)
        if not done:
            log.warning("anybody's RTP is heard", call=self.sip_call_id, policy=self.rtp_source)
        return done

    def _negotiated(self, index: int) -> Negotiated:
        info = self.getStreamInfo(index)
        self.codec = str(info.codecName).upper()
        param = info.audCodecParam
        codec, setting = param.info, param.setting
        frames = max(1, setting.frmPerPkt)
        return Negotiated(codec.clockRate, frames * codec.frameLen // max(1, codec.frameLenDenum))

    @guarded
    def onStreamDestroyed(self, prm: Any) -> None:  # noqa: N802
        if self.stream is not None and self.stream.is_of(int(prm.stream)):
            self._leave_stream()

    def _leave_stream(self) -> None:
        """Before the library destroys it."""
        stream, self.stream = self.stream, None
        if stream is not None:
            self._endpoint.metronome.leave(stream)
            stream.close()

    @guarded
    def onDtmfEvent(self, prm: Any) -> None:  # noqa: N802
        by_info = prm.method == pj.PJSUA_DTMF_METHOD_SIP_INFO
        stamp_ms = None if by_info else int(prm.timestamp)
        self._endpoint.events.key(self, str(prm.digit), stamp_ms, int(prm.duration))

    @guarded
    def onCallTransferRequest(self, prm: Any) -> None:  # noqa: N802
        prm.statusCode = 603  # unless it is the edge that says whom to call
        target = str(prm.dstUri)
        if not _TOKEN.search(target):
            log.warning("transfer refused", call=self.sip_call_id)
            return
        call = self._endpoint.events.transfer(self)
        if call is None:
            prm.statusCode = 491
            return
        one_audio(prm.opt)
        prm.statusCode, prm.newCall = 202, call

    @guarded
    def onCallTransferStatus(self, prm: Any) -> None:  # noqa: N802
        prm.cont = not prm.finalNotify
        self._endpoint.events.referred(self, int(prm.statusCode), str(prm.reason), bool(prm.finalNotify))


def _add_headers(op: Any, headers: Sequence[tuple[str, str]]) -> None:
    for name, value in headers:
        header = pj.SipHeader()
        header.hName, header.hValue = name, value
        op.txOption.headers.append(header)


def one_audio(setting: Any) -> None:
    """Media lines other than one audio are neither offered nor taken."""
    setting.audioCount, setting.videoCount = 1, 0
    if hasattr(setting, "textCount"):  # 2.17: real-time text, 1 by default
        setting.textCount = 0
