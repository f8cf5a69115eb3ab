"""One browser's connection: what comes in over its transport, and what goes out.

A call has one at a time, and gets another when its browser comes back. A peer wires the transport to the
organs: `JitterBuffer` and `Voice` for sound, `Sight` for pictures, `Channel` for text. It decides nothing
about the call.
"""

from __future__ import annotations

import secrets
import time
from typing import Protocol

from aiortc import RTCCertificate, RTCDataChannel

from gateway.webrtc import rtcp
from gateway.webrtc.answer import Local, write_answer
from gateway.webrtc.channel import Channel, Message
from gateway.webrtc.ice import LiteConnection
from gateway.webrtc.offer import Offer
from gateway.webrtc.sight import Sight
from gateway.webrtc.transport import Transport, TransportCounters
from gateway.webrtc.voice import CLOCK_HZ, Voice
from media.jitter import JitterBuffer
from media.leg import Leg
from media.reports import Reception
from media.rtp import RtpPacket

MAX_STREAMS = 8
"""SSRCs that are reported on; a browser has one or two."""
FEEDBACK_FRAMES = 2
"""NACK and PLI are looked at every so many 20 ms frames."""


class Owner(Protocol):
    """The call, as its peer knows it."""

    @property
    def leg(self) -> Leg[JitterBuffer]: ...
    def connected(self, peer: Peer) -> None: ...
    def opened(self, peer: Peer) -> None: ...
    def told(self, peer: Peer, message: Message) -> None: ...
    def away(self, peer: Peer) -> None: ...
    def back(self, peer: Peer) -> None: ...
    def closed(self, peer: Peer, reason: str) -> None: ...


