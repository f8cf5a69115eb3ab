"""How far behind the network's best a leg has to play, from when its packets came.

A packet's *transit* is its arrival minus its time stamp. Its floor over the last 10 s is the line as good as it
gets (and follows the sender's clock, +-200 ppm being 2 ms in 10 s); what lies above the floor is jitter.

    target = GUARD_MS + the smaller of
        the 98th percentile of the jitter over 10 s: one packet in 50 may be later. Of ten packets of a chunk
            only the last has to hurry, so that costs one concealed frame in 10 s, and less after FEC;
        the most jitter in the last 0.8 s: when a jittery time is over, it is over.

Knows nothing of chunks or sound. Its one rule: what no buffer should follow is not learned. A stall that ends
in a burst is one late packet, not 50; and beyond `MAX_MS` the line did not jitter, it stood still.
"""

from __future__ import annotations

import numpy as np

from media.timebase import NS_PER_MS, NS_PER_S

GUARD_MS = 4
"""Slack kept against the jitter of our own threads, as in `media/chunker.py`."""
MAX_MS = 250
WINDOW_NS, RECENT_NS = 10 * NS_PER_S, 800 * NS_PER_MS
PERCENTILE = 0.98
BURST_NS = 5 * NS_PER_MS
"""Packets that come closer together than this were held back by the same thing."""
BEYOND_IN_A_ROW = 5
"""So many lone packets in a row beyond `MAX_MS`: the line or the sender's time line has moved for good."""
_ROOM = 512
"""10 s of 20 ms packets; of smaller ones the window is shorter, which costs memory of jitter, nothing else."""


class DelayEstimator:
    """One stream's transit floor and target delay, bounded in memory (10 KiB)."""

    def __init__(self, clock_hz: int) -> None:
        self._clock_hz = clock_hz
        self._arrivals = np.zeros(_ROOM, np.int64)
        self._transits = np.zeros(_ROOM, np.int64)
        self.reset()

    def reset(self) -> None:
        """The time stamps go on in another way: nothing known so far holds."""
        self._count = 0
        self._last_arrival_ns = 0
        self._burst_transit_ns = 0
        self._beyond = 0
        self.floor_ns = 0
        self.target_ms = float(GUARD_MS)

    def update(self, arrival_ns: int, timestamp: int) -> None:
        """One packet, by its unwrapped time stamp, in the order of arrival."""
        transit_ns = arrival_ns - timestamp * NS_PER_S // self._clock_hz
        in_burst = self._count and arrival_ns - self._last_arrival_ns < BURST_NS
        self._last_arrival_ns = arrival_ns
        if not self._count or transit_ns < self.floor_ns:
            self.floor_ns = transit_ns
        elif in_burst and transit_ns < self._burst_transit_ns:
            return
        if transit_ns - self.floor_ns > MAX_MS * NS_PER_MS:
            self._beyond += 1
            self._burst_transit_ns = transit_ns
            if self._beyond < BEYOND_IN_A_ROW:
                return
            self._count, self.floor_ns = 0, transit_ns
        self._beyond = 0
        self._burst_transit_ns = transit_ns
        at = self._count % _ROOM
        self._arrivals[at], self._transits[at] = arrival_ns, transit_ns
        self._count += 1

    def estimate(self) -> float:
        """Fits floor and target to what is known now, once a turn; returns the target in ms."""
        known = min(self._count, _ROOM)
        if not known:
            return self.target_ms
        age_ns = self._last_arrival_ns - self._arrivals[:known]
        young = age_ns < WINDOW_NS
        if not young.any():  # only packets beyond the bound came of late
            return self.target_ms
        transits = self._transits[:known][young]
        self.floor_ns = int(transits.min())
        jitter_ns = transits - self.floor_ns
        jitter_ns = jitter_ns[jitter_ns <= MAX_MS * NS_PER_MS]
        rank = min(len(jitter_ns) - 1, int(len(jitter_ns) * PERCENTILE))
        usual_ns = int(np.partition(jitter_ns, rank)[rank])
        recent = self._transits[:known][age_ns < RECENT_NS] - self.floor_ns
        recent = recent[recent <= MAX_MS * NS_PER_MS]
        needed_ns = min(usual_ns, int(recent.max())) if len(recent) else usual_ns
        self.target_ms = min(MAX_MS, GUARD_MS + needed_ns / NS_PER_MS)
        return self.target_ms
