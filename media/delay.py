"""How far behind the network's best a leg has to play, from when its packets came.

A packet's *transit* is its arrival minus its time stamp. Its floor over the last 10 s is the line as good as it
gets (and follows the sender's clock, +-200 ppm being 2 ms in 10 s); what lies above the floor is jitter.

    target = GUARD_MS + the smaller of
        the 98th percentile of the jitter over 10 s: one packet in 50 may be later. Of ten packets of a chunk
            only the last has to hurry, so that costs one concealed frame in 10 s, and less after FEC;
        the most jitter in the last 0.8 s: when a jittery time is over, it is over.

A repeat that was asked for says nothing of that. How late it comes (the length of its gap, the time to notice, a
round trip) is measured apart, and is what waiting for repeats would cost:

    repeat_ms = the median of it over 10 s, and at most `MOST_REPEAT_MS`. The last packet of a chunk then is had
        again every other time, those before it more often, since they have the rest of the chunk's 200 ms
        besides. Where a fifth is lost in runs of 3 and a round trip is 60 ms, digits were understood no worse than
        with the 75th and 90th percentile, which make the call 20 to 40 ms later (`loadtests netem --digits`, two
        seeds; with waits of up to 250 ms, before they were bounded to bring delay back sooner).

Knows nothing of chunks or sound. Its one rule: what no buffer should follow is not learned. A stall that ends
in a burst is one late packet, not 50; and beyond `MAX_MS` the line did not jitter, it stood still.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from media.timebase import NS_PER_MS, NS_PER_S

GUARD_MS = 4
"""Slack kept against the jitter of our own threads."""
MAX_MS = 250
WINDOW_NS, RECENT_NS = 10 * NS_PER_S, 800 * NS_PER_MS
PERCENTILE = 0.98
REPEAT_PERCENTILE = 0.50
MOST_REPEAT_MS = 140
BURST_NS = 5 * NS_PER_MS
"""Packets that come closer together than this were held back by the same thing."""
BEYOND_IN_A_ROW = 5
"""So many lone packets in a row beyond `MAX_MS`: the line or the sender's time line has moved for good."""
_ROOM = 512
_REPEATS = 64
"""10 s of 20 ms packets; of smaller ones the window is shorter, which costs memory of jitter, nothing else."""


class DelayEstimator:
    """One stream's transit floor and target delay, bounded in memory (16 KiB)."""

    def __init__(self, clock_hz: int) -> None:
        self._clock_hz = clock_hz
        self._arrivals = np.zeros(2 * _ROOM, np.int64)  # ascending, of which `_count` are used
        self._transits = np.zeros(2 * _ROOM, np.int64)
        self.reset()

    def reset(self) -> None:
        """The time stamps go on in another way: nothing known so far holds."""
        self._count = 0
        self._last_arrival_ns = 0
        self._burst_transit_ns = 0
        self._beyond = 0
        self._repeats: deque[tuple[int, int]] = deque(maxlen=_REPEATS)  # arrival, transit
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
        if self._count == 2 * _ROOM:  # the newest go to the front, so that they always lie in one piece
            for ring in (self._arrivals, self._transits):
                ring[:_ROOM] = ring[_ROOM:]
            self._count = _ROOM
        self._arrivals[self._count], self._transits[self._count] = arrival_ns, transit_ns
        self._count += 1

    def update_repeat(self, arrival_ns: int, timestamp: int) -> None:
        """One packet that was asked for again, by its unwrapped time stamp."""
        self._repeats.append((arrival_ns, arrival_ns - timestamp * NS_PER_S // self._clock_hz))

    @property
    def repeat_ms(self) -> float | None:
        """How much later than the floor repeats come; None when none came."""
        while self._repeats and self._last_arrival_ns - self._repeats[0][0] >= WINDOW_NS:
            self._repeats.popleft()
        if not self._repeats:
            return None
        late_ns = sorted(transit_ns - self.floor_ns for _, transit_ns in self._repeats)
        late_ms = late_ns[min(len(late_ns) - 1, int(len(late_ns) * REPEAT_PERCENTILE))] / NS_PER_MS
        return min(late_ms, MOST_REPEAT_MS)

    def estimate(self) -> float:
        """Fits floor and target to what is known now, once a turn; returns the target in ms."""
        oldest = max(0, self._count - _ROOM)
        arrivals = self._arrivals[oldest : self._count]
        young = int(arrivals.searchsorted(self._last_arrival_ns - WINDOW_NS, "right"))
        if young == len(arrivals):  # nothing yet, or only packets beyond the bound came of late
            return self.target_ms
        transits = self._transits[oldest + young : self._count]
        self.floor_ns = int(transits.min())
        jitter_ns = transits - self.floor_ns
        recent = jitter_ns[int(arrivals.searchsorted(self._last_arrival_ns - RECENT_NS, "right")) - young :]
        recent = recent[recent <= MAX_MS * NS_PER_MS]
        jitter_ns = jitter_ns[jitter_ns <= MAX_MS * NS_PER_MS]
        rank = min(len(jitter_ns) - 1, int(len(jitter_ns) * PERCENTILE))
        jitter_ns.partition(rank)
        usual_ns = int(jitter_ns[rank])
        needed_ns = min(usual_ns, int(recent.max())) if len(recent) else usual_ns
        self.target_ms = min(MAX_MS, GUARD_MS + needed_ns / NS_PER_MS)
        return self.target_ms
