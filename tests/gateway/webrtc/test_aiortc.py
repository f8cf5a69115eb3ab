"""What we lean on in aiortc, private names included: this fails on an upgrade that changes them."""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
import random
import struct
from pathlib import Path

import pylibsrtp
import pytest
from aiortc import RTCCertificate, RTCDtlsTransport, RTCSctpTransport, rtp
from aiortc.rtcdtlstransport import RTCDtlsParameters

from gateway.webrtc import rtcp
from media.reports import ReportBlock

SEEDS = Path(__file__).resolve().parents[4] / "shared" / "data" / "fuzz" / "rtcp"


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("aiortc").startswith("1.16.")


class Pipe:
    """Two ends of a line, in memory, as an ICE transport looks to DTLS."""

    role = "controlled"

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue(maxsize=256)
        self.far: Pipe | None = None

    async def _recv(self) -> bytes:
        return await self.inbox.get()

    async def _send(self, data: bytes) -> None:
        assert self.far is not None
        await self.far.inbox.put(data)


class Dtls(RTCDtlsTransport):
    keyed = 0
    heard: bytes = b""

    def _setup_srtp(self) -> None:
        super()._setup_srtp()
        self.keyed += 1

    async def _handle_rtcp_data(self, data: bytes) -> None:
        self.heard += data


def test_dtls_takes_our_ice_gives_keys_and_hands_rtcp_over() -> None:
    async def story() -> tuple[Dtls, Dtls, bytes]:
        near, far = Pipe(), Pipe()
        near.far, far.far = far, near
        ends = [Dtls(pipe, [RTCCertificate.generateCertificate()]) for pipe in (near, far)]  # type: ignore[arg-type]
        for end, role in zip(ends, ("client", "server"), strict=True):
            end._set_role(role)
        parameters = [RTCDtlsParameters(end.getLocalParameters().fingerprints) for end in ends]
        await asyncio.gather(ends[0].start(parameters[1]), ends[1].start(parameters[0]))
        assert [end.state for end in ends] == ["connected", "connected"]
        packet = rtcp.goodbye(7)
        await near._send(ends[0]._tx_srtp.protect_rtcp(packet))
        while not ends[1].heard:
            await asyncio.sleep(0)
        media = b"\x80\x60" + bytes(10) + b"voice"
        assert ends[1]._rx_srtp.unprotect(ends[0]._tx_srtp.protect(media)) == media
        with pytest.raises(pylibsrtp.Error):
            ends[1]._rx_srtp.unprotect(bytes(40))
        await ends[0].stop()
        while ends[1].state != "closed":
            await asyncio.sleep(0)
        return ends[0], ends[1], packet

    one, two, packet = asyncio.run(asyncio.wait_for(story(), 10))
    assert (one.keyed, two.keyed) == (1, 1)
    assert two.heard == packet


def test_sctp_starts_with_the_port_of_the_offer() -> None:
    assert list(inspect.signature(RTCSctpTransport.start).parameters) == ["self", "remoteCaps", "remotePort"]


BLOCK = ReportBlock(64, 12, 70_000, 480, 0x11223344, 0x8000)


def test_our_reports_are_read_by_others_as_they_were_meant() -> None:
    sent = rtcp.Sent(ssrc=7, timestamp=960, packets=3, octets=240)
    head, names = rtp.RtcpPacket.parse(rtcp.report(sent, "me", {9: BLOCK}, sending=True))
    assert isinstance(head, rtp.RtcpSrPacket) and isinstance(names, rtp.RtcpSdesPacket)
    assert (head.sender_info.rtp_timestamp, head.sender_info.packet_count) == (960, 3)
    (block,) = head.reports
    assert (block.ssrc, block.fraction_lost, block.packets_lost, block.highest_sequence) == (
        9,
        64,
        12,
        70_000,
    )
    assert (block.jitter, block.lsr, block.dlsr) == (480, 0x11223344, 0x8000)
    quiet, _ = rtp.RtcpPacket.parse(rtcp.report(sent, "me", {9: BLOCK}, sending=False))
    assert isinstance(quiet, rtp.RtcpRrPacket)


