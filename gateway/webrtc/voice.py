"""chunk -> frame -> packet: what a browser hears. Each 20 ms frame of the playout is encoded once, when it is due.

RTP time stamps follow the frames of the playout: a frame that was never sent leaves a gap that the listener
can see, and never a delay.
"""

from __future__ import annotations

import secrets
import struct

from gateway.webrtc.rtcp import Sent
from media.codecs.opus import OpusEncoder
from media.playout import Playout
from media.red import pack_red
from media.timebase import FRAME_MS, NS_PER_S

CLOCK_HZ = 48_000
_FRAME_TICKS = CLOCK_HZ * FRAME_MS // 1000
_HEADER = struct.Struct("!BBHII")
_MARKER = 0x80


class Voice:
    """One stream of Opus, for one transport."""

    def __init__(self, playout: Playout, payload_type: int, bitrate: int, red: int = 0) -> None:
        """`red` is the payload type of packets that carry the one before them once more; 0 for none."""
        self.ssrc = secrets.randbits(32) or 1
        self.packets = 0
        self.octets = 0
        self.last_frame = b""
        """The 20 ms that were encoded last, int16 native bytes."""
        self._playout = playout
        self._encoder = OpusEncoder(playout.rate_hz, bitrate)
        self._bitrate = bitrate
        self._payload_type = payload_type
        self._red = red
        self._before = (b"", 0)  # the payload before, and its frame
        self._sequence = secrets.randbits(15)
        self._offset = secrets.randbits(32) - playout.next_frame * _FRAME_TICKS
        self._due_ns = 0

    def next_packet(self, due_ns: int) -> bytes:
        """The next frame of the playout as one RTP packet."""
        number = self._playout.next_frame
        self.last_frame = frame = self._playout.pull()
        payload = self._encoder.encode_frame(frame)
        if self._red:
            before, its_number = self._before
            self._before = (payload, number)
            payload = pack_red(self._payload_type, payload, before, (number - its_number) * _FRAME_TICKS)
        marker = 0 if self.packets else _MARKER  # RFC 3551 4.1: the first after silence
        header = _HEADER.pack(
            0x80,
            (self._red or self._payload_type) | marker,
            self._sequence,
            (self._offset + number * _FRAME_TICKS) & 0xFFFFFFFF,
            self.ssrc,
        )
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._due_ns = due_ns
        self.packets += 1
        self.octets += len(payload)
        return header + payload

    def sent(self, now_ns: int) -> Sent:
        """For the sender report of now."""
        since = (now_ns - self._due_ns) * CLOCK_HZ // NS_PER_S if self._due_ns else 0
        newest = self._offset + (self._playout.next_frame - 1) * _FRAME_TICKS
        return Sent(self.ssrc, (newest + since) & 0xFFFFFFFF, self.packets, self.octets)

    def tune(self, loss: float, bit_s: int, now_ns: int) -> None:
        """The browser reports so much loss (0 to 1), and the line bears so much: rate and redundancy follow."""
        self._encoder.tune(loss * 100, min(bit_s, self._bitrate), now_ns)
