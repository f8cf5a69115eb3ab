"""Report blocks against the arithmetic of RFC 3550, appendix A.3."""

from __future__ import annotations

from media.reports import Reception, ReportedLoss
from media.timebase import NS_PER_MS, NS_PER_S


def stream(reception: Reception, numbers: list[int]) -> None:
    for number in numbers:
        reception.receive(number & 0xFFFF, (number * 960) & 0xFFFFFFFF, number * 20 * NS_PER_MS)


def test_loss_is_told_as_a_fraction_of_what_was_due_since_the_last_block() -> None:
    reception = Reception(48_000)
    stream(reception, [n for n in range(100) if n % 4])
    first = reception.block(0)
    # the first packet of the stream is never heard of: 99 were due, 24 did not come
    assert (first.fraction_lost, first.cumulative_lost) == (24 * 256 // 99, 24)
    stream(reception, list(range(100, 200)))
    second = reception.block(0)
    assert (second.fraction_lost, second.cumulative_lost) == (0, 24)


def test_the_sequence_number_wraps_and_is_extended() -> None:
    reception = Reception(48_000)
    stream(reception, list(range(65_500, 65_600)))
    assert reception.block(0).highest_sequence == 65_599
    assert reception.lost == 0


def test_late_and_repeated_packets_are_no_loss() -> None:
    reception = Reception(48_000)
    stream(reception, [0, 1, 3, 2, 2, 4])
    block = reception.block(0)
    assert (block.fraction_lost, block.cumulative_lost) == (0, -1)


def test_an_even_stream_has_no_jitter_and_an_uneven_one_has() -> None:
    even, uneven = Reception(48_000), Reception(48_000)
    stream(even, list(range(200)))
    for number in range(200):
        uneven.receive(number, number * 960, (number * 20 + 8 * (number % 2)) * NS_PER_MS)
    assert even.block(0).jitter == 0
    assert 7.0 < uneven.jitter_ms < 8.1


def test_the_delay_since_the_senders_report_lets_it_compute_the_round_trip() -> None:
    reception = Reception(48_000)
    stream(reception, [0])
    assert reception.block(5).last_sender_report == 0
    reception.receive_report(0x1122334455667788, 10 * NS_PER_S)
    block = reception.block(10 * NS_PER_S + NS_PER_S // 2)
    assert (block.last_sender_report, block.delay_since) == (0x33445566, 32768)
    assert reception.block(10**9 * NS_PER_S).delay_since <= 0xFFFFFFFF


def test_loss_is_reckoned_over_a_second_of_reports() -> None:
    told = ReportedLoss()
    heard = [told.update(50 * n // 10, n // 2, n * NS_PER_S // 10) for n in range(31)]  # 5 packets, 0.5 lost
    assert heard[:10] == [0.0] * 10 and 0.08 <= heard[10] <= 0.12 and 0.08 <= heard[-1] <= 0.12


def test_packets_that_are_only_late_are_no_loss() -> None:
    """At every second report three are under way: its fraction says 30 %, the next one takes none back."""
    told, reception = ReportedLoss(), Reception(48_000)
    fractions, losses, late = [], [], list[int]()
    for turn in range(40):
        numbers = list(range(10 * turn, 10 * turn + 10))
        stream(reception, [*late, *numbers[:6], *([numbers[9]] if turn % 2 else numbers[6:])])
        late = numbers[6:9] if turn % 2 else []
        block = reception.block(0)
        fractions.append(block.fraction_lost / 256)
        losses.append(told.update(block.highest_sequence, block.cumulative_lost, turn * NS_PER_S // 5))
    assert 0.14 < sum(fractions) / len(fractions) < 0.16
    assert abs(sum(losses[10:])) / len(losses[10:]) < 0.005


def test_reports_of_another_stream_and_nonsense_begin_anew() -> None:
    told = ReportedLoss()
    for n in range(20):
        told.update(5 * n, 0, n * NS_PER_S // 10)
    assert told.update(1 << 31, 1 << 22, 3 * NS_PER_S) == 0.0
    assert told.update(3, 0, 4 * NS_PER_S) == 0.0
    assert told.update(53, 25, 5 * NS_PER_S) == 0.5
    assert told.update(63, -5000, 6 * NS_PER_S) == -1.0
