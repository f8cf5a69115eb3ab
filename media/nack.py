"""Lost packets of speech are asked for again, and ours are sent again: generic NACK, RFC 4585 6.2.1, without RTX.

A chunk is 200 ms, so most of its packets can be lost, asked for and repeated before it is cut:

    a gap, younger than `REORDER_NS`               wait: packets overtake each other
    older, and a repeat would come before its cut  ask, again after each round trip, `MAX_TRIES` times
    its place is past, or a repeat would be late   lost: in-band FEC or concealment has it
    what was asked for comes                       repaired: not by jitter, so no estimate of delay may learn it

Knows no clock and no socket. Its one rule: no gap is lost from the account. At any time

    noticed = repaired + overtaken + mended + lost + open
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from media.timebase import NS_PER_MS, NS_PER_S

REORDER_NS = 10 * NS_PER_MS
RETRY_NS = 100 * NS_PER_MS
"""Between two requests while no round trip is known."""
LEAST_RETRY_NS = 20 * NS_PER_MS
MAX_TRIES = 4
MAX_HOLES = 32
"""Remembered at once, the newest: what is further back has been cut."""
MAX_JUMP = 1_000
"""Steps of the sequence beyond which another stream began."""
KEPT_PACKETS = 64
KEPT_NS = NS_PER_S
REPEATS_PER_PACKET, MOST_REPEATS = 0.5, 16
"""Earned by each packet sent, and saved up: whatever is asked for, a stream sends at most 1.5 times itself."""
MAX_REPEATS = 3
"""Of one packet."""


@dataclass(slots=True)
class GapCounters:
    """Packets of the sender's that did not come in order."""

    noticed: int = 0
    repaired: int = 0
    overtaken: int = 0
    """They came by themselves."""
    mended: int = 0
    """Another packet carried them once more (RED)."""
    lost: int = 0
    came_late: int = 0
    """Of the lost ones: their repeat came when nobody needed it any more."""
    asked: int = 0
    """Sequence numbers named, each as often as it was named."""


@dataclass(slots=True)
class _Hole:
    noticed_ns: int
    asked_ns: int = 0
    tries: int = 0
    lost: bool = False


class Gaps:
    """What is missing of one stream."""

    def __init__(self) -> None:
        self.counters = GapCounters()
        self._holes: dict[int, _Hole] = {}  # by extended sequence number, ascending but for overtakers
        self._highest: int | None = None
        self._ssrc = 0
        self._round_trip_ns = 0

    @property
    def open(self) -> int:
        """Holes that may still be mended."""
        return sum(not hole.lost for hole in self._holes.values())

    def receive(self, ssrc: int, sequence: int, arrival_ns: int) -> bool:
        """One packet, its 16-bit sequence number as on the wire; True when it is a repeat that we asked for."""
        if self._highest is None or ssrc != self._ssrc:
            self._begin(ssrc, sequence)
            return False
        step = (sequence - self._highest + 0x8000) % 0x10000 - 0x8000
        if abs(step) > MAX_JUMP:
            self._begin(ssrc, sequence)
            return False
        if step <= 0:
            return self._fill(self._highest + step, arrival_ns)
        for number in range(max(self._highest + 1, self._highest + step - MAX_HOLES), self._highest + step):
            self._holes[number] = _Hole(arrival_ns)
            self.counters.noticed += 1
        self._highest += step
        if self._holes:
            self._forget()
        return False

    def mend(self, sequence: int) -> None:
        """Another packet had that one in it: no need to ask."""
        if self._highest is None:
            return
        step = (sequence - self._highest + 0x8000) % 0x10000 - 0x8000
        hole = self._holes.pop(self._highest + step, None)
        if hole is not None and not hole.lost:
            self.counters.mended += 1

    def wanted(self, now_ns: int, round_trip_ns: int | None, place_ns: Callable[[int], int]) -> list[int]:
        """Sequence numbers (16 bits) to be asked for now.

        `place_ns` says of the packet so many before the newest when its place is cut.
        """
        if not self._holes or self._highest is None:
            return []
        self._round_trip_ns = round_trip_ns or 0
        retry_ns = max(round_trip_ns, LEAST_RETRY_NS) if round_trip_ns is not None else RETRY_NS
        asked = []
        for number, hole in self._holes.items():
            if hole.lost or now_ns - hole.noticed_ns < REORDER_NS:
                continue
            place = place_ns(self._highest - number)
            if now_ns >= place:
                self._lose(hole)
            elif (
                hole.tries < MAX_TRIES
                and (not hole.tries or now_ns - hole.asked_ns >= retry_ns)
                and now_ns + self._round_trip_ns < place
            ):
                hole.asked_ns, hole.tries = now_ns, hole.tries + 1
                asked.append(number & 0xFFFF)
        self.counters.asked += len(asked)
        return asked

    def _begin(self, ssrc: int, sequence: int) -> None:
        for hole in self._holes.values():
            self._lose(hole)
        self._holes.clear()
        self._ssrc, self._highest = ssrc, sequence

    def _fill(self, number: int, arrival_ns: int) -> bool:
        hole = self._holes.pop(number, None)
        if hole is None:
            return False
        is_repeat = hole.tries > 0 and arrival_ns - hole.asked_ns >= self._round_trip_ns // 2
        is_repeat |= hole.tries > 1  # of an earlier request
        if hole.lost:
            self.counters.came_late += is_repeat
        elif is_repeat:
            self.counters.repaired += 1
        else:
            self.counters.overtaken += 1
        return is_repeat

    def _lose(self, hole: _Hole) -> None:
        if not hole.lost:
            hole.lost = True
            self.counters.lost += 1

    def _forget(self) -> None:
        """What is too far back, oldest first."""
        assert self._highest is not None
        for number in [n for n in self._holes if n < self._highest - MAX_HOLES]:
            self._lose(self._holes.pop(number))


