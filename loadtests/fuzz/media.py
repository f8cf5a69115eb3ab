"""Parsers of media/, and its organs that keep state: whatever a peer sends, none of them raises."""

from __future__ import annotations

from functools import partial

from loadtests.fuzz.target import Script, Take, Target

MOST_STEPS = 200
"""Of one script."""
FRAME = bytes.fromhex("80000001000003c0deadbeef")


def _rtp() -> Take:
    from media.rtp import RtpPacket, parse_packet

    def take(data: bytes) -> None:
        packet = parse_packet(data)
        if isinstance(packet, RtpPacket):
            again = parse_packet(packet.serialise())
            assert again == packet, f"{again} is not {packet}"

    return take


def _telephone_event() -> Take:
    from media.rtp import parse_telephone_event

    return parse_telephone_event


def _red() -> Take:
    from media.red import MAX_BLOCKS, parse_red

    def take(data: bytes) -> None:
        blocks = parse_red(data, 111)
        if blocks is not None:
            assert len(blocks) <= MAX_BLOCKS + 1
            assert sum(len(block.payload) for block in blocks) <= len(data)

    return take


def _vp8() -> Take:
    from media.codecs.vp8 import parse_payload

    return parse_payload


def _h264() -> Take:
    from media.codecs.h264 import parse_payload

    return parse_payload


def _opus() -> Take:
    from media.codecs.opus import OpusDecoder

    decoder = OpusDecoder(16_000)

    def take(data: bytes) -> None:
        said = decoder.duration(data)
        known = decoder.recoverable(data)
        if known:
            assert len(decoder.recover(data, known)) == known
        decoder.is_pause(data)
        pcm = decoder.decode(data)
        assert len(pcm) in (0, said), f"{len(pcm)} samples of a packet of {said}"

    return take


def _jitter_buffer() -> Take:
    """Packets of any counters at any times, cuts in between: a turn is a turn, no packet is lost."""
    from media.codecs.opus import OpusDecoder
    from media.jitter import JitterBuffer
    from media.packets import MAX_WAITING
    from media.timebase import NS_PER_MS, TURN_NS, TURN_SAMPLES

    def take(data: bytes) -> None:
        buffer = JitterBuffer(OpusDecoder(16_000))
        script, now_ns, cut_ns = Script(data), 0, TURN_NS
        sequence = timestamp = 0
        for _ in range(MOST_STEPS):
            if not script:
                break
            kind = script.number(1)
            now_ns += script.number(1) * NS_PER_MS
            while cut_ns <= now_ns:
                assert len(buffer.cut(cut_ns).pcm) == TURN_SAMPLES
                cut_ns += TURN_NS
            sequence = sequence + (script.number(2, signed=True) if kind & 1 else 1) & 0xFFFF
            timestamp = timestamp + (script.number(4) if kind & 2 else 960) & 0xFFFFFFFF
            payload = script.take(script.number(1)) if kind & 4 else b"\xf8\xff\xfe"
            send = (
                buffer.receive_redundant
                if kind & 8
                else partial(buffer.receive_packet, repeated=bool(kind & 16))
            )
            send(1 + (kind >> 6), sequence, timestamp, payload, now_ns)
            account = buffer.packets
            accounted = (
                account.decoded + account.late + account.duplicate + account.malformed + account.undecodable
                + account.stray + account.skipped + buffer.waiting_packets
            )  # fmt: skip
            assert account.received == accounted, account
            assert buffer.waiting_packets <= MAX_WAITING + 2

    return take


def _frames_of(codec: str) -> Take:
    """Packets of a camera in any order: bounded, and nothing but whole frames comes out."""
    from media.codecs import h264, vp8
    from media.timebase import NS_PER_MS
    from media.video import FrameAssembler

    parse = {"vp8": vp8, "h264": h264}[codec].parse_payload

    def take(data: bytes) -> None:
        assembler, script, now_ns = FrameAssembler(parse), Script(data), 0
        sequence = timestamp = 0
        for _ in range(MOST_STEPS):
            if not script:
                break
            kind = script.number(1)
            now_ns += (kind >> 4) * 10 * NS_PER_MS
            sequence = sequence + (script.number(2, signed=True) if kind & 1 else 1) & 0xFFFF
            timestamp = timestamp + (3_000 if kind & 2 else 0) & 0xFFFFFFFF
            payload = script.take(script.number(1))
            for frame in assembler.receive_packet(sequence, timestamp, bool(kind & 4), payload, now_ns):
                assert frame.data
            assembler.missing(now_ns)
            assembler.wants_key(now_ns)

    return take


def _gaps() -> Take:
    from media.nack import Gaps
    from media.timebase import NS_PER_MS

    def take(data: bytes) -> None:
        gaps, script, now_ns = Gaps(), Script(data), 0
        for _ in range(MOST_STEPS):
            if not script:
                break
            kind, sequence = script.number(1), script.number(2)
            now_ns += (kind >> 2) * NS_PER_MS
            if kind & 1:
                gaps.mend(sequence)
            else:
                gaps.receive(1 + (kind >> 1 & 1), sequence, now_ns)
            gaps.wanted(now_ns, 50 * NS_PER_MS, lambda behind: 0)

    return take


def _keys() -> Take:
    """Sound as bytes: int16 at 8 kHz in turns."""
    import numpy as np

    from media.keys import ToneEar, tones

    ear = ToneEar(8_000)
    loud = tones("5", 8_000)[:1_600]

    def take(data: bytes) -> None:
        pcm = np.zeros(1_600, np.int16)
        given = np.frombuffer(data[:3_200][: len(data[:3_200]) // 2 * 2], np.int16)
        pcm[: len(given)] = given
        ear.listen(pcm)
        ear.listen(loud)

    return take


MEDIA = (
    Target("rtp", _rtp, seeds=(FRAME + bytes(160),), folder="fuzz/rtp"),
    Target("telephone-event", _telephone_event, seeds=(bytes.fromhex("010a00a0"), bytes.fromhex("0b8a0320"))),
    Target(
        "red", _red, seeds=(bytes.fromhex("ef000003") + b"\x6fabcdefg", bytes.fromhex("ef0780036f616263787a"))
    ),
    Target("vp8", _vp8, seeds=(bytes.fromhex("90800110d003009d012a80016801"), b"\x10\x00abc", b"\x00\x01")),
    Target(
        "h264",
        _h264,
        seeds=(b"\x67\x42\xc0\x1f", b"\x78\x00\x02\x67\x42\x00\x02\x68\xce", b"\x7c\x85abc", b"\x7c\x45x"),
    ),
    Target(
        "opus", _opus, seeds=(b"\xf8\xff\xfe", b"\x4b\x02abcdef", b"\x0b\x83\x05hello", b"\x78" + bytes(60))
    ),
    Target(
        "jitter-buffer", _jitter_buffer, seeds=(bytes.fromhex("0014") * 30, bytes.fromhex("01140005") * 20)
    ),
    Target(
        "frames-vp8",
        partial(_frames_of, "vp8"),
        seeds=(b"\x06\x0a" + bytes.fromhex("10d003009d012a800168"),),
    ),
    Target(
        "frames-h264",
        partial(_frames_of, "h264"),
        seeds=(b"\x06\x04\x67\x42\xc0\x1f\x06\x04\x65\x88\x84\x00",),
    ),
    Target("gaps", _gaps, seeds=(bytes.fromhex("500001500002500009510003"),)),
    Target("tones", _keys, seeds=(bytes(3_200),)),
)
