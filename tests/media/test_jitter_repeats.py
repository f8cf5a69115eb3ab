"""How long chunks wait for what is asked for again: only for what FEC cannot give back, and only while it helps."""

from __future__ import annotations

import heapq

import pytest

from media.delay import GUARD_MS, MOST_REPEAT_MS
from media.repairs import LOSS_TURNS, REPEAT_TURNS, Repairs
from media.timebase import NS_PER_MS
from tests.support.virtual_line import CountingDecoder, Listener, Sent, lossy, numbered, stream

NUMBERS = [numbered(index) for index in range(3_000)]


def heard(sent: list[Sent], again_ms: float | None, until_ns: int | None = None) -> Listener:
    """Each lost packet comes `again_ms` after it should have, as one that was asked for; None: never."""
    clean = stream(NUMBERS, len(sent))
    listener = Listener(CountingDecoder())
    queue: list[tuple[int, int, bool]] = []
    for index, packet in enumerate(sent):
        at_ns = clean[index].arrival_ns
        assert at_ns is not None
        if packet.arrival_ns is not None:
            queue.append((at_ns, index, False))
        elif again_ms is not None:
            queue.append((at_ns + int(again_ms * NS_PER_MS), index, True))
    heapq.heapify(queue)
    last_ns = until_ns or max(at_ns for at_ns, _, _ in queue)
    while listener.now_ns <= last_ns:
        while queue and queue[0][0] <= listener.now_ns:
            at_ns, index, repeated = heapq.heappop(queue)
            p = clean[index]
            listener.buffer.receive_packet(
                p.ssrc, p.sequence, p.timestamp, p.payload, at_ns, repeated=repeated
            )
            listener.arrived += 1
        listener.cut()
    return listener


def test_where_repeats_come_a_chunk_waits_for_them() -> None:
    sent = lossy(stream(NUMBERS, 1_500), 0.2, seed=2, burst=3.0)
    without, with_repeats = heard(sent, None), heard(sent, 90.0)
    assert with_repeats.buffer.target_ms == pytest.approx(GUARD_MS + 90.0, abs=1)
    assert without.buffer.target_ms < GUARD_MS + 21
    concealed = [listener.buffer.account.concealed for listener in (without, with_repeats)]
    assert concealed[1] < 0.1 * concealed[0]


def test_the_wait_has_a_bound_whatever_comes_late() -> None:
    sent = lossy(stream(NUMBERS, 1_500), 0.2, seed=2, burst=3.0)
    buffer = heard(sent, 900.0).buffer
    assert buffer.target_ms <= GUARD_MS + MOST_REPEAT_MS


def test_when_the_loss_is_over_the_delay_is_back_within_two_seconds() -> None:
    bad = lossy(stream(NUMBERS, 1_000), 0.2, seed=4, burst=3.0)
    good = stream(NUMBERS, 1_500)[1_000:]
    listener = heard(bad + good, 90.0)
    over = 1_000 * 20 // 200 + 1  # the first cut behind the last that was lost
    floor_ms = listener.delays_ms[0]
    assert max(listener.delays_ms[over - 5 : over]) > floor_ms + 60
    assert max(listener.delays_ms[over + 10 :]) <= floor_ms + 22


def test_single_losses_that_fec_gives_back_are_not_waited_for_so_long() -> None:
    repairs = Repairs()
    for _ in range(LOSS_TURNS):
        for number in range(10):
            repairs.decode(repeated=number == 4, fec=lambda: True)
        repairs.come_again()
        repairs.end_turn(0)
    assert repairs.wait_ms(20.0, 90.0, has_fec=True) == 20.0
    assert repairs.wait_ms(20.0, 90.0, has_fec=False) == 0.0


def test_without_fec_single_losses_are() -> None:
    repairs = Repairs()
    for _ in range(LOSS_TURNS):
        for number in range(10):
            repairs.decode(repeated=number == 4, fec=lambda: False)
        repairs.come_again()
        repairs.end_turn(0)
    assert repairs.wait_ms(20.0, 90.0, has_fec=False) == 90.0
    for _ in range(REPEAT_TURNS):
        repairs.decode(repeated=False, fec=lambda: False)
        repairs.end_turn(0)
    assert repairs.wait_ms(20.0, 90.0, has_fec=False) == 0.0


def test_a_sender_that_repeats_nothing_is_not_waited_for() -> None:
    repairs = Repairs()
    for _ in range(LOSS_TURNS):
        for _ in range(7):
            repairs.decode(repeated=False, fec=lambda: False)
        repairs.lose(3)
        repairs.end_turn(0)
    assert repairs.loss == pytest.approx(0.3)
    assert repairs.wait_ms(20.0, 90.0, has_fec=False) == 0.0
    assert repairs.wait_ms(20.0, None, has_fec=True) == 0.0


def test_what_is_forgotten_leaves_nothing_in_the_sums() -> None:
    repairs = Repairs()
    repairs.lose(5)
    repairs.end_turn(2)
    for _ in range(LOSS_TURNS):
        repairs.decode(repeated=False, fec=lambda: True)
        repairs.end_turn(0)
    assert repairs.loss == 0.0
    assert repairs.wait_ms(20.0, 90.0, has_fec=True) == 0.0
