"""Ticks on the two time lines of a call: what is said goes out packet by packet, what is heard is cut tick by tick.

    tick n:   its 1,600 bytes are packets 10 n ... 10 n + 9 of ours; heard are the 1,600 bytes of theirs that came
              meanwhile, less 40 ms, by which a packet may be held up

A tick that comes too late for its packets goes into the first ones that are left, and everything after it is as
much later; the packets between were silence, and are counted. What came meanwhile is handed out by the next ticks:
silence among it is left out until they have caught up, speech is kept, up to `MOST_TICKS`. Pure: bytes and packet
numbers in, bytes out; no socket, no clock. Nothing is done about clocks that drift apart, 0.4 s in half an hour at
200 ppm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from media.codecs import g711
from media.rtp import BadPacket, parse_packet, timestamp_unwrapper

TICK_MS = 200
PACKET_BYTES = 160
"""20 ms of G.711."""
TICK_BYTES = 1_600
PACKETS_PER_TICK = TICK_BYTES // PACKET_BYTES
SILENCE = b"\xff"
SOUNDING_RMS = 120.0
"""-49 dBFS: the comfort sound lies below."""
AHEAD_PACKETS = 2
"""A tick is over so much before its last packet has left: the next one may take 40 ms to come."""
LATE_PACKETS = 2
"""So much later what came is cut: a packet may be held up by 40 ms."""
MOST_TICKS = 50
"""Of speech that waits for ticks: 10 s."""


@dataclass(slots=True)
class Said:
    """Where ticks go in a payload that is being sent."""

    payload: bytearray
    next_packet: int = 0
    """The first one that no tick has."""
    silent_packets: int = 0
    """Between ticks, because one came late."""
    late_ticks: int = 0

    def say(self, audio: bytes, sent: int) -> int:
        """Write one tick, `sent` packets having left; the packet that it begins with.

        ValueError for a tick of another length, EOFError where the payload is over.
        """
        if len(audio) != TICK_BYTES:
            raise ValueError(f"a tick has {TICK_BYTES} bytes of mu-law, 200 ms; this one has {len(audio)}")
        first = self.next_packet if self.next_packet > sent else sent + AHEAD_PACKETS
        if self.next_packet and first > self.next_packet:
            self.late_ticks += 1
            self.silent_packets += first - self.next_packet
        start = first * PACKET_BYTES
        if start + TICK_BYTES > len(self.payload):
            raise EOFError(
                f"the call was to last {len(self.payload) / PACKET_BYTES / 50:g} s, and they are over"
            )
        self.payload[start : start + TICK_BYTES] = audio
        self.next_packet = first + PACKETS_PER_TICK
        return first


class Heard:
    """What came, laid by its RTP time and cut into ticks."""

    def __init__(self) -> None:
        self.missing_bytes = 0
        """That had not come when its tick was cut: silence in its place."""
        self.skipped_bytes = 0
        """Silence, left out to catch up."""
        self.dropped_bytes = 0
        """Speech beyond `MOST_TICKS` that nobody fetched."""
        self.late_packets = 0
        """That came when their tick had been cut."""
        self.bad_datagrams = 0
        self._stamps = timestamp_unwrapper()
        self._origin: int | None = None
        self._came: dict[int, bytes] = {}
        self._at: int | None = None
        self._end = 0
        self._ahead = 0
        """Of our packet clock's bytes before theirs."""

    def take(self, datagram: bytes) -> None:
        """A datagram as it came."""
        packet = parse_packet(datagram)
        if isinstance(packet, BadPacket) or packet.payload_type != 0:
            self.bad_datagrams += 1
            return
        stamp = self._stamps.unwrap(packet.timestamp)
        if self._origin is None:
            self._origin = stamp
        place = stamp - self._origin
        if self._at is not None and place < self._at:
            self.late_packets += 1
        else:
            self._came[place] = packet.payload
            self._end = max(self._end, place + len(packet.payload))

    def cut(self, packets: int) -> bytes:
        """The next tick, when so many packets of ours have left; silence where nothing came."""
        if self._origin is None:
            return SILENCE * TICK_BYTES
        if self._at is None:
            self._at = self._end - LATE_PACKETS * PACKET_BYTES - TICK_BYTES
            self._ahead = packets * PACKET_BYTES - self._at
        due = packets * PACKET_BYTES - self._ahead + TICK_BYTES
        while due - self._at >= 2 * TICK_BYTES:
            if not sounds(self._read(self._at)[0]):
                self.skipped_bytes += TICK_BYTES
            elif due - self._at > MOST_TICKS * TICK_BYTES:
                self.dropped_bytes += TICK_BYTES
            else:
                break
            self._at = self._forget(self._at + TICK_BYTES)
        audio, filled = self._read(self._at)
        self.missing_bytes += TICK_BYTES - filled - min(TICK_BYTES, max(0, -self._at))
        self._at = self._forget(self._at + TICK_BYTES)
        return audio

    def _read(self, start: int) -> tuple[bytes, int]:
        out, filled = bytearray(SILENCE * TICK_BYTES), 0
        for place, payload in self._came.items():
            first, last = max(start, place), min(start + TICK_BYTES, place + len(payload))
            if last > first:
                out[first - start : last - start] = payload[first - place : last - place]
                filled += last - first
        return bytes(out), filled

    def _forget(self, at: int) -> int:
        """What lies before; the same place."""
        for place in [place for place, payload in self._came.items() if place + len(payload) <= at]:
            del self._came[place]
        return at


def sounds(audio: bytes) -> bool:
    """Whether 20 ms of it are louder than silence on a line."""
    pcm = g711.decode_mulaw(audio).astype(np.float32)
    frames = pcm[: len(pcm) // PACKET_BYTES * PACKET_BYTES].reshape(-1, PACKET_BYTES)
    return bool((np.sqrt(np.mean(frames * frames, axis=1)) > SOUNDING_RMS).any())
