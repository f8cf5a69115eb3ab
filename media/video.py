"""packet -> encoded picture: puts one video stream's packets in order and asks for what is missing.

A frame is handed out as soon as its marker bit is there (RFC 7741 4.1, RFC 6184 5.1), and frames come in decode
order, which is sequence order. What to do about a gap:

    a gap, younger than `REORDER_NS`      wait: packets overtake each other
    older                                 name it in `missing` (NACK), again every `RETRY_NS`
    `REPAIR_NS` old, or too wide          freeze: nothing is handed out until a key frame is whole (PLI)
    a whole key frame behind the gap      jump there: newer pictures are better than all pictures

It knows nothing of pictures: a decoder that is unhappy says so through `lose_sync`. The caller polls `missing`
and `wants_key` every 20 to 50 ms. Its one rule: packets are never lost from the account. At any time

    received = used + discarded + duplicate + late + bad + stray + held
    noticed = repaired + lost + open holes
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from media.codecs.fragment import Fragment
from media.rtp import BadPacket
from media.timebase import NS_PER_MS

REORDER_NS = 10 * NS_PER_MS
RETRY_NS = 70 * NS_PER_MS
"""Between two requests of one packet: a round trip of most paths."""
MAX_TRIES = 4
REPAIR_NS = 300 * NS_PER_MS
"""What came later than that would be older than the chunk after next."""
KEY_PACE_NS = 300 * NS_PER_MS
KEY_SILENT_NS = 2_000 * NS_PER_MS
"""Between two requests while nothing at all comes: the camera may be off."""
REORDER_PACKETS = 64
"""Kept while no key frame is in sight: its first packet may have been overtaken."""
MAX_PACKETS = 1024
MAX_BYTES = 2 * 2**20
"""Held at once; a key frame of 1280x720 is 50 to 200 kB. Beyond either, all is dropped and a key frame asked."""
MAX_HOLES = 256
MAX_NACKS = 64
"""Named by one call of `missing`."""
MAX_JUMP = 1024
"""A sequence number further away is a stray; two in a row are a stream that began again (RFC 3550 A.1)."""


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One picture as a decoder takes it: a VP8 frame, or the NAL units of an H.264 access unit with start codes."""

    data: bytes
    is_key: bool
    timestamp_90k: int
    """RTP time stamp, 32 bits, as on the wire."""
    captured_ns: int
    """Monotonic: when its last packet arrived; never before that of the frame before."""


@dataclass(slots=True)
class VideoCounters:
    """All only ever grow."""

    packets_received: int = 0
    packets_used: int = 0
    """In frames that were handed out, and padding between them."""
    packets_discarded: int = 0
    """In frames that could not be handed out."""
    packets_duplicate: int = 0
    packets_late: int = 0
    packets_bad: int = 0
    packets_stray: int = 0
    frames: int = 0
    key_frames: int = 0
    frames_broken: int = 0
    """Whole by their packets, but with no beginning."""
    freezes: int = 0
    holes_noticed: int = 0
    holes_repaired: int = 0
    holes_lost: int = 0
    nacks: int = 0
    """Sequence numbers named by `missing`, each as often as it was named."""
    keys_wanted: int = 0


class _Packet(NamedTuple):
    timestamp: int
    marker: bool
    fragment: Fragment | None  # None: padding
    arrival_ns: int


@dataclass(slots=True)
class _Hole:
    noticed_ns: int
    asked_ns: int = 0
    tries: int = 0


@dataclass(slots=True)
class _Walk:
    """A frame in the making: packets `start` to `reach` are here."""

    start: int
    reach: int
    timestamp: int | None = None
    is_key: bool = False


