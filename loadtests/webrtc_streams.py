"""RTP of one caller: audio and video out of rings that were encoded beforehand, and the clock that sends all.

Streams know a path to send on and when they are due; the pacer knows many streams and one timer. One rule: due
times come from an absolute schedule on the monotonic clock. A late pass sends late, the next is on time, nothing
drifts.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
import select
import struct
import time
from array import array
from collections import OrderedDict
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from loadtests.webrtc_loop import DatagramPort
from loadtests.webrtc_media import OPUS_HZ, VIDEO_FPS, Clip, Voice
from media.nack import Repeats
from media.red import pack_red
from media.reports import ReportBlock
from media.rtp import JitterEstimator, sequence_unwrapper, timestamp_unwrapper

VIDEO_HZ = 90_000  # RFC 7741 section 4.1
TICK_NS = 2_000_000  # calls begin on these, so that packets leave in few batches
RESEND_PACKETS = 256  # that a NACK may still ask for; older ones are forgotten
RESTART_NS = 300_000_000  # a browser answers PLI no more often than that
_HEADER = struct.Struct("!BBHI")
_WORD = struct.Struct("!I")


class Path(Protocol):
    """Where packets go: False when it did not take one."""

    def send(self, packet: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class RtpSlot:
    """What the offer and the answer agreed on for one stream."""

    payload_type: int
    ssrc: int
    mid: str
    mid_extension: int  # its number, 1..14; 0 when not agreed on
    sequence: int  # of the first packet
    timestamp: int
    red: int = 0  # payload type of redundant audio; 0 when not agreed on

    def header_end(self) -> bytes:
        """All of the header behind the time stamp: SSRC, and the mid as RFC 9143 section 15 and RFC 8285
        section 4.2 have it."""
        ssrc = _WORD.pack(self.ssrc)
        if not self.mid_extension:
            return ssrc
        element = bytes([self.mid_extension << 4 | len(self.mid) - 1]) + self.mid.encode()
        element += bytes(-len(element) % 4)
        return ssrc + struct.pack("!HH", 0xBEDE, len(element) // 4) + element

    @property
    def first_byte(self) -> int:
        return 0x90 if self.mid_extension else 0x80


class Losses:
    """Which packets never leave: each with the same chance, drawn from a seed."""

    def __init__(self, chance: float, seed: str) -> None:
        self._chance = chance
        self._rng = random.Random(seed)
        self.dropped = 0

    def takes(self) -> bool:
        if not self._chance or self._rng.random() >= self._chance:
            return False
        self.dropped += 1
        return True


class AudioStream:
    """Goes round a voice from a place of its own, one packet at each `send`."""

    def __init__(self, path: Path, slot: RtpSlot, voice: Voice, offset: int, losses: Losses) -> None:
        self.due_ns = 0
        self.sent_ns = array("q")  # by packet, when it was due to leave and was taken up
        self.left = bytearray()  # beside it: 1 when it really left
        self.octets = self.refused = 0
        self._path, self._slot, self._losses = path, slot, losses
        self._packets, self._offset = voice.packets, offset
        self.round_trip_ns: int | None = None
        self.repeats = Repeats()
        self._before = b""  # the payload before, for redundant audio
        self._interval_ns = voice.ptime_ms * 1_000_000
        self._step = voice.ptime_ms * OPUS_HZ // 1000
        self._end = slot.header_end()

    @property
    def timestamp(self) -> int:
        """Of the next packet."""
        return (self._slot.timestamp + len(self.sent_ns) * self._step) & 0xFFFFFFFF

    def send(self) -> None:
        """The packet whose turn it is."""
        index = len(self.sent_ns)
        payload = self._packets[(self._offset + index) % len(self._packets)]
        if self._slot.red:
            plain, self._before = self._before, payload
            payload = pack_red(self._slot.payload_type, payload, plain, self._step)
        second = self._slot.red or self._slot.payload_type
        second |= 0x80 if index == 0 else 0  # RFC 7587 section 4.1: talk begins
        sequence = (self._slot.sequence + index) & 0xFFFF
        header = _HEADER.pack(self._slot.first_byte, second, sequence, self.timestamp)
        self.due_ns += self._interval_ns
        self.sent_ns.append(time.monotonic_ns())
        packet = header + self._end + payload
        taken = not self._losses.takes()
        if taken and not self._path.send(packet):
            self.refused += 1
            taken = False
        self.repeats.keep(sequence, packet, self.sent_ns[-1])
        self.left.append(taken)
        self.octets += len(payload)

    def resend(self, sequence: int) -> None:
        """A packet was asked for (generic NACK); without RTX it goes as it was."""
        for packet in self.repeats.again([sequence & 0xFFFF], time.monotonic_ns(), self.round_trip_ns):
            if not self._losses.takes():
                self._path.send(packet)

    def restart(self) -> None:
        """Nobody asks sound for a key frame."""


class VideoStream:
    """Goes round a clip, one frame at each `send`; from its beginning when a key frame is asked for."""

    def __init__(self, path: Path, slot: RtpSlot, clip: Clip, losses: Losses) -> None:
        self.due_ns = 0
        self.frames = self.packets = self.octets = self.refused = 0
        self.restarts = self.resent = self.asked = 0
        self.losses = losses
        self._path, self._slot = path, slot
        self._clip = clip.frames
        self._next = 0
        self._wanted = False
        self._restarted_ns = 0
        self._end = slot.header_end()
        self._recent: OrderedDict[int, bytes] = OrderedDict()

    @property
    def timestamp(self) -> int:
        """Of the next frame."""
        return (self._slot.timestamp + self.frames * VIDEO_HZ // VIDEO_FPS) & 0xFFFFFFFF

    def send(self) -> None:
        """All packets of the frame whose turn it is."""
        now_ns = time.monotonic_ns()
        if self._wanted and now_ns - self._restarted_ns >= RESTART_NS:
            self._next, self._wanted, self._restarted_ns = 0, False, now_ns
            self.restarts += 1
        pieces = self._clip[self._next]
        for number, piece in enumerate(pieces):
            self._send_piece(piece, number == 0, number == len(pieces) - 1)
        self._next = (self._next + 1) % len(self._clip)
        self.frames += 1
        self.due_ns += 1_000_000_000 // VIDEO_FPS

    def _send_piece(self, piece: bytes, first: bool, last: bool) -> None:
        """One packet, RFC 7741 section 4.2: X, S on the first piece, a picture ID of 15 bits."""
        sequence = (self._slot.sequence + self.packets) & 0xFFFF
        second = self._slot.payload_type | (0x80 if last else 0)
        header = _HEADER.pack(self._slot.first_byte, second, sequence, self.timestamp)
        descriptor = bytes([0x90 if first else 0x80, 0x80]) + (0x8000 | self.frames & 0x7FFF).to_bytes(
            2, "big"
        )
        packet = header + self._end + descriptor + piece
        self.packets += 1
        self.octets += len(descriptor) + len(piece)
        self._recent[sequence] = packet
        if len(self._recent) > RESEND_PACKETS:
            self._recent.popitem(last=False)
        if not self.losses.takes() and not self._path.send(packet):
            self.refused += 1

    def restart(self) -> None:
        """A key frame was asked for (PLI, FIR): soon."""
        self._wanted = True
        self.asked += 1

    def resend(self, sequence: int) -> None:
        """A packet was asked for (generic NACK, RFC 4585 section 6.2.1; without RTX it goes as it was)."""
        packet = self._recent.get(sequence)
        if packet is not None:
            self.resent += 1
            if not self.losses.takes():
                self._path.send(packet)


class ArrivalStatistics:
    """What our receiver reports say of the stream that a port keeps: brought up to date when one is made.

    What is repeated counts as received, once: a second copy of a packet gets no further than SRTP, whose replay
    list drops it (RFC 3711 section 3.3.2), and the port keeps what comes before that.
    """

    def __init__(self, port: DatagramPort, clock_hz: int) -> None:
        self._port = port
        self._read = 0
        self._numbers, self._stamps = sequence_unwrapper(), timestamp_unwrapper()
        self._seen: set[int] = set()  # as many as the port keeps packets
        self._jitter = JitterEstimator(clock_hz)
        self._first: int | None = None
        self._highest = 0
        self._expected_before = self._received_before = 0

    @property
    def fraction_lost(self) -> int:
        """Of 256, since it was last asked for (RFC 3550 section A.3)."""
        self._catch_up()
        expected, received = self._expected, len(self._seen)
        lost = expected - self._expected_before - (received - self._received_before)
        span = expected - self._expected_before
        self._expected_before, self._received_before = expected, received
        return min(255, (lost << 8) // span) if span > 0 and lost > 0 else 0

    @property
    def packets_lost(self) -> int:
        return max(0, self._expected - len(self._seen))

    @property
    def max_seq(self) -> int:
        """The extended highest sequence number, of 32 bits."""
        return self._highest & 0xFFFFFFFF

    @property
    def jitter(self) -> int:
        return self._jitter.jitter_ticks

    def block(self) -> ReportBlock:
        """A report block of now, which says nothing of the sender's reports."""
        return ReportBlock(self.fraction_lost, self.packets_lost, self.max_seq, self.jitter, 0, 0)

    @property
    def _expected(self) -> int:
        return 0 if self._first is None else self._highest - self._first + 1

    def _catch_up(self) -> None:
        datagrams, arrivals_ns = self._port.datagrams, self._port.arrivals_ns
        for index in range(self._read, len(datagrams)):
            _, _, sequence, timestamp = _HEADER.unpack_from(datagrams[index])
            number = self._numbers.unwrap(sequence)
            if number in self._seen:
                continue
            self._seen.add(number)
            self._first = number if self._first is None else self._first
            self._highest = max(self._highest, number)
            self._jitter.update(arrivals_ns[index], self._stamps.unwrap(timestamp))
        self._read = len(datagrams)


