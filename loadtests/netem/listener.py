"""Our receiving half of a call, outside of a gateway: packets in, a turn of sound every 200 ms, repeats asked for.

`media/jitter.py` with `media/nack.py` and `media/red.py`, wired as in `gateway/webrtc/peer.py`, in a time of its
own. One rule: nothing is decided here.
"""

from __future__ import annotations

import numpy as np

from loadtests.netem.score import Heard
from loadtests.netem.speech import Samples
from media.jitter import JitterBuffer
from media.nack import Gaps
from media.red import parse_red
from media.rtp import RtpPacket
from media.sound import Decoder
from media.timebase import TURN_NS


class Listener:
    """From the first cut on."""

    def __init__(
        self, decoder: Decoder, rate_hz: int, clock_hz: int, first_cut_ns: int, red: int = 0
    ) -> None:
        """`red` is the payload type of redundant audio; 0 for none."""
        self.buffer = JitterBuffer(decoder, rate_hz, clock_hz)
        self.gaps = Gaps()
        self.delays_ms: list[float] = []
        """What the buffer itself says of its delay, at each cut."""
        self._red = red
        self._begin_ns = self._next_ns = first_cut_ns
        self._parts: list[Samples] = []

    def until(self, now_ns: int) -> None:
        """The cuts that are due before or at `now_ns`."""
        while self._next_ns <= now_ns:
            self._parts.append(self.buffer.cut(self._next_ns).pcm)
            self.delays_ms.append(self.buffer.delay_ms)
            self._next_ns += TURN_NS

    def receive(self, packet: RtpPacket, arrival_ns: int, *, repeated: bool | None = None) -> None:
        """One packet, in the order of arrival; `repeated` None: our own requests say whether it is one."""
        self.until(arrival_ns - 1)
        noticed = self.gaps.receive(packet.ssrc, packet.sequence, arrival_ns)
        payload = packet.payload
        if self._red and packet.payload_type == self._red:
            payload = self._unpacked(packet, arrival_ns)
        self.buffer.receive_packet(
            packet.ssrc,
            packet.sequence,
            packet.timestamp,
            payload,
            arrival_ns,
            repeated=noticed if repeated is None else repeated,
        )

    def wanted(self, now_ns: int, round_trip_ns: int | None) -> list[int]:
        """Sequence numbers to be asked for now."""
        return self.gaps.wanted(now_ns, round_trip_ns, self.buffer.place_ns)

    def heard(self) -> Heard:
        """All of it, at the buffer's rate."""
        pcm = np.concatenate(self._parts) if self._parts else np.zeros(0, np.int16)
        return Heard(pcm, self._begin_ns - TURN_NS)

    def _unpacked(self, packet: RtpPacket, arrival_ns: int) -> bytes:
        """The newest payload of redundant audio; the older ones are put where they are missing."""
        blocks = parse_red(packet.payload, packet.payload[0] & 0x7F) if packet.payload else None
        if blocks is None:
            return b""
        *older, newest = blocks
        for block in older:
            sequence = packet.sequence - block.behind & 0xFFFF
            timestamp = packet.timestamp - block.offset & 0xFFFFFFFF
            if self.buffer.receive_redundant(packet.ssrc, sequence, timestamp, block.payload, arrival_ns):
                self.gaps.mend(sequence)
        return newest.payload