class FrameAssembler:
    """One SSRC's packets on their way into frames. `parse` is `parse_payload` of vp8 or h264."""

    def __init__(self, parse: Callable[[bytes], Fragment | BadPacket]) -> None:
        self.counters = VideoCounters()
        self._parse = parse
        self._held: dict[int, _Packet] = {}
        self._bytes = 0
        self._keys: set[int] = set()
        self._holes: dict[int, _Hole] = {}
        self._highest: int | None = None
        self._floor = 0
        self._stray: int | None = None
        self._walk: _Walk | None = None
        self._ahead: _Walk | None = None
        self._captured_ns = 0
        self._asked_ns: int | None = None
        self._heard = False

    @property
    def held(self) -> int:
        """Packets that are here and in no frame yet."""
        return len(self._held)

    @property
    def holes(self) -> int:
        """Packets that may still come."""
        return len(self._holes)

    @property
    def is_frozen(self) -> bool:
        """Whether nothing will be handed out before a key frame."""
        return self._walk is None

    def receive_packet(
        self, sequence: int, timestamp: int, marker: bool, payload: bytes, arrival_ns: int
    ) -> list[EncodedFrame]:
        """One packet, padding stripped (an empty payload is padding); the frames that it completes."""
        counters = self.counters
        counters.packets_received += 1
        self._heard = True
        number = self._extend(sequence)
        if number is None:
            counters.packets_stray += 1
            return []
        if number < self._floor:
            counters.packets_late += 1
            return []
        if number in self._held:
            counters.packets_duplicate += 1
            return []
        fragment = self._parse(payload) if payload else None
        if isinstance(fragment, BadPacket):
            counters.packets_bad += 1
            return []
        walk = self._walk
        is_next = walk is not None and number == walk.reach and number - 1 == self._highest
        self._hold(number, _Packet._make((timestamp, marker, fragment, arrival_ns)))
        if is_next and self._ahead is None:  # most are: nothing is missing before it, and nothing to give up
            self._highest = number
            frames = self._release()
        else:
            self._notice_holes(number, arrival_ns)
            frames = self._release()
            if self._give_up(arrival_ns):
                frames += self._release()
        self._keep_bounds()
        return frames

    def missing(self, now_ns: int) -> list[int]:
        """Sequence numbers (16 bits) to be asked for now, at most `MAX_NACKS`; each at most `MAX_TRIES` times."""
        self._give_up(now_ns)
        walk = self._walk or self._ahead
        if walk is None:
            return []
        asked: list[int] = []
        for number, hole in self._holes.items():
            if len(asked) == MAX_NACKS:
                break
            waited_ns = now_ns - (hole.asked_ns if hole.tries else hole.noticed_ns)
            due = waited_ns >= (RETRY_NS if hole.tries else REORDER_NS)
            if due and number >= walk.reach and hole.tries < MAX_TRIES:
                hole.asked_ns, hole.tries = now_ns, hole.tries + 1
                asked.append(number & 0xFFFF)
        self.counters.nacks += len(asked)
        return asked

    def wants_key(self, now_ns: int) -> bool:
        """Whether to ask for a key frame now (PLI); True at most once every `KEY_PACE_NS`."""
        self._give_up(now_ns)
        if self._walk is not None or self._ahead is not None or self._highest is None:
            return False
        if self._asked_ns is not None:
            pace_ns = KEY_PACE_NS if self._heard else KEY_SILENT_NS
            if now_ns - self._asked_ns < pace_ns:
                return False
        self._asked_ns, self._heard = now_ns, False
        self.counters.keys_wanted += 1
        return True

    def lose_sync(self) -> None:
        """The decoder cannot go on: freeze until a key frame."""
        if self._walk is not None:
            self._freeze()

    def restart(self) -> None:
        """Another stream begins (a new SSRC): forget the old one's packets."""
        self.lose_sync()
        self._ahead = self._highest = self._stray = None
        self._discard_before(None)

    def _extend(self, sequence: int) -> int | None:
        """The extended sequence number, or None for a stray."""
        if self._highest is not None:
            step = (sequence - self._highest + 0x8000) % 0x10000 - 0x8000
            if abs(step) <= MAX_JUMP:
                self._stray = None
                return self._highest + step
            if sequence != self._stray:
                self._stray = (sequence + 1) & 0xFFFF
                return None
            self.restart()
        self._highest = sequence + 0x10000  # so that those before it are not negative
        self._floor = self._highest - REORDER_PACKETS
        return self._highest

    def _hold(self, number: int, packet: _Packet) -> None:
        self._held[number] = packet
        if self._holes.pop(number, None):
            self.counters.holes_repaired += 1
        fragment = packet.fragment
        if fragment is None:
            return
        self._bytes += len(fragment.data)
        if fragment.is_key or fragment.begins_key:
            before = self._held.get(number - 1)
            follows_end = before is not None and before.marker and fragment.may_begin
            if fragment.begins_key or follows_end:
                self._keys.add(number)

    def _notice_holes(self, number: int, now_ns: int) -> None:
        assert self._highest is not None
        first, self._highest = self._highest + 1, max(self._highest, number)
        if (self._walk is None and self._ahead is None) or first >= number:
            return
        self.counters.holes_noticed += number - first
        if number - first + len(self._holes) > MAX_HOLES:
            self.counters.holes_lost += number - first
            self.lose_sync()
            self._ahead = None
            self._discard_before(number)
            return
        for hole in range(first, number):
            self._holes[hole] = _Hole(now_ns)

    def _release(self) -> list[EncodedFrame]:
        frames = []
        while True:
            if self._walk is not None and self._advance(self._walk):
                if frame := self._take(self._walk):
                    frames.append(frame)
            elif not self._jump():
                return frames

    def _advance(self, walk: _Walk) -> bool:
        """Go on over packets that are here; whether the frame is whole. Padding is walked over."""
        while (packet := self._held.get(walk.reach)) is not None:
            if packet.fragment is not None:
                if walk.timestamp is None:
                    walk.timestamp = packet.timestamp
                elif packet.timestamp != walk.timestamp:  # a sender that sets no marker
                    return True
                walk.is_key |= packet.fragment.is_key
            walk.reach += 1
            if packet.marker and packet.fragment is not None:
                return True
        return False

    def _take(self, walk: _Walk) -> EncodedFrame | None:
        """The whole frame of the walk, which goes on behind it; None, and frozen, when it has no beginning."""
        numbers = range(walk.start, walk.reach)
        packets = [self._held.pop(number) for number in numbers]
        self._keys.difference_update(numbers)
        self._floor = walk.reach
        if self._ahead is not None and self._ahead.start < self._floor:
            self._ahead = None
        kept = [packet for packet in packets if packet.fragment]
        fragments = [packet.fragment for packet in kept if packet.fragment]
        data = b"".join([fragment.data for fragment in fragments])
        self._bytes -= len(data)
        if not fragments[0].may_begin:
            self.counters.packets_discarded += len(packets)
            self.counters.frames_broken += 1
            self._freeze()
            return None
        self._walk = _Walk(walk.reach, walk.reach)
        self._captured_ns = max(self._captured_ns, kept[-1].arrival_ns)
        self.counters.packets_used += len(packets)
        self.counters.frames += 1
        self.counters.key_frames += walk.is_key
        return EncodedFrame(data, walk.is_key, kept[-1].timestamp, self._captured_ns)

    def _jump(self) -> bool:
        """Behind a gap or frozen: go to the first key frame that is whole. False when there is none yet."""
        if self._walk is not None and (self._highest is None or self._walk.reach > self._highest):
            return False
        if self._ahead is None:
            after = -1 if self._walk is None else self._walk.start
            start = min((key for key in self._keys if key > after), default=None)
            if start is None:
                return False
            self._ahead = _Walk(start, start)
        if not self._advance(self._ahead):
            return False
        ahead, self._ahead = self._ahead, None
        self._keys.discard(ahead.start)
        if ahead.is_key:  # else parameter sets without a picture to go on from
            self._discard_before(ahead.start)
            self._walk = _Walk(ahead.start, ahead.start)
        return True

    def _give_up(self, now_ns: int) -> bool:
        """Stop waiting for what is too old; whether anything changed."""
        changed = False
        for walk in (self._walk, self._ahead):
            if walk is None or self._highest is None or walk.reach > self._highest:
                continue
            if walk.reach in self._held:
                continue
            if walk.reach not in self._holes:
                self.counters.holes_noticed += 1
                self._holes[walk.reach] = _Hole(now_ns)
            if now_ns - self._holes[walk.reach].noticed_ns < REPAIR_NS:
                continue
            changed = True
            if walk is self._walk:
                self._freeze()
            else:
                self._ahead = None
                self._discard_before(walk.reach + 1)
        return changed

    def _freeze(self) -> None:
        """Nothing goes out before a key frame; what is held before one is of no use."""
        self.counters.freezes += 1
        start = self._walk.start if self._walk is not None else self._floor
        self._walk = None
        later = self._ahead.start if self._ahead else min((k for k in self._keys if k > start), default=None)
        self._discard_before(later)

    def _discard_before(self, number: int | None) -> None:
        """Everything below `number`; everything at all when it is None."""
        gone = [held for held in self._held if number is None or held < number]
        for held in gone:
            self._remove(held)
        self.counters.packets_discarded += len(gone)
        lost = [hole for hole in self._holes if number is None or hole < number]
        for hole in lost:
            del self._holes[hole]
        self.counters.holes_lost += len(lost)
        if number is not None:
            self._floor = max(self._floor, number)
        elif self._highest is not None:
            self._floor = self._highest + 1

    def _remove(self, number: int) -> _Packet:
        packet = self._held.pop(number)
        self._keys.discard(number)
        if packet.fragment is not None:
            self._bytes -= len(packet.fragment.data)
        return packet

    def _keep_bounds(self) -> None:
        if len(self._held) > MAX_PACKETS or self._bytes > MAX_BYTES:
            self.lose_sync()
            self._ahead = None
            self._discard_before(None)
        elif self._walk is None and self._ahead is None and len(self._held) > 2 * REORDER_PACKETS:
            assert self._highest is not None
            self._discard_before(self._highest - REORDER_PACKETS)


def unwrap_rtx(payload: bytes) -> tuple[int, bytes] | BadPacket:
    """Original sequence number and payload of a retransmission (RFC 4588 section 4). Never raises.

    Time stamp and marker of the RTX packet are those of the original. What has no payload is padding: a probe.
    """
    if len(payload) <= 2:
        return BadPacket("empty retransmission")
    return int.from_bytes(payload[:2], "big"), payload[2:]