@dataclass(slots=True)
class RepeatCounters:
    """Requests for our packets."""

    asked: int = 0
    """Sequence numbers that the other side named."""
    repeated: int = 0
    refused: int = 0
    """Unknown, too old, repeated a moment ago or too often, or more than the stream has earned."""


@dataclass(slots=True)
class _Kept:
    sequence: int
    datagram: bytes
    sent_ns: int
    repeated_ns: int = 0
    repeats: int = 0


class Repeats:
    """Our packets of the last second, as they were sent: encrypted, so that the same bytes may go again."""

    def __init__(self) -> None:
        self.counters = RepeatCounters()
        self._kept: list[_Kept | None] = [None] * KEPT_PACKETS
        self._earned = 0.0

    def keep(self, sequence: int, datagram: bytes, now_ns: int) -> None:
        """A packet was sent."""
        self._kept[sequence % KEPT_PACKETS] = _Kept(sequence, datagram, now_ns)
        self._earned = min(MOST_REPEATS, self._earned + REPEATS_PER_PACKET)

    def again(self, sequences: Iterable[int], now_ns: int, round_trip_ns: int | None) -> list[bytes]:
        """Those datagrams of the asked ones that go again now; at most `KEPT_PACKETS` numbers are looked at."""
        pause_ns = (
            max(round_trip_ns or 0, LEAST_RETRY_NS) * 3 // 4
        )  # one lost again is asked for a trip later
        found = []
        for _, sequence in zip(range(KEPT_PACKETS), sequences, strict=False):
            self.counters.asked += 1
            kept = self._kept[sequence % KEPT_PACKETS]
            if kept is None or kept.sequence != sequence or not self._may_go(kept, now_ns, pause_ns):
                self.counters.refused += 1
                continue
            kept.repeats, kept.repeated_ns = kept.repeats + 1, now_ns
            self._earned -= 1
            self.counters.repeated += 1
            found.append(kept.datagram)
        return found

    def _may_go(self, kept: _Kept, now_ns: int, pause_ns: int) -> bool:
        if self._earned < 1 or kept.repeats >= MAX_REPEATS or now_ns - kept.sent_ns > KEPT_NS:
            return False
        return not kept.repeats or now_ns - kept.repeated_ns >= pause_ns
