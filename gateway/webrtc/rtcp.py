"""RTCP of one browser call: what we report (RFC 3550), what we ask for (RFC 4585, REMB), what we are told.

The bytes are aiortc's business (`aiortc.rtp`, not public, held by tests/gateway/webrtc/test_aiortc.py); what
they mean is ours. Bytes from the peer never raise.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aiortc import rtp

from media.reports import ReportBlock

NTP_EPOCH_S = 2_208_988_800
BAD_BYTES = (ValueError, IndexError, struct.error, UnicodeDecodeError)
"""What aiortc's parsers raise for packets that are none."""


@dataclass(frozen=True, slots=True)
class Sent:
    """Of our stream, as a sender report tells it."""

    ssrc: int
    timestamp: int
    """RTP's, of now."""
    packets: int
    octets: int


@dataclass(frozen=True, slots=True)
class Heard:
    """What the browser says of our stream."""

    loss: float
    """0 to 1, since its report before."""
    lost: int
    """Since the stream began; it falls when late ones come."""
    highest_sequence: int
    """32 bits."""
    jitter: int
    round_trip_ms: float | None


def ntp_now() -> int:
    """64-bit NTP time stamp of the wall clock."""
    return int((time.time() + NTP_EPOCH_S) * (1 << 32))


def report(sent: Sent, cname: str, blocks: Mapping[int, ReportBlock], *, sending: bool) -> bytes:
    """SR (RR when we send nothing) with a block for each SSRC that comes in, and SDES: one compound packet."""
    reports = [_block(ssrc, block) for ssrc, block in blocks.items()]
    info = rtp.RtcpSenderInfo(
        ntp_timestamp=ntp_now(),
        rtp_timestamp=sent.timestamp,
        packet_count=sent.packets & 0xFFFFFFFF,
        octet_count=sent.octets & 0xFFFFFFFF,
    )
    head: rtp.AnyRtcpPacket
    if sending:
        head = rtp.RtcpSrPacket(ssrc=sent.ssrc, sender_info=info, reports=reports)
    else:
        head = rtp.RtcpRrPacket(ssrc=sent.ssrc, reports=reports)
    name = rtp.RtcpSourceInfo(ssrc=sent.ssrc, items=[(1, cname.encode())])
    return bytes(head) + bytes(rtp.RtcpSdesPacket(chunks=[name]))


def goodbye(ssrc: int) -> bytes:
    """BYE, RFC 3550 6.6."""
    return bytes(rtp.RtcpByePacket(sources=[ssrc]))


def nack(ssrc: int, media_ssrc: int, sequences: Iterable[int]) -> bytes:
    """Send these again, RFC 4585 6.2.1; behind a report (RFC 4585 3.1: we agree on no reduced size)."""
    lost = sorted(sequence & 0xFFFF for sequence in sequences)  # aiortc packs ascending ones only
    return bytes(rtp.RtcpRtpfbPacket(fmt=rtp.RTCP_RTPFB_NACK, ssrc=ssrc, media_ssrc=media_ssrc, lost=lost))


def key_frame_wanted(ssrc: int, media_ssrc: int) -> bytes:
    """Picture loss indication, RFC 4585 6.3.1."""
    return bytes(rtp.RtcpPsfbPacket(fmt=rtp.RTCP_PSFB_PLI, ssrc=ssrc, media_ssrc=media_ssrc))


def bitrate_wanted(ssrc: int, media_ssrc: int, bit_s: int) -> bytes:
    """Receiver estimated maximum bitrate (draft-alvestrand-rmcat-remb): send at most so much."""
    fci = rtp.pack_remb_fci(bit_s, [media_ssrc])
    return bytes(rtp.RtcpPsfbPacket(fmt=rtp.RTCP_PSFB_APP, ssrc=ssrc, media_ssrc=0, fci=fci))


def parse(data: bytes) -> list[rtp.AnyRtcpPacket] | None:
    """The packets of a compound; None when it is none."""
    try:
        return rtp.RtcpPacket.parse(data)
    except BAD_BYTES:
        return None


def heard(packet: rtp.AnyRtcpPacket, ssrc: int, now_ntp: int) -> Heard | None:
    """What a report says of our stream `ssrc`; None when it says nothing of it."""
    if not isinstance(packet, rtp.RtcpSrPacket | rtp.RtcpRrPacket):
        return None
    for block in packet.reports:
        if block.ssrc == ssrc:
            trip = None
            if block.lsr:  # RFC 3550 6.4.1, in 65536ths of a second
                trip_64k = ((now_ntp >> 16) - block.lsr - block.dlsr) & 0xFFFFFFFF
                trip = trip_64k * 1000 / 65536 if trip_64k < 60 * 65536 else None
            loss = block.fraction_lost / 256
            return Heard(loss, block.packets_lost, block.highest_sequence, block.jitter, trip)
    return None


def repeats_wanted(packet: rtp.AnyRtcpPacket, ssrc: int) -> list[int]:
    """Sequence numbers of our stream `ssrc` that a NACK asks for again, RFC 4585 6.2.1."""
    if not isinstance(packet, rtp.RtcpRtpfbPacket) or packet.fmt != rtp.RTCP_RTPFB_NACK:
        return []
    return [number & 0xFFFF for number in packet.lost] if packet.media_ssrc == ssrc else []  # it may wrap


def sender_report_of(packet: rtp.AnyRtcpPacket) -> tuple[int, int] | None:
    """SSRC and NTP time stamp of a sender report; None of another packet."""
    if isinstance(packet, rtp.RtcpSrPacket):
        return packet.ssrc, packet.sender_info.ntp_timestamp
    return None


def _block(ssrc: int, block: ReportBlock) -> rtp.RtcpReceiverInfo:
    return rtp.RtcpReceiverInfo(
        ssrc=ssrc,
        fraction_lost=block.fraction_lost,
        packets_lost=block.cumulative_lost,
        highest_sequence=block.highest_sequence,
        jitter=block.jitter,
        lsr=block.last_sender_report,
        dlsr=block.delay_since,
    )