def test_what_we_ask_for() -> None:
    for data, kind, fmt in (
        (rtcp.nack(7, 9, [65535, 65536, 3]), rtp.RtcpRtpfbPacket, rtp.RTCP_RTPFB_NACK),
        (rtcp.key_frame_wanted(7, 9), rtp.RtcpPsfbPacket, rtp.RTCP_PSFB_PLI),
        (rtcp.bitrate_wanted(7, 9, 300_000), rtp.RtcpPsfbPacket, rtp.RTCP_PSFB_APP),
    ):
        (packet,) = rtp.RtcpPacket.parse(data)
        assert isinstance(packet, kind) and packet.fmt == fmt
    (again,) = rtp.RtcpPacket.parse(rtcp.nack(7, 9, [65535, 65536, 3]))
    assert isinstance(again, rtp.RtcpRtpfbPacket) and sorted(again.lost) == [0, 3, 65535]
    (remb,) = rtp.RtcpPacket.parse(rtcp.bitrate_wanted(7, 9, 300_000))
    assert isinstance(remb, rtp.RtcpPsfbPacket)
    bit_s, ssrcs = rtp.unpack_remb_fci(remb.fci)
    assert ssrcs == [9] and abs(bit_s - 300_000) < 1000


def test_what_is_asked_of_us() -> None:
    (packet,) = rtp.RtcpPacket.parse(rtcp.nack(7, 9, [65534, 65535, 0, 3]))
    assert sorted(rtcp.repeats_wanted(packet, 9)) == [0, 3, 65534, 65535]
    assert rtcp.repeats_wanted(packet, 7) == []  # of another stream
    wrapping = struct.pack("!BBHIIHH", 0x81, 205, 3, 7, 9, 65535, 0b101)
    (packet,) = rtp.RtcpPacket.parse(wrapping)
    assert rtcp.repeats_wanted(packet, 9) == [65535, 0, 2]
    (other,) = rtp.RtcpPacket.parse(rtcp.key_frame_wanted(7, 9))
    assert rtcp.repeats_wanted(other, 9) == []


def test_a_report_on_us_gives_loss_and_round_trip() -> None:
    now_ntp = 1 << 40
    sent_ntp = now_ntp - (300 << 32) // 1000  # 300 ms ago, of which the peer kept it 250
    block = ReportBlock(128, 5, 10, 0, (sent_ntp >> 16) & 0xFFFFFFFF, 65536 // 4)
    data = rtcp.report(rtcp.Sent(9, 0, 0, 0), "them", {7: block}, sending=False)
    packets = rtcp.parse(data)
    assert packets is not None
    heard = rtcp.heard(packets[0], 7, now_ntp)
    assert heard is not None and (heard.loss, heard.lost, heard.highest_sequence) == (0.5, 5, 10)
    assert heard.round_trip_ms is not None and abs(heard.round_trip_ms - 50) < 1
    assert rtcp.heard(packets[0], 8, now_ntp) is None


def test_bytes_that_are_no_rtcp_are_none() -> None:
    whole = rtcp.report(rtcp.Sent(9, 0, 0, 0), "them", {7: BLOCK}, sending=True) + rtcp.nack(7, 9, [1])
    for cut in range(len(whole)):
        rtcp.parse(whole[:cut])
        rtcp.parse(whole[:cut] + b"\xff" * (len(whole) - cut))
    assert rtcp.parse(b"\x00") is None


@pytest.mark.skipif(not SEEDS.is_dir(), reason="../shared/data/fuzz/rtcp is not there")
def test_mutated_seeds_of_other_peoples_fuzzers_never_raise() -> None:
    chance = random.Random(5)
    seeds = [path.read_bytes() for path in sorted(SEEDS.iterdir())]
    read = 0
    for _ in range(5000):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(6)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        read += rtcp.parse(bytes(data)) is not None
    assert 0 < read < 5000
