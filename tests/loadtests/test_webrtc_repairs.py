"""What the load generator's callers offer, ask for and give again."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from aiortc import rtp

from loadtests.webrtc_loop import DatagramPort
from loadtests.webrtc_media import Voice
from loadtests.webrtc_repairs import PATIENCE_NS, RED_TYPE, Asking, offered
from loadtests.webrtc_streams import ArrivalStatistics, AudioStream, Losses, RtpSlot
from media.nack import RETRY_NS
from media.red import parse_red
from media.rtp import RtpPacket, parse_packet
from media.timebase import FRAME_NS, NS_PER_MS

OFFER = (
    "m=audio 9 UDP/TLS/RTP/SAVPF 96 0\r\na=rtpmap:96 opus/48000/2\r\na=rtpmap:0 PCMU/8000\r\n"
    "m=video 9 UDP/TLS/RTP/SAVPF 97\r\na=rtpmap:97 VP8/90000\r\n"
)
SLOT = RtpSlot(96, 7, "0", 1, 65_534, 100)
VOICE = Voice(np.zeros(0, np.int16), tuple(b"%d" % number for number in range(50)), 20)


class Line:
    """Keeps what is sent, and what came before."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.told: list[bytes] = []
        self.port = cast(DatagramPort, SimpleNamespace(datagrams=[], arrivals_ns=array("q")))

    def send(self, packet: bytes) -> bool:
        self.sent.append(packet)
        return True

    def send_rtcp(self, packet: bytes) -> bool:
        self.told.append(packet)
        return True

    def come(self, sequence: int, at_ns: int) -> None:
        header = bytes([0x80, 96]) + (sequence & 0xFFFF).to_bytes(2, "big") + bytes(4) + bytes([0, 0, 0, 9])
        self.port.datagrams.append(header + b"encrypted")
        self.port.arrivals_ns.append(at_ns)

    def asked(self) -> list[int]:
        """Sequence numbers of all NACKs so far, each in a compound packet of its own."""
        found = []
        for told in self.told:
            report, names, packet = rtp.RtcpPacket.parse(told)
            assert isinstance(report, rtp.RtcpRrPacket) and isinstance(names, rtp.RtcpSdesPacket)
            assert isinstance(packet, rtp.RtcpRtpfbPacket) and packet.media_ssrc == 9
            found += packet.lost
        return found

    def reported(self) -> list[tuple[int, int]]:
        """Of the newest of them: fraction lost, and lost in all, of each stream."""
        report, *_ = rtp.RtcpPacket.parse(self.told[-1])
        assert isinstance(report, rtp.RtcpRrPacket) and report.ssrc == 7
        return [(block.fraction_lost, block.packets_lost) for block in report.reports if block.ssrc == 9]


def test_offers_have_what_a_browser_with_our_page_offers() -> None:
    assert offered(OFFER, "fec") == OFFER
    assert offered(OFFER, "nack").replace("a=rtcp-fb:96 nack\r\n", "") == OFFER
    red = offered(OFFER, "red")
    assert red.startswith(f"m=audio 9 UDP/TLS/RTP/SAVPF {RED_TYPE} 96 0\r\n")
    assert f"a=rtpmap:{RED_TYPE} red/48000/2\r\na=fmtp:{RED_TYPE} 96/96\r\n" in red
    assert red.count("m=") == 2 and "SAVPF 97\r\n" in red
    with pytest.raises(ValueError, match="no Opus"):
        offered("v=0\r\n", "nack")


def test_what_is_missing_is_asked_for_once_a_round_trip_and_known_when_it_comes() -> None:
    line = Line()
    asking = Asking(line, 7)
    asking.round_trip_ns = 60 * NS_PER_MS
    for number in (65_534, 65_535, 2):  # 0 and 1 are missing
        line.come(number, 0)
    for step in range(1, 4):
        asking.due_ns = step * FRAME_NS
        asking.send()
    assert line.asked() == [0, 1]
    line.come(0, 80 * NS_PER_MS)
    line.come(3, 80 * NS_PER_MS)
    asking.due_ns = 4 * FRAME_NS
    asking.send()
    assert asking.repeated == [3] and line.asked() == [0, 1, 1]
    asking.due_ns = PATIENCE_NS + 80 * NS_PER_MS
    asking.send()
    assert asking.gaps.counters.lost == 1


def test_a_request_reports_the_loss_that_its_repeats_will_hide() -> None:
    line = Line()
    asking, statistics = Asking(line, 7), ArrivalStatistics(line.port, 48_000)
    for number in (65_534, 65_535, 2):
        line.come(number, 0)
    asking.due_ns = FRAME_NS
    asking.send()
    assert line.asked() == [0, 1] and line.reported() == []  # nothing is counted yet
    asking.statistics = statistics
    asking.due_ns = FRAME_NS + RETRY_NS
    asking.send()
    assert line.reported() == [(256 * 2 // 5, 2)]
    for number in (0, 1, 0, 1):  # the second request was not needed: SRTP drops what it brings
        line.come(number, FRAME_NS + RETRY_NS)
    line.come(4, FRAME_NS + RETRY_NS)
    assert (statistics.fraction_lost, statistics.packets_lost) == (0, 1)


def test_a_packet_that_is_asked_for_goes_again_as_it_was() -> None:
    line = Line()
    stream = AudioStream(line, SLOT, VOICE, 0, Losses(0.0, "x"))
    for _ in range(5):
        stream.send()
    stream.resend(0)
    assert line.sent[5] == line.sent[2]
    stream.resend(0)  # within a round trip
    stream.resend(9_999)
    assert len(line.sent) == 6 and stream.repeats.counters.refused == 2


def test_redundant_audio_carries_the_packet_before() -> None:
    line = Line()
    slot = RtpSlot(96, 7, "0", 1, 65_534, 100, red=RED_TYPE)
    stream = AudioStream(line, slot, VOICE, 0, Losses(0.0, "x"))
    for _ in range(3):
        stream.send()
    packets = [parse_packet(datagram) for datagram in line.sent]
    blocks = [
        parse_red(packet.payload, 96)
        for packet in packets
        if isinstance(packet, RtpPacket) and packet.payload_type == RED_TYPE
    ]
    assert [[(b.behind, b.offset, b.payload) for b in found or []] for found in blocks] == [
        [(0, 0, b"0")],
        [(1, 960, b"0"), (0, 0, b"1")],
        [(1, 960, b"1"), (0, 0, b"2")],
    ]
