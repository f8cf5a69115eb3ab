"""RTP on the wire: packets, counters that wrap, arrival jitter and telephone events.

Knows the byte layouts of RFC 3550 and RFC 4733 and nothing of sockets, codecs or buffers. One rule: bytes
from a peer never raise. What cannot be parsed comes back as a `BadPacket` with the reason, to be counted.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

VERSION: Final = 2
HEADER_BYTES: Final = 12
DTMF_DIGITS: Final = "0123456789*#ABCD"  # the index is the event code, RFC 4733 section 3.2

_FIXED_HEADER = struct.Struct("!BBHII")
_EXTENSION_HEADER = struct.Struct("!HH")
_EVENT = struct.Struct("!BBH")
# RFC 5761 section 4: with the marker bit, RTCP types 192..223 look like RTP payload types 64..95.
_RTCP_TYPES = range(192, 224)


@dataclass(frozen=True, slots=True)
class BadPacket:
    """Why bytes were not taken. `reason` is one of a few fixed strings, fit to label a counter."""

    reason: str


class RtpPacket(NamedTuple):
    """One RTP packet, RFC 3550 section 5.1. Padding is stripped on parsing and never written.

    A tuple: of all immutable objects the cheapest to make, and one is made for every packet.
    """

    payload_type: int  # 0..127
    sequence: int  # 16 bits, as on the wire
    timestamp: int  # 32 bits, as on the wire, in the payload's clock
    ssrc: int  # 32 bits
    payload: bytes
    marker: bool = False
    csrcs: tuple[int, ...] = ()
    extension_profile: int = 0
    extension: bytes | None = None  # None: no extension header; length a multiple of 4

    def serialise(self) -> bytes:
        """The packet's bytes, without padding (RFC 3550 section 5.1 and 5.3.1)."""
        assert 0 <= self.payload_type <= 127, "payload type has 7 bits"
        assert 0 <= self.sequence <= 0xFFFF, "sequence has 16 bits"
        assert 0 <= self.timestamp <= 0xFFFFFFFF and 0 <= self.ssrc <= 0xFFFFFFFF, "32-bit field"
        assert len(self.csrcs) <= 15, "at most 15 contributing sources"
        assert self.extension is None or len(self.extension) % 4 == 0, "extension is whole 32-bit words"
        first = VERSION << 6 | (self.extension is not None) << 4 | len(self.csrcs)
        second = self.marker << 7 | self.payload_type
        parts = [_FIXED_HEADER.pack(first, second, self.sequence, self.timestamp, self.ssrc)]
        parts += [csrc.to_bytes(4, "big") for csrc in self.csrcs]
        if self.extension is not None:
            parts.append(_EXTENSION_HEADER.pack(self.extension_profile, len(self.extension) // 4))
            parts.append(self.extension)
        parts.append(self.payload)
        return b"".join(parts)


def parse_packet(data: bytes) -> RtpPacket | BadPacket:
    """One datagram as an RTP packet, or why it is none (RFC 3550 sections 5.1 and A.1). Never raises."""
    if len(data) < HEADER_BYTES:
        return BadPacket("short header")
    first, second, sequence, timestamp, ssrc = _FIXED_HEADER.unpack_from(data)
    if first >> 6 != VERSION:
        return BadPacket("not version 2")
    if second in _RTCP_TYPES:
        return BadPacket("rtcp")
    if not first & 0x3F:  # no padding, extension or CSRC
        return RtpPacket._make(  # half the price of its own `__new__`
            (second & 0x7F, sequence, timestamp, ssrc, data[HEADER_BYTES:], second > 0x7F, (), 0, None)
        )
    start, end = HEADER_BYTES, len(data)
    csrcs: tuple[int, ...] = ()
    if csrc_count := first & 0x0F:
        start += 4 * csrc_count
        if start > end:
            return BadPacket("short csrc list")
        csrcs = struct.unpack_from(f"!{csrc_count}I", data, HEADER_BYTES)
    profile, extension = 0, None
    if first & 0x10:
        if start + 4 > end:
            return BadPacket("short extension")
        profile, words = _EXTENSION_HEADER.unpack_from(data, start)
        start += 4
        if start + 4 * words > end:
            return BadPacket("short extension")
        extension = data[start : start + 4 * words]
        start += 4 * words
    if first & 0x20:
        padding = data[-1] if end > start else 0
        if not 0 < padding <= end - start:
            return BadPacket("bad padding")
        end -= padding
    return RtpPacket(
        second & 0x7F, sequence, timestamp, ssrc, data[start:end], second > 0x7F, csrcs, profile, extension
    )


class Unwrapper:
    """Extends a counter of `bits` bits to one that never wraps.

    Each value is taken to be the one nearest to the highest so far, so reordering across the wrap is right as
    long as it spans less than half the range. The first value comes back as it is. Older ones may be
    negative.
    """

    __slots__ = ("_half", "_highest", "_range")

    def __init__(self, bits: int) -> None:
        self._range = 1 << bits
        self._half = self._range >> 1
        self._highest: int | None = None

    def unwrap(self, value: int) -> int:
        """The extended value of `value` (0 .. 2**bits - 1)."""
        highest = self._highest
        if highest is None:
            self._highest = value
            return value
        extended = highest + (value - highest + self._half) % self._range - self._half
        if extended > highest:
            self._highest = extended
        return extended


def sequence_unwrapper() -> Unwrapper:
    """For 16-bit RTP sequence numbers."""
    return Unwrapper(16)


def timestamp_unwrapper() -> Unwrapper:
    """For 32-bit RTP time stamps."""
    return Unwrapper(32)


class JitterEstimator:
    """Interarrival jitter of RFC 3550 sections 6.4.1 and A.8, in floating point.

    Feed unwrapped time stamps; the smoothing gain of 1/16 is the RFC's.
    """

    __slots__ = ("_clock_hz", "_jitter_ns", "_transit_ns")

    def __init__(self, clock_hz: int) -> None:
        self._clock_hz = clock_hz
        self._jitter_ns = 0.0
        self._transit_ns: int | None = None

    def update(self, arrival_ns: int, timestamp: int) -> None:
        """Take one packet: its arrival on the monotonic clock and its unwrapped time stamp."""
        transit_ns = arrival_ns - timestamp * 1_000_000_000 // self._clock_hz
        if self._transit_ns is not None:
            self._jitter_ns += (abs(transit_ns - self._transit_ns) - self._jitter_ns) / 16
        self._transit_ns = transit_ns

    @property
    def jitter_ms(self) -> float:
        """The estimate in milliseconds; 0 before the second packet."""
        return self._jitter_ns / 1e6

    @property
    def jitter_ticks(self) -> int:
        """The estimate in time stamp units, as a receiver report carries it."""
        return int(self._jitter_ns * self._clock_hz / 1e9)


@dataclass(frozen=True, slots=True)
class TelephoneEvent:
    """One event of RFC 4733 section 2.3. `duration` is in time stamp units since the event began."""

    event: int  # 0..255; 0..15 are DTMF
    end: bool
    volume: int  # 0..63, power below 0 dBm0: larger is quieter
    duration: int  # 0..65535

    @property
    def digit(self) -> str | None:
        """The DTMF digit, or None for another event."""
        return DTMF_DIGITS[self.event] if self.event < len(DTMF_DIGITS) else None

    def serialise(self) -> bytes:
        """The four payload bytes; the reserved bit is sent as zero."""
        return _EVENT.pack(self.event, self.end << 7 | self.volume & 0x3F, self.duration)


def dtmf_event(digit: str, duration: int, *, end: bool, volume: int = 10) -> TelephoneEvent:
    """The event for one DTMF digit (0-9 * # A-D, either case). Raises ValueError for another character."""
    code = DTMF_DIGITS.find(digit.upper())
    if len(digit) != 1 or code < 0:
        raise ValueError(f"{digit!r} is not a DTMF digit; use one of {DTMF_DIGITS}")
    return TelephoneEvent(code, end, volume, duration)


def parse_telephone_event(payload: bytes) -> TelephoneEvent | BadPacket:
    """The first event of a telephone-event payload, or why there is none. Never raises.

    More events may be packed behind it (RFC 4733 section 2.5.1.5); they are left alone.
    """
    if len(payload) < _EVENT.size:
        return BadPacket("short telephone event")
    event, flags, duration = _EVENT.unpack_from(payload)
    return TelephoneEvent(event, bool(flags & 0x80), flags & 0x3F, duration)
