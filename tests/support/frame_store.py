"""pjmedia's jitter buffer as we set it: an ordered store that discards nothing while there is room (`jbuf.c`).

Packets are one frame of 20 ms. An empty store begins anew with whatever comes, so it forgets what was lost before.
"""

from __future__ import annotations

import numpy as np

from media.chunk import PCM
from media.chunker import Line
from media.timebase import FRAME_MS, FRAME_NS, NS_PER_MS

ROOM_FRAMES = 75


class FrameStore:
    """`media.chunker.Store` of one stream, and the statistics that RTCP would keep of it (RFC 3550 A.3, A.8)."""

    def __init__(self) -> None:
        self._frames: dict[int, PCM] = {}
        self._origin = 0
        self._first: int | None = None
        self._highest = self._received = self._lost = self._late = 0
        self._transit_ns = 0
        self._jitter_ns = 0.0

    @property
    def next_index(self) -> int:
        """Of the oldest frame that waits, or would."""
        return self._origin

    def put(self, index: int, pcm: PCM, arrival_ns: int, sequence: int | None = None) -> None:
        """The packet for that 20 ms comes; its sequence number is another where silence was suppressed."""
        sequence = index if sequence is None else sequence
        transit_ns = arrival_ns - index * FRAME_NS
        if self._first is None:
            self._first, self._highest, self._transit_ns = sequence, sequence - 1, transit_ns
        self._received += 1
        if sequence == self._highest + 1:
            self._jitter_ns += (abs(transit_ns - self._transit_ns) - self._jitter_ns) / 16
            self._transit_ns = transit_ns
        if sequence > self._highest:
            self._highest = sequence
            self._lost = max(0, sequence - self._first + 1 - self._received)
        if not self._frames and index >= self._origin:
            self._origin = index
        if index < self._origin:
            self._late += 1
            return
        self._frames.setdefault(index, pcm)
        while max(self._frames) - self._origin >= ROOM_FRAMES:
            self._frames.pop(self._origin, None)
            self._origin += 1

    def look(self) -> int | None:
        frames = max(self._frames) - self._origin + 1 if self._frames else 0
        return frames * FRAME_MS

    def line(self) -> Line:
        return Line(self._jitter_ns / NS_PER_MS, self._lost, self._late)

    def pull(self) -> PCM | None:
        if not self._frames:
            return None
        pcm = self._frames.pop(self._origin, None)
        self._origin += 1
        return pcm


def tone(samples: int, start: int = 0, rate_hz: int = 8_000) -> np.ndarray:
    """437 Hz, from its sample `start` on."""
    return (8000 * np.sin(2 * np.pi * 437.0 * np.arange(start, start + samples) / rate_hz)).astype(np.int16)