class Paced(Protocol):
    """Something that is due now and again, and moves its own `due_ns` on when it sends."""

    due_ns: int

    def send(self) -> None: ...


@dataclass(order=True, slots=True)
class _Turn:
    due_ns: int
    number: int
    stream: Paced = field(compare=False)


class Pacer:
    """Sends for every stream and reads every port. An async context manager."""

    def __init__(self) -> None:
        self.max_late_ns = 0  # the latest that a packet has been
        self._turns: list[_Turn] = []
        self._begun = 0
        self._epoll = select.epoll()
        self._ports: dict[int, DatagramPort] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Pacer:
        self._task = asyncio.create_task(self._run(), name="rtp-pacer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._epoll.close()

    def add(self, stream: Paced) -> None:
        """Its first turn is at the next tick but a few, so that calls spread over the packet time."""
        self._begun += 1
        tick = time.monotonic_ns() // TICK_NS + 1 + self._begun * 7 % 10
        stream.due_ns = tick * TICK_NS
        heapq.heappush(self._turns, _Turn(stream.due_ns, self._begun, stream))

    def remove(self, stream: Paced) -> None:
        """No turn any more."""
        self._turns = [turn for turn in self._turns if turn.stream is not stream]
        heapq.heapify(self._turns)

    def watch(self, port: DatagramPort) -> None:
        """Read this port at each tick until it is closed."""
        descriptor = port.fileno()
        port.leave_reading()
        self._ports[descriptor] = port
        self._epoll.register(descriptor, select.EPOLLIN)
        port.on_close = self._forget

    def _forget(self, port: DatagramPort) -> None:
        descriptor = port.fileno()
        if self._ports.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    async def _run(self) -> None:
        while True:
            due_ns = (time.monotonic_ns() // TICK_NS + 1) * TICK_NS
            await asyncio.sleep((due_ns - time.monotonic_ns()) / 1e9)
            self._send_due()
            for descriptor, _ in self._epoll.poll(0, max(len(self._ports), 1)):
                self._ports[descriptor].read()

    def _send_due(self) -> None:
        turns = self._turns
        now_ns = time.monotonic_ns()
        while turns and turns[0].due_ns <= now_ns:
            turn = turns[0]
            self.max_late_ns = max(self.max_late_ns, now_ns - turn.due_ns)
            turn.stream.send()
            turn.due_ns = turn.stream.due_ns
            heapq.heapreplace(turns, turn)
            now_ns = time.monotonic_ns()
