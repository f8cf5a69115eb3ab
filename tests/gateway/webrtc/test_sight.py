"""A camera whose sender changes its mind: codecs come and go, what they cost stays bounded."""

from __future__ import annotations

from aiortc import rtp

from gateway.webrtc.offer import Video, VideoCodec
from gateway.webrtc.sight import Sight
from gateway.webrtc.video import DecoderThread
from media.ladder import CAMERA
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


def test_a_camera_is_asked_for_less_and_for_more_again_and_never_for_more_than_the_operator_wants() -> None:
    thread = DecoderThread()
    sight = Sight(VIDEO, thread, 1)
    sight.receive(packet(96, 1), 0)
    assert sight.source is not None
    for rung, frames in ((0, 1), (1, 1), (2, 0), (3, 0), (0, 1)):
        sight.ask(CAMERA[rung])
        assert sight.source.frames_per_chunk == frames
        (remb,) = rtp.RtcpPacket.parse(sight.budget(5))
        assert isinstance(remb, rtp.RtcpPsfbPacket)
        assert rtp.unpack_remb_fci(remb.fci)[0] == CAMERA[rung].bit_s
    for wanted, frames, bit_s in ((0, 0, CAMERA[-1].bit_s), (2, 1, CAMERA[0].bit_s)):  # by the model
        sight.take(1, (320, 240), wanted)
        assert sight.source.frames_per_chunk == frames
        (remb,) = rtp.RtcpPacket.parse(sight.budget(5))
        assert isinstance(remb, rtp.RtcpPsfbPacket)
        assert rtp.unpack_remb_fci(remb.fci)[0] == bit_s
    sight.ask(CAMERA[2])
    sight.receive(packet(102, 2), 0)  # the other codec's first packet
    assert sight.source.frames_per_chunk == 0 and sight.counts()["packets_unwanted"] == 1
    sight.close()
    thread.close()
