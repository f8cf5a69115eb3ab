"""RFC 2198 there and back, and bytes that are none."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from media.red import MAX_BLOCKS, MAX_LENGTH, MAX_OFFSET, Block, pack_red, parse_red
from tests.support.virtual_line import TICKS, CountingDecoder, Listener, lossy, numbered, stream


@given(st.binary(max_size=1200), st.binary(max_size=1200), st.integers(0, 20_000), st.integers(0, 127))
def test_what_is_packed_is_parsed(newest: bytes, before: bytes, offset: int, kind: int) -> None:
    blocks = parse_red(pack_red(kind, newest, before, offset), kind)
    fits = 0 < len(before) <= MAX_LENGTH and 0 < offset <= MAX_OFFSET
    assert blocks == [Block(1, offset, before)] * fits + [Block(0, 0, newest)]


def test_the_example_of_the_rfc_in_bytes() -> None:
    """Section 5: a header of 4 bytes, one of 1, the older block, the newer one."""
    data = bytes([0x80 | 111, 960 >> 6, (960 & 0x3F) << 2 | 0, 3, 111]) + b"old" + b"newest"
    assert parse_red(data, 111) == [Block(1, 960, b"old"), Block(0, 0, b"newest")]
    assert pack_red(111, b"newest", b"old", 960) == data


@given(st.binary(max_size=64))
def test_hostile_bytes_never_raise_and_give_no_more_than_they_have(data: bytes) -> None:
    for kind in (data[0] & 0x7F if data else 0, 111):
        blocks = parse_red(data, kind)
        if blocks is not None:
            assert blocks[-1].behind == 0 and len(blocks) <= MAX_BLOCKS + 1
            assert sum(len(block.payload) for block in blocks) < len(data)


def test_lengths_that_lie_and_headers_without_end_are_refused() -> None:
    header = bytes([0x80 | 111, 15, 0, 3])
    assert parse_red(b"", 111) is None
    assert parse_red(header, 111) is None
    assert parse_red(header + bytes([111]) + b"ol", 111) is None
    assert parse_red(header * (MAX_BLOCKS + 1) + bytes([111]) + b"old" * (MAX_BLOCKS + 1), 111) is None
    assert parse_red(header[:2], 111) is None
    assert parse_red(bytes([110]) + b"x", 111) is None
    many = parse_red(header * MAX_BLOCKS + bytes([111]) + b"old" * MAX_BLOCKS, 111)
    assert many is not None and [block.behind for block in many] == [*range(MAX_BLOCKS, 0, -1), 0]


def test_blocks_give_back_single_losses_and_are_counted_apart() -> None:
    """Each packet carries the one before it: a run of n lost ones loses n - 1."""
    sent = lossy(stream([numbered(i) for i in range(1500)], 1490), 0.1, seed=3)
    came = {p.sequence for p in sent if p.arrival_ns is not None}
    listener = Listener(CountingDecoder())
    given_back = repeated = 0
    for before, packet in zip(sent, sent[1:], strict=False):
        if packet.arrival_ns is None:
            continue
        while listener.now_ns <= packet.arrival_ns:
            listener.cut()
        lacked = listener.buffer.receive_redundant(
            packet.ssrc, before.sequence, before.timestamp, before.payload, packet.arrival_ns
        )
        listener.arrived += lacked + 1
        given_back += lacked
        repeated += not lacked
        listener.buffer.receive_packet(
            packet.ssrc, packet.sequence, packet.timestamp, packet.payload, packet.arrival_ns
        )
    listener.check()
    account = listener.buffer.packets
    assert (account.revived, account.redundant) == (given_back, repeated)
    assert account.duplicate == account.malformed == account.stray == 0
    lost = len(sent) - len(came)
    assert lost > 100 and 0.75 * lost < given_back < lost
    assert listener.buffer.account.concealed < 0.25 * lost * 320


def test_a_block_of_another_stream_or_of_the_past_is_not_taken() -> None:
    listener = Listener(CountingDecoder())
    take = listener.buffer.receive_redundant
    assert not take(1, 99, 960, numbered(0), 0)  # before any packet: whose stream it is nobody knows
    listener.buffer.receive_packet(1, 100, 2 * TICKS, numbered(1), 0)
    assert not take(1, 100, 2 * TICKS, numbered(1), 0)
    assert not take(2, 99, TICKS, numbered(0), 0)
    assert not take(1, 40_000, TICKS, numbered(0), 0)
    assert not take(1, 99, TICKS, b"", 0)
    assert take(1, 99, TICKS, numbered(0), 0)
    listener.arrived = 2
    listener.check()
    assert listener.buffer.packets.redundant == 5


def test_hostile_blocks_keep_the_accounts_of_the_buffer() -> None:
    rng, listener = np.random.default_rng(9), Listener(CountingDecoder())
    for index in range(4000):
        sequence = timestamp = index + int(rng.integers(-8, 3))
        if rng.random() < 0.3:
            timestamp += int(rng.integers(-150, 150))
        if rng.random() < 0.1:
            sequence, timestamp = int(rng.integers(2**16)), int(rng.integers(2**32))
        payload = numbered(index) if rng.random() < 0.9 else b""
        counters = (int(rng.random() >= 0.02), sequence % 2**16, timestamp * TICKS % 2**32)
        listener.arrived += listener.buffer.receive_redundant(*counters, payload, listener.now_ns)
        if index % 3 == 0:
            listener.buffer.receive_packet(1, index % 2**16, index * TICKS, numbered(index), listener.now_ns)
            listener.arrived += 1
        if index % 10 == 9:
            listener.cut()
    account = listener.buffer.packets
    assert account.revived > 100 and account.redundant > 100
