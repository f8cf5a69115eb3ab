"""The packets of one stream between their arrival and their turn to be decoded: order, identity, bounds.

Sequence number and time stamp are unwrapped here, once; everything behind this door sees integers that never
wrap and a stream that never jumps. When a sender does jump (another SSRC, another time line, RFC 3550 A.1), its
first packet waits on probation; if the next one is its successor, both go on where the old ones end. A
packet that stays alone was a stray and is counted as one.

Knows no codec and no clock. Its one rule: no packet is lost from the account. At any time

    received = decoded + late + duplicate + malformed + undecodable + stray + skipped + waiting
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from media.timebase import NS_PER_S

MAX_WAITING = 128
"""2.5 s of 20 ms packets; with more the oldest is skipped: nobody is cutting."""
MAX_PAYLOAD_BYTES = 8_000
"""More than 120 ms at the highest rate of Opus, 510 kbit/s."""
MAX_DROPOUT, MAX_MISORDER = 3_000, 100
"""Steps of the sequence that are still the same stream; RFC 3550 appendix A.1."""
MAX_LEAD_NS = NS_PER_S
"""How much further than the time that passed a time stamp may go."""
RETIRED_NS = NS_PER_S
"""For so long packets of an SSRC that was left are stragglers, however regular."""


@dataclass(slots=True)
class PacketAccount:
    """Packets since the leg began."""

    received: int = 0
    decoded: int = 0
    late: int = 0
    """Their place in the sound had been passed."""
    duplicate: int = 0
    malformed: int = 0
    """Not of the codec, by their first bytes or their size."""
    undecodable: int = 0
    stray: int = 0
    """Neither of the stream nor the start of another one."""
    skipped: int = 0
    """In order, and left out to be on time again: a long stall's oldest, or beyond `MAX_WAITING`."""
    revived: int = 0
    """Of `received`: lost, and carried once more by another packet (RED)."""
    redundant: int = 0
    """Carried once more, and not needed; no packets."""
    restarts: int = 0
    """Changes of SSRC or time line; no packets."""


class Packet(NamedTuple):
    """`timestamp` and `ticks` (how long it lasts) are in the payload's clock, both counters unwrapped."""

    sequence: int
    timestamp: int
    ticks: int
    payload: bytes
    arrival_ns: int
    repeated: bool = False
    """It came because it was asked for again."""

    @property
    def end(self) -> int:
        """The time stamp after its last sample."""
        return self.timestamp + self.ticks


