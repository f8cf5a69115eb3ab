"""What goes out: one packet a frame, and in each the one before where redundant audio was agreed on."""

from __future__ import annotations

import numpy as np

from gateway.webrtc.voice import Voice
from media.codecs.opus import OpusDecoder
from media.ladder import OPUS_BIT_S
from media.playout import Playout
from media.red import parse_red
from media.rtp import RtpPacket, parse_packet
from media.timebase import FRAME_NS, MODEL_HZ

TICKS = 960


def packets(voice: Voice, count: int) -> list[RtpPacket]:
    parsed = [parse_packet(voice.next_packet(number * FRAME_NS)) for number in range(count)]
    assert all(isinstance(packet, RtpPacket) for packet in parsed)
    return [packet for packet in parsed if isinstance(packet, RtpPacket)]


def talking_bit_s(asked: int, most: int) -> float:
    """Over two seconds of noise."""
    playout, rng, octets = Playout(MODEL_HZ), np.random.default_rng(3), 0
    voice = Voice(playout, 111, most)
    voice.tune(0.0, asked, 0)
    playout.start(0, 0)
    for turn in range(10):
        assert playout.offer(turn, rng.integers(-8000, 8000, MODEL_HZ // 5).astype(np.int16))
        octets += sum(len(packet.payload) for packet in packets(voice, 10))
    return octets * 8 / 2.0


def test_each_packet_carries_the_one_before_it_with_its_own_time() -> None:
    playout = Playout(MODEL_HZ)
    voice = Voice(playout, 111, 32_000, red=63)
    sent = packets(voice, 5)
    playout.skip(3)  # the listener was away: what is said now is 80 ms after what was said last
    sent += packets(voice, 2)
    playout.skip(40)  # beyond what RED can say
    sent += packets(voice, 2)
    assert {packet.payload_type for packet in sent} == {63}
    blocks = [parse_red(packet.payload, 111) or [] for packet in sent]
    assert [len(found) for found in blocks] == [1, 2, 2, 2, 2, 2, 2, 1, 2]
    for before, found in zip(blocks, blocks[1:], strict=False):
        if len(found) == 2:
            assert found[0].payload == before[-1].payload
    assert [found[0].offset for found in blocks if len(found) == 2] == [TICKS] * 4 + [4 * TICKS] + [TICKS] * 2
    assert voice.octets == sum(len(packet.payload) for packet in sent)
    decoder = OpusDecoder(MODEL_HZ)
    assert all(len(decoder.decode(found[-1].payload)) == MODEL_HZ // 50 for found in blocks)


def test_the_rate_follows_the_line_and_never_exceeds_the_operators() -> None:
    rates = [talking_bit_s(asked, 32_000) for asked in sorted(set(OPUS_BIT_S))]
    assert rates == sorted(rates) and rates[0] < 20_000 < 28_000 < rates[-1], rates
    assert talking_bit_s(32_000, 16_000) < 20_000
