"""What a receiver says of a stream in RTCP, the report block of RFC 3550 6.4.1, and what its sender makes of it.

Fed with packets as they come; asked for a block once per report. Nothing here decides about playing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from media.rtp import JitterEstimator, sequence_unwrapper, timestamp_unwrapper
from media.timebase import NS_PER_S

_MOST_LOST = (1 << 23) - 1
_LONGEST_DELAY_NS = 0xFFFF * NS_PER_S
_SPAN_NS, _SPAN_PACKETS, _MOST_MARKS = NS_PER_S, 1 << 12, 128


@dataclass(frozen=True, slots=True)
class ReportBlock:
    """The fields as they go on the wire."""

    fraction_lost: int
    """256ths of the packets that were expected since the block before."""
    cumulative_lost: int
    """24 bits, signed: duplicates may make it negative."""
    highest_sequence: int
    """32 bits: cycles and sequence number."""
    jitter: int
    """In units of the stream's clock."""
    last_sender_report: int
    """The middle 32 bits of its NTP time stamp; 0 when there was none."""
    delay_since: int
    """Since it came, in 65536ths of a second."""


class Reception:
    """One stream (SSRC) as it comes in."""

    def __init__(self, clock_hz: int) -> None:
        self.received = 0
        self._sequence = sequence_unwrapper()
        self._timestamp = timestamp_unwrapper()
        self._jitter = JitterEstimator(clock_hz)
        self._base = 0
        self._highest = 0
        self._expected_before = 0
        self._received_before = 0
        self._report: tuple[int, int] | None = None

    @property
    def expected(self) -> int:
        """Packets that the sequence numbers say were sent."""
        return self._highest - self._base + 1 if self.received else 0

    @property
    def lost(self) -> int:
        """Expected and not received; late ones count as received, duplicates twice (RFC 3550 A.3)."""
        return self.expected - self.received

    @property
    def jitter_ms(self) -> float:
        """Interarrival jitter (RFC 3550 A.8)."""
        return self._jitter.jitter_ms

    def receive(self, sequence: int, timestamp: int, arrival_ns: int) -> None:
        """One packet, its 16-bit sequence number and 32-bit time stamp as on the wire."""
        extended = self._sequence.unwrap(sequence)
        if not self.received:
            self._base = self._highest = extended
        self._base = min(self._base, extended)
        self._highest = max(self._highest, extended)
        self.received += 1
        self._jitter.update(arrival_ns, self._timestamp.unwrap(timestamp))

    def receive_report(self, ntp: int, arrival_ns: int) -> None:
        """A sender report: its 64-bit NTP time stamp."""
        self._report = (ntp >> 16) & 0xFFFFFFFF, arrival_ns

    def block(self, now_ns: int) -> ReportBlock:
        """The report since the last one."""
        expected = self.expected - self._expected_before
        lost = expected - (self.received - self._received_before)
        self._expected_before, self._received_before = self.expected, self.received
        last, came_ns = self._report or (0, now_ns)
        delay_ns = min(now_ns - came_ns, _LONGEST_DELAY_NS)
        return ReportBlock(
            fraction_lost=min(255, lost * 256 // expected) if expected > 0 and lost > 0 else 0,
            cumulative_lost=max(-_MOST_LOST - 1, min(self.lost, _MOST_LOST)),
            highest_sequence=self._highest & 0xFFFFFFFF,
            jitter=self._jitter.jitter_ticks & 0xFFFFFFFF,
            last_sender_report=last,
            delay_since=delay_ns * 65536 // NS_PER_S,
        )


class ReportedLoss:
    """Share of our packets that were lost by a peer's running sums, over the last second or more of its reports.

    The fraction of a single report is no measure where packets overtake each other: it counts those that are still
    under way as lost, and never takes them back (RFC 3550 A.3). A report comes with every NACK, too, just then.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[int, int, int]] = deque(maxlen=_MOST_MARKS)  # time, highest sequence, lost

    def update(self, highest_sequence: int, cumulative_lost: int, now_ns: int) -> float:
        """A report: -1 to 1, below 0 when more came than was newly sent; 0 until a second of reports is here."""
        marks = self._marks
        if marks and not 0 <= highest_sequence - marks[-1][1] < _SPAN_PACKETS:
            marks.clear()  # another stream, or nonsense
        marks.append((now_ns, highest_sequence, cumulative_lost))
        while len(marks) > 1 and now_ns - marks[1][0] >= _SPAN_NS:
            marks.popleft()
        then_ns, first, lost = marks[0]
        if now_ns - then_ns < _SPAN_NS or highest_sequence == first:
            return 0.0
        return max(-1.0, min(1.0, (cumulative_lost - lost) / (highest_sequence - first)))
