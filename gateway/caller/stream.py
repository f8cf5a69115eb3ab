"""One call's RTP: packets of audio encoded beforehand, and whatever comes back, kept as it came.

Knows one socket and its schedule's index, no timer: the pacer (`gateway.caller.pacer`) calls `send_next`
every 20 ms and `receive_all` when there is something. One rule: nothing is decoded or parsed while calls
are live.
"""

from __future__ import annotations

import socket
import struct
import time
from array import array

from gateway.caller.arrival import arrival_ns, ask_for_arrivals
from gateway.caller.codec import FRAME_TICKS
from gateway.caller.messages import Address
from gateway.caller.sdp import TELEPHONE_EVENT_PAYLOAD_TYPE
from media.rtp import dtmf_event

_HEADER = struct.Struct("!BBHII")
_MARKER = 0x80
_DTMF_FRAMES, _DTMF_PAUSE_FRAMES, _DTMF_END_REPEATS = 5, 5, 3  # 100 ms on, 100 ms off (Q.24 wants >= 40 ms)


def open_rtp_socket(host: str) -> socket.socket:
    """A bound, non-blocking UDP socket on an even port, so that the peer's RTCP hits no other call of ours
    (RFC 3550 section 11). Raises OSError when none is free."""
    for _ in range(64):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((host, 0))
        if sock.getsockname()[1] % 2 == 0:
            break
        sock.close()
    else:
        raise OSError(f"no even UDP port free on {host}")
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
    ask_for_arrivals(sock)
    return sock


class RtpStream:
    """Sends `payload` in packets of 160 bytes and records what arrives."""

    __slots__ = (
        "arrivals_ns",
        "audio_sent",
        "datagrams",
        "next_index",
        "packet_count",
        "payload",
        "remote",
        "send_errors",
        "sent_ns",
        "sock",
        "_audio_type",
        "_events",
        "_first_sequence",
        "_first_timestamp",
        "_ssrc",
    )

    def __init__(
        self,
        sock: socket.socket,
        remote: Address | None,
        payload: bytes,
        payload_type: int,
        *,
        ssrc: int,
        sequence: int,
        timestamp: int,
        dtmf: str = "",
        dtmf_start_packet: int = 50,
    ) -> None:
        """`remote` None: keep the schedule but send nothing (the peer put us on hold)."""
        self.sock = sock
        self.remote = remote
        self.payload: bytes | bytearray = payload
        self.packet_count = len(payload) // FRAME_TICKS
        self.next_index = 0
        self.sent_ns = array("q")  # by packet index
        self.audio_sent = bytearray()  # 1 where that packet carried audio and left
        self.arrivals_ns = array("q")
        self.datagrams: list[bytes] = []  # beside arrivals_ns
        self.send_errors = 0
        self._audio_type = payload_type
        self._ssrc = ssrc
        self._first_sequence = sequence
        self._first_timestamp = timestamp
        self._events = _schedule_dtmf(dtmf, dtmf_start_packet)

    @property
    def finished(self) -> bool:
        """True when every packet had its turn."""
        return self.next_index >= self.packet_count

    def send_next(self) -> None:
        """Send the packet whose turn it is; its time is what this is called for, not counted from the last
        one."""
        index = self.next_index
        self.next_index = index + 1
        start = index * FRAME_TICKS
        event = self._events.get(index) if self._events else None
        if event is None:
            second = self._audio_type | _MARKER if index == 0 else self._audio_type
            body = self.payload[start : start + FRAME_TICKS]
        else:
            first_index, second, body = event
            start = first_index * FRAME_TICKS
        header = _HEADER.pack(
            0x80,
            second,
            (self._first_sequence + index) & 0xFFFF,
            (self._first_timestamp + start) & 0xFFFFFFFF,
            self._ssrc,
        )
        left = self.remote is not None
        self.sent_ns.append(time.monotonic_ns())
        if self.remote is not None:
            try:
                self.sock.sendto(header + body, self.remote)
            except OSError:
                self.send_errors += 1
                left = False
        self.audio_sent.append(left and event is None)

    def receive_all(self, to_monotonic_ns: int) -> None:
        """Take every datagram that waits; `to_monotonic_ns` as for `arrival_ns`."""
        receive = self.sock.recvmsg
        while True:
            try:
                data, ancillary, _, _ = receive(2048, 64)
            except OSError:  # nothing more waits (BlockingIOError), or the socket is gone
                return
            self.arrivals_ns.append(arrival_ns(ancillary, to_monotonic_ns))
            self.datagrams.append(data)


def _schedule_dtmf(digits: str, start: int) -> dict[int, tuple[int, int, bytes]]:
    """Packet index -> (index whose time stamp it bears, second header byte, payload), RFC 4733 section 2.5.

    Raises ValueError for a character that is no digit.
    """
    events = {}
    for digit in digits:
        for offset in range(_DTMF_FRAMES + _DTMF_END_REPEATS - 1):
            frames = min(offset + 1, _DTMF_FRAMES)
            event = dtmf_event(digit, frames * FRAME_TICKS, end=frames == _DTMF_FRAMES)
            second = TELEPHONE_EVENT_PAYLOAD_TYPE | (_MARKER if offset == 0 else 0)
            events[start + offset] = (start, second, event.serialise())
        start += _DTMF_FRAMES + _DTMF_PAUSE_FRAMES
    return events
