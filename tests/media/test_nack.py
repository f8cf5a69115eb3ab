"""Lost packets are asked for while a repeat can be of use; ours are repeated, and never more than was earned."""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np
import pytest

from media.nack import KEPT_NS, KEPT_PACKETS, MAX_HOLES, MAX_TRIES, MOST_REPEATS, REORDER_NS, Gaps, Repeats
from media.timebase import NS_PER_MS, NS_PER_S
from tests.support.virtual_line import SPEECH, Listener, Sent, lossy, spoken, stream

TRIP_NS = 60 * NS_PER_MS
FAR_NS = 10 * NS_PER_S
PERIOD_NS = 20 * NS_PER_MS


def far(behind: int) -> int:
    return FAR_NS


def settled(gaps: Gaps) -> bool:
    c = gaps.counters
    return c.noticed == c.repaired + c.overtaken + c.mended + c.lost + gaps.open


def test_a_gap_is_asked_for_after_the_wait_and_again_after_each_round_trip() -> None:
    gaps = Gaps()
    for number, at in ((65_534, 0), (1, PERIOD_NS)):  # 65535 and 0 are missing
        assert not gaps.receive(7, number, at)
    assert gaps.wanted(PERIOD_NS + REORDER_NS - 1, TRIP_NS, far) == []
    asked_ns = PERIOD_NS + REORDER_NS
    assert gaps.wanted(asked_ns, TRIP_NS, far) == [65_535, 0]
    assert gaps.wanted(asked_ns + TRIP_NS - 1, TRIP_NS, far) == []
    assert gaps.wanted(asked_ns + TRIP_NS, TRIP_NS, far) == [65_535, 0]
    assert gaps.receive(7, 0, asked_ns + TRIP_NS + 1)  # of the first request
    for _ in range(9):
        asked_ns += TRIP_NS
        gaps.wanted(asked_ns, TRIP_NS, far)
    assert gaps.counters.asked == 2 + 2 + MAX_TRIES - 2
    assert gaps.counters.repaired == 1 and gaps.open == 1 and settled(gaps)


