"""Senders that change their mind, and bytes that mean harm: the accounts hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.packets import MAX_PAYLOAD_BYTES, MAX_WAITING
from media.timebase import NS_PER_MS, NS_PER_S, TURN_NS
from tests.support.virtual_line import (
    CLOCK,
    FLOOR_MS,
    NUMBERS,
    TICKS,
    TURN,
    Listener,
    Sent,
    counting,
    delayed,
    numbered,
    stream,
)

# Senders that change their mind.


@pytest.mark.parametrize(
    "changed",
    [
        {"ssrc": 2, "sequence": 17, "timestamp": 3_000_000_000},
        {"ssrc": 2, "sequence": 65_535, "timestamp": 2**32 - 1},
        {"ssrc": 1, "sequence": 64_964, "timestamp": 77},  # the time line only
        {"ssrc": 1, "sequence": 9_000, "timestamp": 2**31},
    ],
)
def test_a_new_stream_goes_on_where_the_old_one_ends(changed: dict[str, int]) -> None:
    before = stream(NUMBERS, 500)
    after = [
        replace(p, arrival_ns=(p.arrival_ns or 0) + 10 * NS_PER_S)
        for p in stream(NUMBERS[500:], 500, **changed)
    ]
    listener = counting().hear([*before, *after])
    p = listener.buffer.packets
    assert p.restarts == 1 and p.decoded + listener.buffer.waiting_packets == p.received
    assert listener.buffer.lost_packets == listener.buffer.account.concealed == 0
    heard = listener.pcm[listener.pcm > 0]
    assert set(np.diff(heard)) == {0, 1}
    assert max(listener.delays_ms) <= FLOOR_MS


def test_stragglers_of_the_stream_before_are_strays() -> None:
    before = stream(NUMBERS, 500)
    held = delayed(before[495:], lambda p: 200 * NS_PER_MS)
    after = [replace(p, arrival_ns=(p.arrival_ns or 0) + 10 * NS_PER_S) for p in stream(NUMBERS, 500, ssrc=9)]
    listener = counting().hear([*before[:495], *held, *after])
    assert listener.buffer.packets.restarts == 1 and listener.buffer.packets.stray == 5


@pytest.mark.parametrize("seconds", [0.5, 3.0, 3_600.0, 40_000.0])
def test_a_jump_of_the_time_stamps_forward_is_not_concealed_away(seconds: float) -> None:
    sent = stream(NUMBERS, 500, timestamp=1_000)
    jumped = [
        replace(p, timestamp=(p.timestamp + int(seconds * CLOCK)) % 2**32)
        for p in stream(NUMBERS, 1_000, timestamp=1_000)[500:]
    ]
    listener = counting().hear([*sent, *jumped])
    account, p = listener.buffer.account, listener.buffer.packets
    assert account.concealed + account.comfort <= TURN
    assert p.decoded + p.skipped + listener.buffer.waiting_packets == p.received and p.skipped <= 1
    assert max(listener.delays_ms[65:]) <= FLOOR_MS


def test_one_stray_packet_changes_nothing() -> None:
    rng, sent = np.random.default_rng(8), stream(NUMBERS, 1_000)
    for at in range(50, 1_000, 50):
        stray = Sent(
            int(rng.integers(2**16)),
            int(rng.integers(2**32)),
            numbered(7),
            sent[at].arrival_ns,
            ssrc=int(rng.integers(1, 4)),
        )
        sent.insert(at, stray)
    listener = counting().hear(sent)
    p = listener.buffer.packets
    assert p.restarts == 0 and p.stray + p.late + p.duplicate >= 17
    assert p.decoded >= 980
    assert listener.buffer.account.concealed == listener.buffer.lost_packets == 0


def test_a_leg_whose_phase_is_chosen_anew_leaves_out_what_waited() -> None:
    listener = counting()
    sent = stream(NUMBERS, 200)
    listener.hear(sent[:100])
    listener.buffer.choose_phase()
    listener.now_ns += 400 * NS_PER_MS + 11 * NS_PER_MS
    listener.hear(sent[100:])
    assert listener.buffer.packets.skipped > 0 and listener.buffer.lost_packets == 0
    assert listener.delays_ms[-1] <= FLOOR_MS and listener.buffer.account.concealed == 0


# Hostile bytes.


def test_bytes_that_are_no_packet_are_malformed_and_those_that_do_not_decode_are_concealed() -> None:
    listener = Listener()
    good = bytes.fromhex("b80102030405")  # CELT, 20 ms
    bad = bytes([0xB3, 0x82, 0xFF, 0xFF, 0xFF])  # two frames of 10 ms, with lengths beyond the end
    payloads = [good, b"", b"\xff\x00", bytes(MAX_PAYLOAD_BYTES + 1), bad]
    listener.hear(stream(payloads, 100))
    p = listener.buffer.packets
    assert p.malformed == 60 and p.undecodable > 15
    assert listener.buffer.account.concealed > 0


def test_a_flood_is_bounded_by_count() -> None:
    listener = counting()
    for index in range(5_000):
        listener.buffer.receive_packet(1, index + 30_000, index * 48, numbered(index, 16), index)
        listener.arrived += 1
        assert listener.buffer.waiting_packets <= MAX_WAITING + 1
    listener.cut()
    assert listener.buffer.packets.skipped >= 5_000 - MAX_WAITING - 1
    assert listener.buffer.lost_packets == 0


near = st.integers(-3, 12)
wild = st.integers(0, 2**32 - 1)
packet = st.tuples(
    st.sampled_from([1, 1, 1, 1, 2]),
    st.one_of(near, near, near, wild),
    st.one_of(near, near, near, wild),
    st.one_of(st.binary(max_size=40), st.sampled_from([bytes.fromhex("b80102030405"), b"\x48\x00", b"\x08"])),
    st.sampled_from([0, 1, 20, 20, 20, 150, 2_000]),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.one_of(packet, st.none()), max_size=120))
def test_arbitrary_packets_never_raise_and_the_accounts_hold(events: list[tuple | None]) -> None:
    listener = Listener(now_ns=0)
    sequence, timestamp = 65_530, 2**32 - 3 * TICKS
    for event in events:
        if event is None:
            listener.cut()
            assert listener.buffer.waiting <= TURN
            continue
        ssrc, steps, ticks, payload, after_ms = event
        sequence = (sequence + steps) % 2**16
        timestamp = (timestamp + (ticks * TICKS if ticks <= 12 else ticks)) % 2**32
        at_ns = listener.now_ns - TURN_NS + after_ms * NS_PER_MS
        listener.buffer.receive_packet(ssrc, sequence, timestamp, payload, at_ns)
        listener.arrived += 1
        assert listener.buffer.waiting_packets <= MAX_WAITING + 1
        listener.check()
    listener.cut()