class PacketStore:
    """Packets by time stamp, and the one on probation. `put` may go one or two over `MAX_WAITING`: whoever puts
    looks at `is_over` and takes the oldest out."""

    def __init__(self, clock_hz: int) -> None:
        self._clock_hz = clock_hz
        self.account = PacketAccount()
        self._waiting: dict[int, Packet] = {}
        self._passed: int | None = None  # time stamps before it are late
        self._ssrc: int | None = None
        self._highest: Packet | None = None
        self._seen = 0  # bit n: sequence `newest - n` was received
        self._first_sequence = 0
        self._sequence_shift = self._timestamp_shift = (
            0  # from the counters of the first stream to this one's
        )
        self._probation: tuple[int, Packet] | None = (
            None  # the SSRC, and the packet with counters as on the wire
        )
        self._retired: tuple[int, int] | None = None  # an SSRC, and until when

    @property
    def waiting(self) -> int:
        """Packets here, the one on probation included."""
        return len(self._waiting) + (self._probation is not None)

    @property
    def highest_sequence(self) -> int:
        """As a receiver report carries it: extended by the wraps (RFC 3550 6.4.1); 0 before the first packet."""
        return self._highest.sequence - self._sequence_shift & 0xFFFFFFFF if self._highest else 0

    @property
    def highest(self) -> Packet | None:
        """The packet of the highest sequence number so far."""
        return self._highest

    @property
    def expected(self) -> int:
        """Packets that the sender has sent as far as we know (RFC 3550 A.3)."""
        return self._highest.sequence - self._first_sequence + 1 if self._highest else 0

    @property
    def is_over(self) -> bool:
        """More than `MAX_WAITING` are here: the oldest has to go."""
        return len(self._waiting) > MAX_WAITING

    @property
    def newest(self) -> Packet | None:
        """The newest packet that waits."""
        return self._waiting[max(self._waiting)] if self._waiting else None

    def settled_end(self, before_ns: int) -> int | None:
        """The end of the newest packet that waits and came at `before_ns` or earlier."""
        return max((p.end for p in self._waiting.values() if p.arrival_ns <= before_ns), default=None)

    @property
    def waiting_ticks(self) -> int:
        """How long all that waits lasts, gaps left out."""
        return sum(packet.ticks for packet in self._waiting.values())

    def holds(self, timestamp: int) -> Packet | None:
        """The packet that begins there."""
        return self._waiting.get(timestamp)

    def first(self) -> Packet | None:
        """The oldest packet that waits."""
        return self._waiting[min(self._waiting)] if self._waiting else None

    def take(self, packet: Packet) -> None:
        """Its place has come; the account of it is the taker's."""
        del self._waiting[packet.timestamp]

    def pass_to(self, timestamp: int) -> None:
        """Whatever begins before `timestamp` is late from now on."""
        self._passed = timestamp
        while self._waiting and (oldest := min(self._waiting)) < timestamp:
            del self._waiting[oldest]
            self.account.late += 1

    def put(
        self,
        ssrc: int,
        sequence: int,
        timestamp: int,
        ticks: int,
        payload: bytes,
        arrival_ns: int,
        *,
        repeated: bool = False,
    ) -> tuple[Packet, ...]:
        """A packet with its counters as on the wire, `ticks` 0 if it is not of the codec.

        Returns the packets that are found to be of the stream by it, late ones included: 0, 1, or 2.
        """
        self.account.received += 1
        if not ticks or len(payload) > MAX_PAYLOAD_BYTES:
            self.account.malformed += 1
            return ()
        newest = self._highest
        if newest is None:
            self._ssrc, self._first_sequence = ssrc, sequence
            return self._accept(Packet(sequence, timestamp, ticks, payload, arrival_ns))
        if ssrc == self._ssrc:
            packet = Packet(
                _nearest(sequence + self._sequence_shift, newest.sequence, 16),
                _nearest(timestamp + self._timestamp_shift, newest.timestamp, 32),
                ticks,
                payload,
                arrival_ns,
                repeated,
            )
            if self._follows(packet, newest):
                return self._accept(packet)
        return self._try(ssrc, Packet(sequence, timestamp, ticks, payload, arrival_ns))

    def lacks(self, ssrc: int, sequence: int, timestamp: int) -> bool:
        """Whether that packet, with counters as on the wire, is of the stream, never came, and is not late."""
        newest = self._highest
        if newest is None or ssrc != self._ssrc:
            return False
        sequence = _nearest(sequence + self._sequence_shift, newest.sequence, 16)
        timestamp = _nearest(timestamp + self._timestamp_shift, newest.timestamp, 32)
        steps = newest.sequence - sequence
        if steps > MAX_MISORDER or steps < -MAX_DROPOUT or steps >= 0 and self._seen >> steps & 1:
            return False
        return timestamp not in self._waiting and (self._passed is None or timestamp >= self._passed)

    def _follows(self, packet: Packet, newest: Packet) -> bool:
        """Both counters went the same way, and no further than the stream can have gone."""
        steps, ticks = packet.sequence - newest.sequence, packet.timestamp - newest.timestamp
        if steps <= 0:
            return -steps <= MAX_MISORDER and (ticks < 0) == (steps < 0)
        passed_ns = packet.arrival_ns - newest.arrival_ns + MAX_LEAD_NS
        return steps <= MAX_DROPOUT and 0 < ticks <= passed_ns * self._clock_hz // NS_PER_S

    def _accept(self, packet: Packet) -> tuple[Packet, ...]:
        if self._is_repeated(packet):
            self.account.duplicate += 1
            return ()
        if self._passed is not None and packet.timestamp < self._passed:
            self.account.late += 1
            return (packet,)
        self._waiting[packet.timestamp] = packet
        return (packet,)

    def _is_repeated(self, packet: Packet) -> bool:
        """Notes that its sequence number was seen; another packet of the same time stamp repeats, too."""
        steps = packet.sequence - self._highest.sequence if self._highest else 1
        if steps > 0:
            self._highest = packet
            self._seen = (self._seen << min(steps, MAX_MISORDER + 1) | 1) & ((2 << MAX_MISORDER) - 1)
            return packet.timestamp in self._waiting
        repeated = bool(self._seen >> -steps & 1) or packet.timestamp in self._waiting
        self._seen |= 1 << -steps
        return repeated

    def _try(self, ssrc: int, packet: Packet) -> tuple[Packet, ...]:
        """Held until the next one tells whether a new stream begins here."""
        if self._retired and self._retired[0] == ssrc and packet.arrival_ns < self._retired[1]:
            self.account.stray += 1
            return ()
        held, self._probation = self._probation, (ssrc, packet)
        if held is None:
            return ()
        if held[0] == ssrc and packet.sequence == (held[1].sequence + 1) & 0xFFFF:
            second = packet._replace(
                sequence=held[1].sequence + 1,
                timestamp=_nearest(packet.timestamp, held[1].timestamp, 32),
            )
            if self._follows(second, held[1]):
                return self._restart(ssrc, held[1], second)
        self.account.stray += 1
        return ()

    def _restart(self, ssrc: int, first: Packet, second: Packet) -> tuple[Packet, ...]:
        """The new stream's counters are shifted so that it begins where the old one ends."""
        assert self._highest is not None
        self._probation = None
        self.account.restarts += 1
        if ssrc != self._ssrc and self._ssrc is not None:
            self._retired = (self._ssrc, second.arrival_ns + RETIRED_NS)
        self._ssrc = ssrc
        end = max(self._highest.end, self._passed if self._passed is not None else self._highest.end)
        self._sequence_shift = self._highest.sequence + 1 - first.sequence
        self._timestamp_shift = end - first.timestamp
        joined = (self._accept(self._shifted(packet)) for packet in (first, second))
        return tuple(packet for accepted in joined for packet in accepted)

    def _shifted(self, packet: Packet) -> Packet:
        return packet._replace(
            sequence=packet.sequence + self._sequence_shift,
            timestamp=packet.timestamp + self._timestamp_shift,
        )


def _nearest(value: int, reference: int, bits: int) -> int:
    """`value` of a counter of `bits` bits, extended to be nearest to `reference`."""
    span = 1 << bits
    return reference + (value - reference + span // 2) % span - span // 2
