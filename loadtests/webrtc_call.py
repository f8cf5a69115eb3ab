"""One call of the load generator: WHIP (RFC 9725) by aiohttp, the session by aiortc, media by our own streams.

    offer -> POST -> answer -> ICE, DTLS -> RTP both ways -> DELETE

One rule: nothing is decoded while calls are live; a call leaves a `CallLog`.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from array import array
from collections import deque
from dataclasses import dataclass, field
from urllib.parse import urljoin

import aiohttp
import numpy as np
from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.sdp import MediaDescription, SessionDescription

from loadtests import aiortc_taps as taps
from loadtests.webrtc_media import OPUS_HZ, Clip, Samples, Voice, first_heard
from loadtests.webrtc_repairs import Asking, offered
from loadtests.webrtc_streams import ArrivalStatistics, AudioStream, Losses, Pacer, RtpSlot, VideoStream

SETUP_TIMEOUT_S = 15.0
HANG_UP_TIMEOUT_S = 10.0
MESSAGES = 16_384  # an hour of captions
REPORT_S = 0.4  # how often what aiortc's reports will say is renewed
MID = "urn:ietf:params:rtp-hdrext:sdes:mid"


@dataclass(frozen=True, slots=True)
class CallPlan:
    """One call as it is to be made."""

    index: int
    whip_url: str
    token: str
    voice: Voice
    voice_number: int
    offset: int  # packets into the voice
    clip: Clip | None
    loss: float
    seed: int
    channel: bool  # open the data channel, as the page does
    repair: str = "nack"  # see `webrtc_repairs.py`
    typed: tuple[tuple[float, str], ...] = ()  # (seconds after its first packet, line), over the channel
    keeps_messages: bool = False  # of the data channel, with their times

    @property
    def name(self) -> str:
        return f"{self.seed} {self.index}"


@dataclass(slots=True)
class CallLog:
    """What happened in one call. Times are monotonic ns, 0 for what did not happen."""

    index: int
    voice_number: int
    offset: int
    ptime_ms: int
    status: int = 0  # HTTP status of the POST; 0 when there was no answer
    reason: str = ""  # why the call did not come about
    retry_after_s: int | None = None
    posted_ns: int = 0
    answered_ns: int = 0
    connected_ns: int = 0
    first_rtp_ns: int = 0
    ended_by: str = ""  # "us", "peer", "refused", or "failed"
    listened_until_ns: int = 0
    sent_ns: array[int] = field(default_factory=lambda: array("q"))
    left: bytearray = field(default_factory=bytearray)
    dropped: int = 0  # by --loss
    send_errors: int = 0
    datagrams: list[bytes] = field(default_factory=list)  # RTP, unprotected, in order of arrival
    arrivals_ns: array[int] = field(default_factory=lambda: array("q"))
    repeated: list[int] = field(default_factory=list)  # of datagrams: those that we had asked for
    red: int = 0  # payload type of redundant audio among them; 0 for none
    asked: int = 0  # packets, each as often as we asked for it
    resent: int = 0  # packets of sound, because a NACK asked for them
    forged: int = 0  # not from our peer's keys
    video_frames: int = 0
    video_restarts: int = 0  # key frames sent because they were asked for
    video_resent: int = 0  # packets, because a NACK asked for them
    video_dropped: int = 0  # packets, by --loss
    messages: int = 0  # over the data channel
    told: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=MESSAGES))
    """The newest messages, where they are kept: (when, text)."""
    head: Samples = field(default_factory=lambda: np.zeros(0, np.int16))
    """What the first packets decode to for one who did not hear those before, [n] at ANALYSIS_HZ."""


class WebrtcCall:
    """A call from its offer to its log."""

    def __init__(self, plan: CallPlan, pacer: Pacer, http: aiohttp.ClientSession) -> None:
        self._plan, self._pacer, self._http = plan, pacer, http
        self.log = CallLog(plan.index, plan.voice_number, plan.offset, plan.voice.ptime_ms)
        # Not max-bundle: there aiortc takes the candidates of the last section, which may have none.
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connected = asyncio.Event()
        self._over = asyncio.Event()
        self._connection.on("connectionstatechange", self._state_changed)
        self._resource = ""
        self._path: taps.MediaPath | None = None
        self._audio: AudioStream | None = None
        self._asking: Asking | None = None
        self._video: VideoStream | None = None
        self._channel: RTCDataChannel | None = None

    async def run(self, until_s: float) -> None:
        """Talk until a monotonic time, or until the peer ends it. Failures are in the log."""
        try:
            async with asyncio.timeout(SETUP_TIMEOUT_S):
                await self._set_up()
            if self.log.ended_by != "refused":
                await self._talk(until_s)
        except TimeoutError:
            self._fail("not connected in time" if self.log.answered_ns else "no answer to the offer in time")
        except (OSError, aiohttp.ClientError, ValueError, KeyError) as error:
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            await self._close()

    def finish(self) -> CallLog:
        """The log, when all calls are over: it takes a second for a million packets."""
        self._write_log()
        return self.log

    def _fail(self, reason: str) -> None:
        self.log.ended_by, self.log.reason = "failed", reason

    def _state_changed(self) -> None:
        state = self._connection.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("failed", "closed"):
            self._over.set()
            self._connected.set()

    # -- set-up

    async def _set_up(self) -> None:
        self._connection.addTransceiver(taps.SilentTrack("audio"), direction="sendrecv")
        if self._plan.clip is not None:
            video = self._connection.addTransceiver(taps.SilentTrack("video"), direction="sendonly")
            codecs = [c for c in RTCRtpSender.getCapabilities("video").codecs if c.mimeType == "video/VP8"]
            video.setCodecPreferences(codecs)
        if self._plan.channel:
            self._open_channel()
        await self._connection.setLocalDescription(await self._connection.createOffer())
        answer = await self._post(offered(self._connection.localDescription.sdp, self._plan.repair))
        if not answer:
            return
        await self._connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await self._connected.wait()
        if self._over.is_set():
            raise ConnectionError("ICE or DTLS failed")
        self.log.connected_ns = time.monotonic_ns()
        self._start_media(answer)

    def _open_channel(self) -> None:
        self._channel = channel = self._connection.createDataChannel("microturn", protocol="microturn.v1")

        @channel.on("open")
        def opened() -> None:
            channel.send(json.dumps({"type": "hello", "version": 1}))

        @channel.on("message")
        def came(message: str | bytes) -> None:
            self.log.messages += 1
            if self._plan.keeps_messages and isinstance(message, str):
                self.log.told.append((time.monotonic_ns(), message))

    async def _post(self, offer: str) -> str:
        """The SDP answer, or "" when it was refused."""
        self.log.posted_ns = time.monotonic_ns()
        headers = {"Content-Type": "application/sdp"} | self._authorization()
        async with self._http.post(self._plan.whip_url, data=offer.encode(), headers=headers) as response:
            body = await response.text()
            self.log.status = response.status
            if response.status != 201:
                retry = response.headers.get("Retry-After", "")
                self.log.retry_after_s = int(retry) if retry.isdigit() else None
                self.log.ended_by, self.log.reason = "refused", body.strip()[:200]
                return ""
            self.log.answered_ns = time.monotonic_ns()
            if location := response.headers.get("Location"):
                self._resource = urljoin(str(response.url), location)
        return body

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._plan.token}"} if self._plan.token else {}

    # -- media

    def _start_media(self, answer: str) -> None:
        plan, connection = self._plan, self._connection
        described = SessionDescription.parse(answer)
        rng = random.Random(plan.name)
        audio = taps.find_transceiver(connection, "audio")
        assert audio is not None
        self._path = path = taps.MediaPath(taps.transport_of(audio))
        slot = _agreed(described, "audio", "audio/opus", audio.sender, rng)
        self.log.red = slot.red
        self._audio = AudioStream(path, slot, plan.voice, plan.offset, Losses(plan.loss, f"{plan.name} a"))
        if plan.repair == "nack":
            taps.answer_feedback(audio.sender, self._audio)
            self._asking = Asking(path, slot.ssrc)
        video = taps.find_transceiver(connection, "video")
        if video is not None and plan.clip is not None:
            slot = _agreed(described, "video", "video/VP8", video.sender, rng)
            self._video = VideoStream(path, slot, plan.clip, Losses(plan.loss, f"{plan.name} v"))
            taps.answer_feedback(video.sender, self._video)
        self._pacer.watch(path.port)
        self._pacer.add(self._audio)
        for stream in (self._video, self._asking):
            if stream is not None:
                self._pacer.add(stream)

    async def _talk(self, until_s: float) -> None:
        """Until it is time, keeping aiortc's reports filled."""
        assert self._path is not None and self._audio is not None
        reporting = False
        loop, channel = asyncio.get_running_loop(), self._channel
        if channel is not None:
            for after_s, line in self._plan.typed:
                loop.call_later(after_s, channel.send, json.dumps({"type": "text", "text": line}))
        while (left_s := until_s - time.monotonic()) > 0 and not self._over.is_set():
            await asyncio.sleep(min(left_s, REPORT_S))
            self._fill_sender_reports()
            self._learn_round_trip()
            if not reporting and self._path.port.datagrams:
                reporting = True
                self._fill_receiver_reports()
        self._path.port.read()
        self.log.ended_by = "peer" if self._over.is_set() else "us"

    def _learn_round_trip(self) -> None:
        audio = taps.find_transceiver(self._connection, "audio")
        if audio is not None and self._asking is not None and self._audio is not None:
            self._asking.round_trip_ns = self._audio.round_trip_ns = taps.round_trip_ns(audio.sender)

    def _fill_sender_reports(self) -> None:
        for kind, stream in (("audio", self._audio), ("video", self._video)):
            transceiver = taps.find_transceiver(self._connection, kind)
            if stream is not None and transceiver is not None:
                packets = len(stream.sent_ns) if isinstance(stream, AudioStream) else stream.packets
                taps.fill_sender_report(transceiver.sender, stream.timestamp, packets, stream.octets)

    def _fill_receiver_reports(self) -> None:
        assert self._path is not None
        audio = taps.find_transceiver(self._connection, "audio")
        assert audio is not None
        ssrc = int.from_bytes(self._path.port.datagrams[0][8:12], "big")
        statistics = ArrivalStatistics(self._path.port, OPUS_HZ)
        taps.fill_receiver_reports(audio.receiver, ssrc, statistics)
        if self._asking is not None:
            self._asking.statistics = statistics

    def _stop_sending(self) -> None:
        for stream in (self._audio, self._video, self._asking):
            if stream is not None:
                self._pacer.remove(stream)

    # -- the end

    async def _close(self) -> None:
        self._stop_sending()
        self.log.listened_until_ns = time.monotonic_ns()
        try:
            async with asyncio.timeout(HANG_UP_TIMEOUT_S):
                if self._resource:
                    async with self._http.delete(self._resource, headers=self._authorization()):
                        pass
                await self._connection.close()
        except (TimeoutError, OSError, aiohttp.ClientError):
            self.log.reason = self.log.reason or "hang-up failed"

    def _write_log(self) -> None:
        log = self.log
        if self._path is not None:
            plain, arrivals_ns = self._path.take_all()
            log.first_rtp_ns = arrivals_ns[0] if arrivals_ns else 0
            log.datagrams = [packet for packet in plain if packet is not None]
            if self._asking is not None:
                places = np.cumsum([packet is not None for packet in plain]) - 1
                log.repeated = [int(places[at]) for at in self._asking.repeated if plain[at] is not None]
                log.asked = self._asking.gaps.counters.asked
            log.arrivals_ns = array(
                "q", (at for packet, at in zip(plain, arrivals_ns, strict=True) if packet)
            )
            log.forged = len(plain) - len(log.datagrams)
        if self._audio is not None:
            log.sent_ns, log.left = self._audio.sent_ns, self._audio.left
            log.dropped = log.left.count(0) - self._audio.refused
            log.send_errors = self._audio.refused
            log.resent = self._audio.repeats.counters.repeated
            log.head = first_heard(self._plan.voice, self._plan.offset)
        if self._video is not None:
            log.video_frames, log.video_restarts = self._video.frames, self._video.restarts
            log.video_resent, log.video_dropped = self._video.resent, self._video.losses.dropped


def _agreed(
    answer: SessionDescription, kind: str, mime: str, sender: RTCRtpSender, rng: random.Random
) -> RtpSlot:
    """How our packets of a kind have to look. ValueError when the answer lacks the codec."""
    media: MediaDescription | None = next((m for m in answer.media if m.kind == kind and m.port), None)
    codecs = [codec for codec in media.rtp.codecs if codec.mimeType.lower() == mime.lower()] if media else []
    if media is None or not codecs:
        raise ValueError(f"the answer has no {mime}")
    assert codecs[0].payloadType is not None
    red = [codec.payloadType for codec in media.rtp.codecs if codec.mimeType.lower() == "audio/red"]
    numbers = [extension.id for extension in media.rtp.headerExtensions if extension.uri == MID]
    return RtpSlot(
        payload_type=codecs[0].payloadType,
        ssrc=taps.ssrc_of(sender),
        mid=media.rtp.muxId,
        mid_extension=numbers[0] if numbers else 0,
        sequence=rng.randrange(1 << 15),  # libsrtp's index must not wrap before it was seen once
        timestamp=rng.randrange(1 << 32),
        red=red[0] or 0 if red else 0,
    )