def test_what_comes_sooner_than_a_repeat_can_was_only_overtaken() -> None:
    gaps = Gaps()
    gaps.receive(7, 1, 0)
    gaps.receive(7, 4, 0)
    assert not gaps.receive(7, 2, REORDER_NS // 2)
    assert gaps.wanted(REORDER_NS, TRIP_NS, far) == [3]
    assert not gaps.receive(7, 3, REORDER_NS + TRIP_NS // 4)
    assert not gaps.receive(7, 3, REORDER_NS + TRIP_NS // 4)  # a duplicate
    assert (gaps.counters.overtaken, gaps.counters.repaired) == (2, 0) and settled(gaps)


def test_what_another_packet_carries_is_not_asked_for() -> None:
    gaps = Gaps()
    gaps.mend(0)
    gaps.receive(7, 65_535, 0)
    gaps.receive(7, 2, 0)
    gaps.mend(1)
    assert gaps.wanted(REORDER_NS, TRIP_NS, far) == [0]
    assert gaps.counters.mended == 1 and settled(gaps)


def test_nothing_is_asked_for_that_would_come_after_its_cut() -> None:
    gaps = Gaps()
    gaps.receive(7, 1, 0)
    gaps.receive(7, 4, 0)
    places = {2: REORDER_NS + TRIP_NS, 1: REORDER_NS + TRIP_NS + 1}  # by steps behind the newest
    assert gaps.wanted(REORDER_NS, TRIP_NS, places.__getitem__) == [3]
    assert gaps.wanted(REORDER_NS + 2 * TRIP_NS, TRIP_NS, places.__getitem__) == []
    assert gaps.counters.lost == 2
    assert gaps.receive(7, 3, REORDER_NS + 2 * TRIP_NS)  # a repeat all the same: no jitter
    assert gaps.counters.came_late == 1 and settled(gaps)


def test_a_stream_that_jumps_leaves_nothing_to_ask_for_and_an_outage_only_its_end() -> None:
    gaps = Gaps()
    gaps.receive(7, 1, 0)
    gaps.receive(7, 500, 0)
    assert gaps.wanted(REORDER_NS, TRIP_NS, far) == list(range(500 - MAX_HOLES, 500))
    gaps.receive(7, 30_000, 0)
    assert gaps.wanted(FAR_NS - 1, TRIP_NS, far) == [] and gaps.open == 0 and settled(gaps)
    gaps.receive(7, 30_002, 0)
    gaps.receive(8, 5, 0)
    assert gaps.open == 0 and settled(gaps)


def test_hostile_numbers_keep_the_account_and_the_bound() -> None:
    rng, gaps = np.random.default_rng(3), Gaps()
    for turn in range(20_000):
        near = (turn + int(rng.integers(-40, 40))) & 0xFFFF
        number = near if rng.random() < 0.9 else int(rng.integers(0x10000))
        gaps.receive(int(rng.random() < 0.001), number, turn * NS_PER_MS)
        asked = gaps.wanted(turn * NS_PER_MS, None, lambda behind, now=turn: (now + 50 - behind) * NS_PER_MS)
        assert len(asked) <= 2 * MAX_HOLES and all(0 <= n < 0x10000 for n in asked)
        assert len(gaps._holes) <= 2 * MAX_HOLES and settled(gaps)


def test_our_packets_go_again_as_they_were_and_not_twice_in_a_round_trip() -> None:
    repeats = Repeats()
    for number in range(65_530, 65_530 + 20):
        repeats.keep(number & 0xFFFF, b"%d" % (number & 0xFFFF), 0)
    assert repeats.again([65_535, 0, 900], 1, TRIP_NS) == [b"65535", b"0"]
    assert repeats.again([65_535], TRIP_NS // 2, TRIP_NS) == []
    assert repeats.again([65_535], TRIP_NS, TRIP_NS) == [b"65535"]
    assert repeats.again([65_533], KEPT_NS + 1, TRIP_NS) == []  # too old
    assert (repeats.counters.asked, repeats.counters.repeated, repeats.counters.refused) == (6, 3, 3)


def test_who_asks_for_all_of_it_all_the_time_gets_half_as_much_again() -> None:
    repeats, repeated = Repeats(), 0
    for number in range(1000):
        repeats.keep(number, b"x", number * PERIOD_NS)
        repeated += len(repeats.again(range(10_000), number * PERIOD_NS, 0))
        repeated += len(repeats.again(range(number - 60, number), number * PERIOD_NS, 0))
    assert MOST_REPEATS < repeated <= 1000 // 2 + MOST_REPEATS
    assert repeats.counters.asked <= 1000 * 2 * KEPT_PACKETS


def heard_over(sent: list[Sent], repeat: bool, loss: float, trip_ns: int) -> Listener:
    """The listener of a lossy line whose sender repeats what is asked for, over the same line."""
    listener, gaps, rng = Listener(), Gaps(), np.random.default_rng(5)
    queue = [(p.arrival_ns, index, p) for index, p in enumerate(sent) if p.arrival_ns is not None]
    by_number = {p.sequence: p for p in sent}
    heapq.heapify(queue)
    for now_ns in range(0, queue[-1][0], PERIOD_NS):
        while listener.now_ns <= now_ns:
            listener.cut()
        while queue and queue[0][0] <= now_ns:
            at, index, p = heapq.heappop(queue)
            repeated = gaps.receive(p.ssrc, p.sequence, at) and repeat
            listener.buffer.receive_packet(p.ssrc, p.sequence, p.timestamp, p.payload, at, repeated=repeated)
            listener.arrived += 1
        for number in gaps.wanted(now_ns, trip_ns, listener.buffer.place_ns) if repeat else ():
            if rng.random() >= loss:
                again = replace(by_number[number], arrival_ns=now_ns + trip_ns)
                heapq.heappush(queue, (now_ns + trip_ns, len(sent) + number, again))
    listener.check()
    assert settled(gaps)
    if repeat:
        assert gaps.counters.overtaken == 0
        assert gaps.counters.came_late <= 0.05 * gaps.counters.noticed  # asked for just before a wait ended
        assert gaps.counters.repaired > gaps.counters.noticed / 4
    return listener


@pytest.mark.skipif(not SPEECH.is_dir(), reason=f"no recorded speech at {SPEECH}")
@pytest.mark.parametrize(("loss", "trip_ms", "kept"), [(0.05, 40, 0.45), (0.05, 80, 0.7), (0.2, 60, 0.75)])
def test_repeats_save_most_of_what_would_be_concealed(loss: float, trip_ms: int, kept: float) -> None:
    sent = lossy(stream(spoken(30.0), 1490), loss, seed=11)
    without = heard_over(sent, False, loss, trip_ms * NS_PER_MS)
    with_repeats = heard_over(sent, True, loss, trip_ms * NS_PER_MS)
    concealed = [listener.buffer.account.concealed for listener in (without, with_repeats)]
    print(loss, trip_ms, concealed, [np.mean(x.delays_ms) for x in (without, with_repeats)])
    assert concealed[0] > 0.8 * loss * 1490 * 320
    assert concealed[1] < kept * concealed[0]
    assert with_repeats.buffer.packets.duplicate == 0
    wait_ms = np.mean(with_repeats.delays_ms) - np.mean(without.delays_ms)
    assert (
        wait_ms < REORDER_NS / NS_PER_MS + trip_ms + 2 * 20 + 20
    )  # a gap, a look every 20 ms; no jitter is seen
