"""One browser's connection: what comes in over its transport, and what goes out.

A call has one at a time, and gets another when its browser comes back. A peer wires the transport to the
organs: `JitterBuffer` and `Voice` for sound, `Sight` for pictures, `Channel` for text. It decides nothing
about the call.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from aiortc import RTCCertificate, RTCDataChannel

from gateway.webrtc import rtcp
from gateway.webrtc.answer import Local, write_answer
from gateway.webrtc.channel import Channel, Message
from gateway.webrtc.ice import LiteConnection
from gateway.webrtc.offer import Offer
from gateway.webrtc.rtcp import Heard
from gateway.webrtc.sight import Sight
from gateway.webrtc.transport import Transport, TransportCounters
from gateway.webrtc.voice import CLOCK_HZ, Voice
from media.jitter import JitterBuffer
from media.ladder import Line
from media.leg import Leg
from media.nack import Gaps, Repeats
from media.red import Block, parse_red
from media.reports import Reception, ReportBlock, ReportedLoss
from media.rtp import RtpPacket
from media.timebase import NS_PER_MS

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


def counts_of(counters: Any, prefix: str) -> dict[str, int]:
    """The fields of a slotted dataclass of numbers, by their prefixed names; `asdict` copies deeply, for 10 us."""
    return {prefix + name: getattr(counters, name) for name in counters.__slots__}


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
        red: bool = False,
    ) -> None:
        self.offer = offer
        self.leg = owner.leg
        self.red = offer.audio.red if red else 0
        """Payload type of redundant audio; 0 when there is none."""
        self.red_malformed = 0
        self.voice = Voice(owner.leg.playout, offer.audio.payload_type, bitrate, self.red)
        self.sight = sight
        self.transport = Transport(connection, certificate, offer, self, counters)
        self.channel: Channel | None = None
        self.receptions: dict[int, Reception] = {}
        self.loss_told = 0.0
        """What the browser said last: the part of our packets that did not come, 0 to 1."""
        self.line = Line()
        self._reported = ReportedLoss()
        self.gaps = Gaps()
        self.repeats = Repeats()
        self._owner = owner
        self._cname = secrets.token_hex(8)
        self._certificate = certificate
        self._frames = 0
        self._repeats = offer.audio.repeats
        self._round_trip_ns: int | None = None
        self._voice_type = offer.audio.payload_type
        self._voice_ssrc = 0
        self._reckoned = (0, 0)  # packets expected and lost, by the report before

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
            red=bool(self.red),
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
        """The next 20 ms of the playout, and feedback."""
        packet = self.voice.next_packet(due_ns)
        datagram = self.transport.send_rtp(packet)
        if self._repeats and datagram:
            self.repeats.keep(int.from_bytes(packet[2:4], "big"), datagram, due_ns)
        self.look(due_ns)

    def look(self, due_ns: int) -> None:
        """What the browser has to be asked for."""
        self._frames += 1
        asked = []
        if self._repeats:
            missing = self.gaps.wanted(due_ns, self._round_trip_ns, self.leg.intake.place_ns)
            if missing:
                asked.append(rtcp.nack(self.voice.ssrc, self._voice_ssrc, missing))
        if self.sight is not None and self._frames % FEEDBACK_FRAMES == 0:
            asked += self.sight.feedback(self.voice.ssrc, due_ns)
        if asked:
            self.transport.send_rtcp(self._report(due_ns, {}) + b"".join(asked))

    def report(self, now_ns: int) -> None:
        """Once a second: what we sent and what we got."""
        if not self.transport.is_connected:
            return
        blocks = {ssrc: reception.block(now_ns) for ssrc, reception in self.receptions.items()}
        self._watch_line(now_ns)
        packet = self._report(now_ns, blocks)
        if self.sight is not None:
            packet += self.sight.budget(self.voice.ssrc)
        self.transport.send_rtcp(packet)

    def counts(self) -> dict[str, int]:
        """Of repairs, rungs, the camera and the data channel."""
        counted = counts_of(self.gaps.counters, "gaps_")
        counted |= self.line.counts()
        counted["red_malformed"] = self.red_malformed
        counted |= counts_of(self.repeats.counters, "repeats_")
        if self.sight is not None:
            counted |= {f"video_{name}": value for name, value in self.sight.counts().items()}
        if self.channel is not None:
            counted |= {"messages_refused": self.channel.refused, "messages_dropped": self.channel.dropped}
        return counted

    def heard(self) -> tuple[int, int]:
        """Packets of speech that came, and that did not, by their numbers."""
        reception = self.receptions.get(self._voice_ssrc)
        if reception is None:
            return 0, 0
        return max(0, reception.expected - reception.lost), max(0, reception.lost)

    async def close(self, reason: str) -> None:
        """Goodbye, if it still can be heard."""
        if self.transport.is_connected and self.offer.audio.listens:
            farewell = rtcp.goodbye(self.voice.ssrc)
            self.transport.send_rtcp(self._report(time.monotonic_ns(), {}) + farewell)
        if self.sight is not None:
            self.sight.close()
        await self.transport.close(reason)

    # -- what comes in

    def connected(self) -> None:
        self._owner.connected(self)

    def rtp(self, packet: RtpPacket, arrival_ns: int) -> None:
        if packet.payload_type == self._voice_type:
            self._receive_voice(packet, packet.payload, (), arrival_ns)
        elif self.red and packet.payload_type == self.red:
            blocks = parse_red(packet.payload, self._voice_type)
            if blocks is None:
                self.red_malformed += 1
                return
            *older, newest = blocks
            self._receive_voice(packet, newest.payload, older, arrival_ns)
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
                self._told(heard, arrival_ns)
            self._repeat(rtcp.repeats_wanted(packet, self.voice.ssrc), arrival_ns)

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

    def _told(self, heard: Heard, now_ns: int) -> None:
        self.loss_told = heard.loss
        lost = self._reported.update(heard.highest_sequence, heard.lost, now_ns)
        if heard.round_trip_ms is not None:
            self._round_trip_ns = int(heard.round_trip_ms * NS_PER_MS)
        self.line.outward.update(lost, heard.round_trip_ms, now_ns)
        self.voice.tune(heard.loss, self.line.opus_bit_s, now_ns)

    def _report(self, now_ns: int, blocks: Mapping[int, ReportBlock]) -> bytes:
        """Every compound packet begins with one (RFC 3550 6.1): whoever offers no reduced size may ask for that."""
        listens = self.offer.audio.listens
        return rtcp.report(self.voice.sent(now_ns), self._cname, blocks, sending=listens)

    def _watch_line(self, now_ns: int) -> None:
        """By all that came since the last report; where nothing came nothing is known."""
        sums = [(reception.expected, reception.lost) for reception in self.receptions.values()]
        before, self._reckoned = self._reckoned, (sum(s[0] for s in sums), sum(s[1] for s in sums))
        expected, lost = (now - then for now, then in zip(self._reckoned, before, strict=True))
        if expected <= 0:
            return
        loss = min(1.0, max(0.0, lost / expected))
        if self.line.inward.update(loss, self.round_trip_ms, now_ns) and self.sight is not None:
            self.sight.ask(self.line.camera)

    @property
    def round_trip_ms(self) -> float | None:
        """By the browser's newest report that says so."""
        return None if self._round_trip_ns is None else self._round_trip_ns / NS_PER_MS

    def _receive_voice(
        self, packet: RtpPacket, payload: bytes, older: Iterable[Block], arrival_ns: int
    ) -> None:
        """What was repeated for us was lost on the way all the same: the browser's reports and FEC go by that."""
        ssrc, newest, its_time = packet.ssrc, packet.sequence, packet.timestamp
        self._voice_ssrc = ssrc
        repeated = self.gaps.receive(ssrc, newest, arrival_ns)
        if not repeated:
            self._receive_report(packet, CLOCK_HZ, arrival_ns)
        intake = self.leg.intake
        for block in older:
            sequence, timestamp = (newest - block.behind) & 0xFFFF, (its_time - block.offset) & 0xFFFFFFFF
            if intake.receive_redundant(ssrc, sequence, timestamp, block.payload, arrival_ns):
                self.gaps.mend(sequence)
        intake.receive_packet(ssrc, newest, its_time, payload, arrival_ns, repeated=repeated)

    def _repeat(self, sequences: list[int], now_ns: int) -> None:
        if self._repeats and self.transport.is_connected:
            for datagram in self.repeats.again(sequences, now_ns, self._round_trip_ns):
                self.transport.repeat_rtp(datagram)

    def _receive_report(self, packet: RtpPacket, clock_hz: int, arrival_ns: int) -> None:
        reception = self.receptions.get(packet.ssrc)
        if reception is None:
            if len(self.receptions) >= MAX_STREAMS:
                del self.receptions[next(iter(self.receptions))]
            reception = self.receptions[packet.ssrc] = Reception(clock_hz)
        reception.receive(packet.sequence, packet.timestamp, arrival_ns)
