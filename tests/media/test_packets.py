"""The door: counters that wrap, packets that do not belong, and an account of every one."""

from __future__ import annotations

import numpy as np

from media.packets import MAX_MISORDER, MAX_PAYLOAD_BYTES, MAX_WAITING, PacketStore
from media.timebase import NS_PER_MS

CLOCK, TICKS = 48_000, 960


class Door:
    """A store, and packets every 20 ms on their way to it."""

    def __init__(self) -> None:
        self.store = PacketStore(CLOCK)

    def put(self, sequence: int, timestamp: int | None = None, ssrc: int = 1, at_ms: int = 0) -> int:
        """How many packets joined the stream."""
        stamp = sequence * TICKS if timestamp is None else timestamp
        joined = self.store.put(ssrc, sequence % 2**16, stamp % 2**32, TICKS, b"x", at_ms * NS_PER_MS)
        account = self.store.account
        named = account.late + account.duplicate + account.malformed + account.stray + account.skipped
        assert account.received == named + account.decoded + self.store.waiting
        return len(joined)


def test_counters_that_wrap_come_out_as_ones_that_do_not() -> None:
    door = Door()
    start, stamp = 65_530, 2**32 - 3 * TICKS
    for index in (0, 1, 3, 2, 5, 4, *range(6, 20)):
        assert door.put(start + index, stamp + index * TICKS, at_ms=20 * index) == 1
    for index in range(20):
        packet = door.store.first()
        assert packet and (packet.sequence, packet.timestamp) == (start + index, stamp + index * TICKS)
        door.store.take(packet)
        door.store.account.decoded += 1
    assert door.store.highest_sequence == start + 19 and door.store.expected == 20


def test_a_repeated_packet_is_a_duplicate_even_when_its_place_is_passed() -> None:
    door = Door()
    for sequence in range(20):
        door.put(sequence)
    assert door.put(7) == 0
    door.store.pass_to(10 * TICKS)
    assert door.put(7) == 0
    assert (door.store.account.duplicate, door.store.account.late) == (2, 10)


def test_a_packet_whose_place_is_passed_is_late() -> None:
    door = Door()
    for sequence in (0, 1, 3, 4):
        door.put(sequence)
    door.store.pass_to(3 * TICKS)
    assert door.put(2) == 1 and door.store.account.late == 3


def test_empty_and_oversized_payloads_are_malformed() -> None:
    store = PacketStore(CLOCK)
    assert store.put(1, 0, 0, 0, b"", 0) == ()
    assert store.put(1, 0, 0, TICKS, bytes(MAX_PAYLOAD_BYTES + 1), 0) == ()
    assert store.account.malformed == store.account.received == 2 and store.waiting == 0


def test_another_stream_needs_two_packets_in_a_row() -> None:
    door = Door()
    for sequence in range(10):
        door.put(sequence)
    assert door.put(500, 77, ssrc=2) == 0
    assert door.put(10) == 1  # the old one goes on
    assert door.put(501, 77 + TICKS, ssrc=2) == 2
    assert door.store.account.restarts == 1
    newest = door.store.newest
    assert newest and (newest.sequence, newest.timestamp) == (12, 12 * TICKS)
    assert door.store.highest_sequence == 501


def test_two_packets_in_a_row_of_two_other_streams_are_strays() -> None:
    door = Door()
    door.put(0)
    for index in range(10):
        assert door.put(500 + index, 77 + index * TICKS, ssrc=2 + index % 2) == 0
    assert (door.store.account.stray, door.store.account.restarts) == (9, 0)


def test_strays_in_any_order_never_start_a_stream() -> None:
    door, rng = Door(), np.random.default_rng(6)
    for sequence in range(200):
        door.put(sequence, at_ms=20 * sequence)
        door.put(int(rng.integers(2**16)) & ~1, int(rng.integers(2**32)), ssrc=2, at_ms=20 * sequence)
    assert door.store.account.restarts == 0 and door.store.account.stray == 199


def test_a_sequence_that_goes_on_while_time_goes_back_is_another_time_line() -> None:
    door = Door()
    for sequence in range(10):
        door.put(sequence, 5_000_000 + sequence * TICKS)
    assert door.put(10, 1_000) == 0
    assert door.put(11, 1_000 + TICKS) == 2
    assert door.store.account.restarts == 1


def test_the_past_of_the_sequence_is_remembered_as_far_as_misorder_is_allowed() -> None:
    door = Door()
    sequences = [n for n in range(0, 2 * MAX_MISORDER) if n != MAX_MISORDER + 20]
    for sequence in sequences[::2] + sequences[1::2]:
        if sequence in sequences[::2] or sequence > sequences[::2][-1] - MAX_MISORDER:
            assert door.put(sequence, at_ms=4_000) == 1
    before = door.store.account.duplicate
    for sequence in range(MAX_MISORDER + 21, 2 * MAX_MISORDER):
        assert door.put(sequence, at_ms=4_000) == 0
    assert door.store.account.duplicate - before == MAX_MISORDER - 21
    assert door.put(MAX_MISORDER + 20, at_ms=4_000) == 1


def test_whoever_puts_keeps_the_bound() -> None:
    door = Door()
    for sequence in range(MAX_WAITING):
        door.put(sequence, at_ms=20 * sequence)
    assert not door.store.is_over
    door.put(MAX_WAITING, at_ms=20 * MAX_WAITING)
    assert door.store.is_over


def test_a_time_stamp_may_go_no_further_than_time() -> None:
    door = Door()
    door.put(0)
    assert door.put(1, 10 * CLOCK, at_ms=20) == 0
    assert door.put(2, 10 * CLOCK, at_ms=9_500) == 1  # after as much silence it is right
