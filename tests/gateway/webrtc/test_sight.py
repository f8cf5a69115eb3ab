"""A camera whose sender changes its mind: codecs come and go, what they cost stays bounded."""

from __future__ import annotations

from gateway.webrtc.offer import Video, VideoCodec
from gateway.webrtc.sight import Sight
from gateway.webrtc.video import DecoderThread
from media.rtp import RtpPacket

VIDEO = Video("1", (VideoCodec("vp8", 96, 97, ""), VideoCodec("h264", 102, 0, "")))


def packet(payload_type: int, sequence: int) -> RtpPacket:
    return RtpPacket(
        payload_type, sequence & 0xFFFF, 3000 * sequence & 0xFFFFFFFF, 7, b"\x10\x00rubbish", True
    )


def test_a_sender_that_changes_codecs_with_each_packet_gets_no_new_decoders_and_no_new_budget() -> None:
    thread = DecoderThread()
    sight = Sight(VIDEO, thread, 2)
    sources = set()
    for sequence in range(1000):
        assert sight.receive(packet((96, 102)[sequence % 2], sequence), sequence * 1_000_000)
        sources.add(sight.source)
    assert len(sources) == 2
    assert sight.counts()["packets_received"] == 1000  # no counter begins anew
    assert not sight.receive(packet(103, 1), 0)
    sight.close()
    thread.close()