class Peer:
    """From an offer to the end of its transport. `transport.Events`."""

    def __init__(
        self,
        owner: Owner,
        connection: LiteConnection,
        certificate: RTCCertificate,
        offer: Offer,
        sight: Sight | None,
        counters: TransportCounters,
        *,
        bitrate: int,
    ) -> None:
        self.offer = offer
        self.leg = owner.leg
        self.voice = Voice(owner.leg.playout, offer.audio.payload_type, bitrate)
        self.sight = sight
        self.transport = Transport(connection, certificate, offer, self, counters)
        self.channel: Channel | None = None
        self.receptions: dict[int, Reception] = {}
        self.loss_told = 0.0
        """What the browser said last: the part of our packets that did not come, 0 to 1."""
        self.round_trip_ms: float | None = None
        self._owner = owner
        self._cname = secrets.token_hex(8)
        self._certificate = certificate
        self._frames = 0
        self._video_ssrc = 0

    async def answer(self, video_kbps: int) -> str:
        """Be reachable, and say how; `ConnectionError` when there is no room."""
        await self.transport.gather()
        connection = self.transport.connection
        digest = next(f for f in self._certificate.getFingerprints() if f.algorithm == "sha-256")
        local = Local(
            ufrag=connection.local_username,
            pwd=connection.local_password,
            candidates=tuple(connection.candidate_lines()),
            fingerprint=f"sha-256 {digest.value}",
            sctp_port=self.transport.sctp_port,
            ssrc=self.voice.ssrc,
            cname=self._cname,
            video_kbps=video_kbps,
        )
        text = write_answer(self.offer, local)
        self.transport.start()
        return text

    def restart_ice(self, ufrag: str, pwd: str) -> str:
        """New credentials on both sides (RFC 8445 9); ours as a fragment (RFC 8840 4.4)."""
        connection = self.transport.connection
        ours = connection.restart()
        connection.remote_username, connection.remote_password = ufrag, pwd
        section = self.offer.sections[0]
        return "\r\n".join(
            [
                "a=ice-lite",
                f"a=ice-ufrag:{ours[0]}",
                f"a=ice-pwd:{ours[1]}",
                f"m={section.kind} 9 {section.profile} {section.format}",
                f"a=mid:{self.offer.accepted[0]}",
                *(f"a=candidate:{line}" for line in connection.candidate_lines()),
                "a=end-of-candidates",
                "",
            ]
        )

    # -- what goes out

    def speak(self, due_ns: int) -> None:
        """The next 20 ms of the playout, and feedback on pictures."""
        self.transport.send_rtp(self.voice.next_packet(due_ns))
        self.look(due_ns)

    def look(self, due_ns: int) -> None:
        """What the camera's sender has to be asked for."""
        self._frames += 1
        if self.sight is not None and self._frames % FEEDBACK_FRAMES == 0:
            for packet in self.sight.feedback(self.voice.ssrc, due_ns):
                self.transport.send_rtcp(packet)

    def report(self, now_ns: int) -> None:
        """Once a second: what we sent and what we got."""
        if not self.transport.is_connected:
            return
        blocks = {ssrc: reception.block(now_ns) for ssrc, reception in self.receptions.items()}
        listens = self.offer.audio.listens
        packet = rtcp.report(self.voice.sent(now_ns), self._cname, blocks, sending=listens)
        if self.sight is not None:
            packet += self.sight.budget(self.voice.ssrc)
        self.transport.send_rtcp(packet)

    def counts(self) -> dict[str, int]:
        """Of the camera and the data channel."""
        counted: dict[str, int] = {}
        if self.sight is not None:
            counted = {f"video_{name}": value for name, value in self.sight.counts().items()}
        if self.channel is not None:
            counted |= {"messages_refused": self.channel.refused, "messages_dropped": self.channel.dropped}
        return counted

    async def close(self, reason: str) -> None:
        """Goodbye, if it still can be heard."""
        if self.transport.is_connected and self.offer.audio.listens:
            self.transport.send_rtcp(rtcp.goodbye(self.voice.ssrc))
        if self.sight is not None:
            self.sight.close()
        await self.transport.close(reason)

    # -- what comes in

    def connected(self) -> None:
        self._owner.connected(self)

    def rtp(self, packet: RtpPacket, arrival_ns: int) -> None:
        if packet.payload_type == self.offer.audio.payload_type:
            self._receive_report(packet, CLOCK_HZ, arrival_ns)
            self.leg.intake.receive_packet(
                packet.ssrc, packet.sequence, packet.timestamp, packet.payload, arrival_ns
            )
        elif self.sight is not None and self.sight.receive(packet, arrival_ns):
            self._receive_report(packet, 90_000, arrival_ns)

    def rtcp(self, data: bytes, arrival_ns: int) -> None:
        now_ntp = rtcp.ntp_now()
        packets = rtcp.parse(data)
        if packets is None:
            self.transport.counters.rtcp_malformed += 1
            return
        for packet in packets:
            report = rtcp.sender_report_of(packet)
            if report is not None and report[0] in self.receptions:
                self.receptions[report[0]].receive_report(report[1], arrival_ns)
            heard = rtcp.heard(packet, self.voice.ssrc, now_ntp)
            if heard is not None:
                self.loss_told, self.round_trip_ms = heard.loss, heard.round_trip_ms
                self.voice.tune(heard.loss, arrival_ns)

    def channel_opened(self, wire: RTCDataChannel) -> None:
        if self.channel is not None:
            self.transport.counters.channels_refused += 1
            wire.close()
            return
        channel = self.channel = Channel(wire, lambda message: self._owner.told(self, message))
        wire.on("message", lambda data: channel.receive(data, time.monotonic_ns()))
        self._owner.opened(self)

    def away(self) -> None:
        self._owner.away(self)

    def back(self) -> None:
        self._owner.back(self)

    def closed(self, reason: str) -> None:
        self._owner.closed(self, reason)

    def _receive_report(self, packet: RtpPacket, clock_hz: int, arrival_ns: int) -> None:
        reception = self.receptions.get(packet.ssrc)
        if reception is None:
            if len(self.receptions) >= MAX_STREAMS:
                del self.receptions[next(iter(self.receptions))]
            reception = self.receptions[packet.ssrc] = Reception(clock_hz)
        reception.receive(packet.sequence, packet.timestamp, arrival_ns)
