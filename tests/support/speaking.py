"""Two who speak and listen at once over RTP, each with a tone that is his: a caller, and a person who is called.

`Voice` sends PCMU every 20 ms, silence or its tone, and keeps what it hears with the time of each packet.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections import deque
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from gateway.caller.codec import find_codec
from gateway.caller.messages import Message
from gateway.caller.sdp import parse_audio
from media.rtp import RtpPacket, parse_packet
from tests.support.raw_call import RawCall
from tests.support.referring_call import Target

RATE_HZ, FRAME = 8_000, 160
LOUD = 6_000
_HEADER = struct.Struct("!BBHII")
_MULAW = find_codec("PCMU")


def level(pcm: NDArray[np.int16], hz: float) -> float:
    """Amplitude of that tone in 20 ms or more."""
    turns = np.exp(-2j * np.pi * hz * np.arange(len(pcm)) / RATE_HZ)
    return 2 * abs(complex(np.mean(pcm * turns)))


class Voice:
    """One end of an RTP stream, in a thread of its own, from `start` to `stop`."""

    def __init__(self, rtp: socket.socket) -> None:
        self.heard: deque[tuple[int, NDArray[np.int16]]] = deque(maxlen=2_000)
        """Arrival (monotonic ns) and 20 ms, each."""
        self.said_ns: dict[float, int] = {}
        """Tone -> when its first packet was sent."""
        self._rtp, self._hz, self._at = rtp, 0.0, 0
        self._peer = ("127.0.0.1", 9)
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, peer: tuple[str, int]) -> None:
        """Send there from now on, silence at first; what was heard before is forgotten."""
        self._peer, self._hz = peer, 0.0
        self.heard.clear()
        self.said_ns.clear()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="voice", daemon=True)
            self._thread.start()

    def say(self, hz: float) -> None:
        """That tone from the next packet on; 0 is silence."""
        self._hz = hz

    def stop(self) -> None:
        """No packet more."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def levels(self, hz: float, since_ns: int = 0) -> list[float]:
        """Of that tone, packet by packet."""
        return [level(pcm, hz) for at_ns, pcm in list(self.heard) if at_ns >= since_ns]

    def hears(self, hz: float, last: int = 10) -> bool:
        """Whether all of the newest so many packets have that tone."""
        newest = self.levels(hz)[-last:]
        return len(newest) == last and min(newest) > LOUD / 2

    def first_heard_ns(self, hz: float, since_ns: int) -> int:
        """When it was heard first; StopIteration when it was not."""
        return next(at for at, pcm in list(self.heard) if at >= since_ns and level(pcm, hz) > LOUD / 2)

    def _run(self) -> None:
        sequence, due_ns = 0, time.monotonic_ns()
        while not self._done.is_set():
            header = _HEADER.pack(0x80, 0, sequence & 0xFFFF, self._at & 0xFFFFFFFF, 0x5EA7)
            hz, times = self._hz, (self._at + np.arange(FRAME)) / RATE_HZ
            pcm = (LOUD * np.sin(2 * np.pi * hz * times)).astype(np.int16)
            with contextlib.suppress(OSError):
                self._rtp.sendto(header + _MULAW.encode(pcm), self._peer)
            self.said_ns.setdefault(hz, time.monotonic_ns())
            sequence, self._at, due_ns = sequence + 1, self._at + FRAME, due_ns + 20_000_000
            while (left_ns := due_ns - time.monotonic_ns()) > 0:
                if select.select([self._rtp], [], [], left_ns / 1e9)[0]:
                    self._take()

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            packet = parse_packet(self._rtp.recv(2048))
            if isinstance(packet, RtpPacket) and packet.payload_type == 0 and len(packet.payload) == FRAME:
                self.heard.append((time.monotonic_ns(), _MULAW.decode(packet.payload)))


class SpeakingCall(RawCall):
    """A caller."""

    def __enter__(self) -> SpeakingCall:
        super().__enter__()
        assert self.audio is not None
        self.voice = Voice(self._rtp)
        self.voice.start((self.audio.host, self.audio.port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.voice.stop()
        super().__exit__(kind, error, trace)

    def heard_bye(self, timeout_s: float) -> bool:
        """Whether the gateway has hung up by then."""
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            if select.select([self._sip], [], [], left_s)[0] and self._sip.recv(65_535).startswith(b"BYE "):
                self._up = False
                return True
        return False


class SpeakingTarget(Target):
    """Who is called, and answers with `status`; 0 rings on."""

    def __init__(self, status: int = 200, sound_host: str = "127.0.0.1") -> None:
        super().__init__(status, sound_host)
        self.voice = Voice(self._rtp)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.voice.stop()
        super().__exit__(kind, error, trace)

    def _listening(self) -> list[socket.socket]:
        return []

    def _final(self, invite: Message) -> list[Message]:
        answers = super()._final(invite)
        offer = parse_audio(invite.body)
        if self.status == 200 and offer is not None:
            self.voice.start((offer.host, offer.port))
        return answers
