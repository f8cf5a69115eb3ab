"""Frames out of packets: order, loss, repair, freezing, and bytes that nobody should send."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest

from media.codecs import h264, vp8
from media.rtp import BadPacket
from media.video import (
    KEY_PACE_NS,
    MAX_BYTES,
    MAX_HOLES,
    MAX_NACKS,
    MAX_PACKETS,
    MAX_TRIES,
    REORDER_NS,
    REORDER_PACKETS,
    REPAIR_NS,
    RETRY_NS,
    EncodedFrame,
    FrameAssembler,
    unwrap_rtx,
)
from tests.support.camera import Camera, Line, Packet, film, pictures

MS = 1_000_000
START_NS = 10**12
KEY_HEAD, DELTA_HEAD = bytes.fromhex("500100 9d012a 8002e001"), bytes.fromhex("b10100")
PARSE = {"vp8": vp8.parse_payload, "h264": h264.parse_payload}


def vp8_frame(first: int, count: int, number: int, key: bool = False) -> list[Packet]:
    """Frame `number` in `count` packets from sequence `first` on."""
    packets = []
    for n in range(count):
        head = (KEY_HEAD if key else DELTA_HEAD) if n == 0 else b""
        body = head + f"<{number}.{n}>".encode()
        payload = (b"\x10" if n == 0 else b"\x00") + body
        packets.append(Packet((first + n) & 0xFFFF, 6_000 * number, n == count - 1, payload))
    return packets


def stream(count: int, each: int = 3, first: int = 65_530) -> list[list[Packet]]:
    """A key frame and others."""
    return [vp8_frame(first + each * n, each, n, key=n == 0) for n in range(count)]


def assembler() -> FrameAssembler:
    return FrameAssembler(vp8.parse_payload)


def feed(receiver: FrameAssembler, packets: Iterable[Packet], now_ns: int = START_NS) -> list[EncodedFrame]:
    return [
        frame
        for p in packets
        for frame in receiver.receive_packet(p.sequence, p.timestamp, p.marker, p.payload, now_ns)
    ]


def numbers(frames: Iterable[EncodedFrame]) -> list[int]:
    return [frame.timestamp_90k // 6_000 for frame in frames]


def assert_sums(receiver: FrameAssembler) -> None:
    c = receiver.counters
    dealt = c.packets_used + c.packets_discarded + c.packets_duplicate + c.packets_late
    assert c.packets_received == dealt + c.packets_bad + c.packets_stray + receiver.held
    assert c.holes_noticed == c.holes_repaired + c.holes_lost + receiver.holes
    assert receiver.held <= MAX_PACKETS and receiver.holes <= MAX_HOLES + 2


def test_a_frame_comes_out_with_its_marker_and_not_a_packet_later() -> None:
    receiver = assembler()
    for n, packets in enumerate(stream(4)):
        assert not feed(receiver, packets[:-1], START_NS + n * MS)
        (frame,) = feed(receiver, packets[-1:], START_NS + n * MS + 7)
        assert frame.data == b"".join(p.payload[1:] for p in packets)
        assert (frame.is_key, frame.captured_ns) == (n == 0, START_NS + n * MS + 7)
    assert_sums(receiver)


def test_packets_in_any_order_give_the_frames_in_theirs() -> None:
    first, second, third = stream(3, each=2)
    for order in itertools.permutations([*first[1:], *second, *third]):
        receiver = assembler()
        got = feed(receiver, [first[0], *order])
        assert numbers(got) == [0, 1, 2], order
        assert_sums(receiver)


def test_the_first_packet_of_all_may_come_second() -> None:
    frames = stream(2)
    receiver = assembler()
    assert numbers(feed(receiver, [frames[0][1], frames[0][0], frames[0][2], *frames[1]])) == [0, 1]


def test_a_sender_without_markers_is_understood_one_packet_later() -> None:
    frames = [[Packet(p.sequence, p.timestamp, False, p.payload) for p in f] for f in stream(3)]
    receiver = assembler()
    assert [numbers(feed(receiver, f)) for f in frames] == [[], [0], [1]]


def test_padding_between_frames_is_walked_over() -> None:
    first, second = vp8_frame(10, 2, 0, key=True), vp8_frame(14, 2, 1)
    padding = [Packet(n, 0, False, b"") for n in (12, 13)]
    receiver = assembler()
    assert numbers(feed(receiver, [*first, *second])) == [0]
    assert numbers(feed(receiver, padding)) == [1]
    assert_sums(receiver)


def test_what_is_missing_is_named_after_a_moment_again_and_not_for_ever() -> None:
    frames = stream(3, first=100)
    receiver = assembler()
    feed(receiver, frames[0])
    feed(receiver, [frames[1][0], frames[1][2], *frames[2]])
    assert receiver.missing(START_NS + REORDER_NS - 1) == []
    asked = [t for t in range(0, REPAIR_NS, 5 * MS) if receiver.missing(START_NS + t) == [104]]
    assert asked == [REORDER_NS + n * RETRY_NS for n in range(MAX_TRIES)]
    assert receiver.counters.nacks == MAX_TRIES
    assert not receiver.wants_key(START_NS + REPAIR_NS - 1)
    assert numbers(feed(receiver, frames[1][1:2], START_NS + REPAIR_NS - 1)) == [1, 2]
    assert receiver.counters.holes_repaired == 1 and receiver.counters.freezes == 0
    assert_sums(receiver)


def test_a_loss_that_is_not_repaired_freezes_until_a_key_frame() -> None:
    frames = stream(5)
    receiver = assembler()
    feed(receiver, frames[0])
    feed(receiver, [frames[1][0], frames[1][2]])
    later_ns = START_NS + REPAIR_NS
    assert feed(receiver, frames[2], later_ns) == []
    assert receiver.is_frozen and receiver.missing(later_ns) == []
    wants = [t for t in range(0, 3 * KEY_PACE_NS, 10 * MS) if _wants(receiver, frames[3], later_ns + t)]
    assert wants == [0, KEY_PACE_NS, 2 * KEY_PACE_NS]
    key = vp8_frame(65_530 + 12, 3, 4, key=True)
    assert numbers(feed(receiver, key, later_ns)) == [4]
    assert numbers(feed(receiver, vp8_frame(65_530 + 15, 3, 5), later_ns)) == [5]
    assert not receiver.wants_key(later_ns + 10**10)
    assert_sums(receiver)


def _wants(receiver: FrameAssembler, packets: list[Packet], now_ns: int) -> bool:
    feed(receiver, packets[:1], now_ns)
    return receiver.wants_key(now_ns)


def test_a_camera_that_is_off_is_asked_seldom() -> None:
    receiver = assembler()
    assert not receiver.wants_key(START_NS)  # there is no stream yet
    feed(receiver, vp8_frame(5, 2, 1))
    assert sum(receiver.wants_key(START_NS + t * 10 * MS) for t in range(1_000)) == 5  # in 10 s


def test_a_whole_key_frame_behind_a_gap_is_not_kept_waiting() -> None:
    frames = stream(2)
    receiver = assembler()
    feed(receiver, [*frames[0], *frames[1][:2]])
    key = vp8_frame(65_530 + 6, 3, 2, key=True)
    assert numbers(feed(receiver, key)) == [2]
    assert feed(receiver, frames[1][2:]) == [] and receiver.counters.packets_late == 1
    assert numbers(feed(receiver, vp8_frame(65_530 + 9, 3, 3))) == [3]
    assert receiver.missing(START_NS + 50 * MS) == []
    assert_sums(receiver)


def test_a_key_frame_with_a_hole_is_repaired_while_frozen() -> None:
    receiver = assembler()
    feed(receiver, vp8_frame(1, 2, 0))
    key = vp8_frame(3, 4, 1, key=True)
    feed(receiver, [key[0], key[3]])
    assert receiver.missing(START_NS + REORDER_NS) == [4, 5]
    assert not receiver.wants_key(START_NS + REORDER_NS)  # it is on its way
    assert numbers(feed(receiver, key[1:3])) == [1]
    assert_sums(receiver)


@pytest.mark.parametrize("order", [(0, 1, 2, 4, 3, 5, 6), (0, 1, 2, 4, 5, 3, 6), (0, 1, 2, 4, 6, 3, 5)])
def test_a_key_frame_that_was_begun_behind_a_gap_is_finished_as_any_other(order) -> None:
    packets = [*vp8_frame(0, 2, 0, key=True), *vp8_frame(2, 2, 1), *vp8_frame(4, 3, 2, key=True)]
    receiver = assembler()
    got: list[EncodedFrame] = []
    for n, at in enumerate(order):
        got += feed(receiver, [packets[at]], START_NS + n)
        assert receiver.missing(START_NS + n) == []
    assert numbers(got) == [0, 1, 2] and not receiver.is_frozen
    assert receiver.missing(START_NS + 2 * REPAIR_NS) == [] and not receiver.is_frozen
    assert receiver.counters.holes_noticed == receiver.counters.holes_repaired == 1 + (order[4] == 6)
    assert_sums(receiver)


def test_only_holes_of_the_key_frame_that_is_waited_for_are_named() -> None:
    receiver = assembler()
    given_up, hoped_for = vp8_frame(3, 6, 1, key=True), vp8_frame(9, 3, 2, key=True)
    feed(receiver, [given_up[n] for n in (0, 3, 5)])
    feed(receiver, [hoped_for[n] for n in (0, 2)], START_NS + REPAIR_NS - REORDER_NS)
    feed(receiver, vp8_frame(12, 2, 3)[:1], START_NS + REPAIR_NS)
    assert receiver.missing(START_NS + REPAIR_NS) == [10]
    assert numbers(feed(receiver, hoped_for[1:2], START_NS + REPAIR_NS)) == [2]
    assert_sums(receiver)


def test_while_no_key_frame_is_in_sight_little_is_kept() -> None:
    receiver = assembler()
    for n in range(500):
        feed(receiver, vp8_frame(2 * n, 2, n + 1))
        assert receiver.held <= 2 * REORDER_PACKETS + 1
        assert_sums(receiver)


def test_a_frame_without_a_beginning_is_not_handed_out() -> None:
    receiver = assembler()
    feed(receiver, vp8_frame(0, 2, 0, key=True))
    assert feed(receiver, [Packet(2, 6_000, True, b"\x00rest of nothing")]) == []
    assert receiver.counters.frames_broken == 1 and receiver.is_frozen
    assert_sums(receiver)


def test_a_frame_was_never_captured_before_the_one_before_it() -> None:
    receiver = assembler()
    feed(receiver, vp8_frame(0, 1, 0, key=True))
    feed(receiver, vp8_frame(2, 1, 2), START_NS + 5)
    got = feed(receiver, vp8_frame(1, 1, 1), START_NS + 9)
    assert [(n, frame.captured_ns - START_NS) for n, frame in zip(numbers(got), got, strict=True)] == [
        (1, 9),
        (2, 9),
    ]


def test_h264_parameter_sets_alone_do_not_end_a_freeze() -> None:
    receiver = FrameAssembler(h264.parse_payload)
    assert not feed(receiver, [Packet(1, 0, False, b"\x67sps"), Packet(2, 0, True, b"\x41slice")])
    assert not feed(receiver, [Packet(3, 3_000, False, b"\x67sps"), Packet(4, 3_000, False, b"\x68pps")])
    (frame,) = feed(receiver, [Packet(5, 3_000, True, b"\x65idr")])
    assert frame.is_key and nal_units(frame.data) == [b"\x67sps", b"\x68pps", b"\x65idr"]


def test_h264_a_key_frame_may_come_without_parameter_sets() -> None:
    receiver = FrameAssembler(h264.parse_payload)
    assert not feed(receiver, [Packet(4, 0, False, b"\x65half of one")])
    assert not feed(receiver, [Packet(5, 0, True, b"\x41slice")])
    (frame,) = feed(receiver, [Packet(6, 3_000, True, b"\x65idr")])
    assert frame.is_key and nal_units(frame.data) == [b"\x65idr"]


def test_a_hole_too_wide_to_be_repaired_asks_for_a_key_frame_at_once() -> None:
    receiver = assembler()
    feed(receiver, vp8_frame(0, 2, 0, key=True))
    feed(receiver, vp8_frame(2 + MAX_HOLES + 1, 2, 9))
    assert receiver.missing(START_NS + REORDER_NS) == []
    assert receiver.wants_key(START_NS)
    assert_sums(receiver)


def test_one_nack_is_bounded() -> None:
    receiver = assembler()
    feed(receiver, vp8_frame(0, 2, 0, key=True))
    feed(receiver, vp8_frame(2 + MAX_HOLES, 2, 9))
    lists = [receiver.missing(START_NS + REORDER_NS) for _ in range(5)]
    assert [len(asked) for asked in lists] == [MAX_NACKS] * (MAX_HOLES // MAX_NACKS) + [0]
    assert sorted(itertools.chain(*lists)) == list(range(2, 2 + MAX_HOLES))


def test_duplicates_late_ones_and_strays_are_counted() -> None:
    frames = stream(3, first=500)
    receiver = assembler()
    feed(receiver, [*frames[0], frames[1][0], frames[1][0], frames[0][0]])
    feed(receiver, vp8_frame(30_000, 1, 9))
    c = receiver.counters
    assert (c.packets_duplicate, c.packets_late, c.packets_stray) == (1, 1, 1)
    assert numbers(feed(receiver, [*frames[1][1:], *frames[2]])) == [1, 2]
    assert_sums(receiver)


def test_a_stream_that_begins_again_elsewhere_is_followed() -> None:
    receiver = assembler()
    feed(receiver, [*stream(2, first=100)[0], *vp8_frame(103, 3, 1)[:1]])
    again = [vp8_frame(40_000 + 3 * n, 3, 10 + n, key=n != 1) for n in range(3)]
    assert numbers(feed(receiver, itertools.chain(*again))) == [12]  # the first one's first was a stray
    assert_sums(receiver)


def test_after_the_decoder_failed_nothing_comes_before_a_key_frame() -> None:
    receiver = assembler()
    frames = stream(3)
    feed(receiver, frames[0])
    receiver.lose_sync()
    assert feed(receiver, frames[1]) == [] and receiver.wants_key(START_NS)
    assert numbers(feed(receiver, vp8_frame(65_530 + 6, 1, 2, key=True))) == [2]
    assert_sums(receiver)


def test_a_frame_without_end_is_dropped_at_the_bound() -> None:
    receiver = assembler()
    feed(receiver, vp8_frame(0, 1, 0, key=True))
    for n in range(1, 5_000):
        receiver.receive_packet(n, 6_000, False, b"\x10" + DELTA_HEAD + b"x" * 20, START_NS)
        assert_sums(receiver)
    assert receiver.counters.frames == 1 and receiver.counters.freezes == 1
    assert receiver.wants_key(START_NS)


def test_large_packets_are_bounded_by_bytes() -> None:
    receiver = assembler()
    feed(receiver, vp8_frame(0, 1, 0, key=True))
    payload = b"\x10" + DELTA_HEAD + bytes(60_000)
    for n in range(2, 200):
        receiver.receive_packet(n, 6_000 * n, False, payload, START_NS)
        assert receiver.held * 60_000 <= MAX_BYTES
    assert receiver.counters.packets_discarded > 0
    assert_sums(receiver)


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x01\x02"])
def test_a_retransmission_of_nothing_is_a_probe(payload: bytes) -> None:
    assert unwrap_rtx(payload) == BadPacket("empty retransmission")


def test_a_retransmission_carries_the_original() -> None:
    assert unwrap_rtx(b"\x12\x34\x10abc") == (0x1234, b"\x10abc")


def nal_units(data: bytes) -> list[bytes]:
    units = data.replace(b"\x00\x00\x00\x01", b"\x00\x00\x01").split(b"\x00\x00\x01")
    return [unit.rstrip(b"\x00") for unit in units if unit]


class Recording(Camera):
    """Keeps what it encoded, by time stamp."""

    def shoot(self, picture, key=False):
        packets = super().shoot(picture, key)
        self.encoded[packets[0].timestamp] = self.last
        return packets

    def encode(self, picture, key=False):
        self.encoded = getattr(self, "encoded", {})
        self.last = super().encode(picture, key)
        return self.last


@pytest.mark.parametrize("codec", ["vp8", "h264"])
@pytest.mark.parametrize(
    ("loss", "jitter_ms", "back_loss"), [(0, 0, 0), (0, 30, 0), (0.05, 8, 0), (0.1, 8, 0.2), (0.02, 8, 1.0)]
)
def test_real_streams_come_out_as_they_were_encoded(codec, loss, jitter_ms, back_loss) -> None:
    """Whatever the line does: bytes are exact, order is kept, and after a hole comes a key frame."""
    camera = Recording(codec, bitrate=900_000)
    receiver = FrameAssembler(PARSE[codec])
    got: list[EncodedFrame] = []
    there, back = Line(7, loss, jitter_ns=jitter_ms * MS), Line(8, back_loss)
    film(camera, pictures(640, 480, 60), receiver, there, back, got.extend)
    order = list(camera.encoded)
    places = [order.index(frame.timestamp_90k) for frame in got]
    assert places == sorted(set(places))
    for before, place, frame in zip([-1, *places], places, got, strict=False):
        assert place == before + 1 or frame.is_key
        sent = camera.encoded[frame.timestamp_90k]
        assert frame.data == sent if codec == "vp8" else nal_units(frame.data) == nal_units(sent)
    assert_sums(receiver)
    if back_loss < 1:  # NACK repairs nearly all of it
        assert len(got) >= (60 if loss <= 0.05 else 45)
        assert (receiver.counters.holes_repaired > 10) == (loss > 0 or jitter_ms > 8)
    else:
        assert receiver.counters.freezes == 1 and 1 <= len(got) < 60 and receiver.is_frozen


@pytest.mark.parametrize("seed", range(40))
def test_on_any_line_order_is_kept_and_every_freeze_ends(seed: int) -> None:
    """20 s of synthetic frames; for the last 2 s the line is clean, and all of those frames come out."""
    chance = random.Random(seed)
    there = Line(seed, chance.choice((0, 0.01, 0.1, 0.4)), jitter_ns=chance.choice((0, 15, 60, 400)) * MS)
    back = Line(seed + 100, chance.choice((0, 0.3, 1.0)))
    receiver, got = assembler(), []
    sent: dict[int, Packet] = {}
    keys, sequence, key = set(), chance.randrange(65_536), True
    for n in range(300):
        for now_ns in range(START_NS + n * 65 * MS, START_NS + (n + 1) * 65 * MS, 13 * MS):
            for arrival_ns, p in there.arrived(now_ns):
                assert isinstance(p, Packet)
                for _ in range(chance.choice((1, 1, 1, 2))):
                    got += feed(receiver, [p], arrival_ns)
                    assert_sums(receiver)
            for wish in [*receiver.missing(now_ns), *["PLI"] * receiver.wants_key(now_ns)]:
                back.send(wish, now_ns)
            for _, wish in back.arrived(now_ns):
                key |= wish == "PLI"
                if isinstance(wish, int) and wish in sent:
                    there.send(sent[wish], now_ns)
        if n == 270:
            there.loss = back.loss = there.jitter_ns = 0
        keys |= {n} if key or n == 260 else set()
        for p in vp8_frame(sequence, chance.choice((1, 2, 5, 40)), n, n in keys):
            there.send(p, START_NS + (n + 1) * 65 * MS)
            sent[p.sequence], sequence, key = p, (p.sequence + 1) & 0xFFFF, False
    order = numbers(got)
    assert order == sorted(set(order)) and set(range(290, 298)) <= set(order)
    for before, after in itertools.pairwise([-1, *order]):
        assert after == before + 1 or after in keys


@pytest.mark.parametrize("codec", ["vp8", "h264"])
def test_mutated_packets_never_raise_and_stay_in_bounds(codec: str) -> None:
    chance = random.Random(31)
    camera = Camera(codec, 320, 240)
    clean = [p for n, scene in enumerate(pictures(320, 240, 30)) for p in camera.shoot(scene, n % 10 == 0)]
    receiver = FrameAssembler(PARSE[codec])
    now_ns, frames = START_NS, 0
    for n in range(5_000):
        packet = clean[n % len(clean)]
        payload = bytearray(packet.payload)
        for _ in range(chance.choice((0,) * 8 + (1, 4))):
            if payload:
                payload[chance.choice((0, 1, 2, chance.randrange(len(payload)))) % len(payload)] = (
                    chance.randrange(256)
                )
        del payload[chance.choice((len(payload),) * 30 + (chance.randrange(len(payload) + 1),)) :]
        sequence = packet.sequence + n // len(clean) * len(clean)
        sequence = chance.choice((sequence,) * 40 + (chance.randrange(65_536), sequence + 3, sequence - 5))
        now_ns += chance.randrange(10 * MS)
        timestamp = chance.choice((packet.timestamp,) * 30 + (chance.randrange(2**32),))
        marker = packet.marker ^ (chance.random() < 0.05)
        frames += len(receiver.receive_packet(sequence & 0xFFFF, timestamp, marker, bytes(payload), now_ns))
        assert len(receiver.missing(now_ns)) <= MAX_NACKS
        receiver.wants_key(now_ns)
        assert_sums(receiver)
    assert frames == receiver.counters.frames and receiver.counters.packets_bad > 20
    assert frames > 20 and receiver.counters.freezes > 5
