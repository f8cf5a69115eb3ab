"""The one place that knows how long a turn is and how units turn into each other.

Three times are kept apart and never share a variable: *arrival* (monotonic ns, names end in `_ns`), *media*
(samples of somebody's clock, `_samples`) and *turn* (an integer since the call was answered).

Ticks need no message between processes: a tick of phase group g happens whenever the monotonic clock is at
`g * PHASE_NS` modulo `TURN_NS`, and every process of a node reads the same monotonic clock.
"""

from __future__ import annotations

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000

TURN_MS = 200
TURN_NS = TURN_MS * NS_PER_MS
FRAME_MS = 20
FRAME_NS = FRAME_MS * NS_PER_MS
FRAMES_PER_TURN = TURN_MS // FRAME_MS

MODEL_HZ = 16_000
TURN_SAMPLES = MODEL_HZ * TURN_MS // 1000
"""3,200: what a chunk carries, at `MODEL_HZ`."""


def samples_of(ms: int, rate_hz: int) -> int:
    """Samples of `ms` milliseconds at `rate_hz`; exact for every rate that telephony uses."""
    return rate_hz * ms // 1000


def ns_of(samples: int, rate_hz: int) -> int:
    """Nanoseconds that `samples` last at `rate_hz`, rounded down."""
    return samples * NS_PER_S // rate_hz


def phase_offset_ns(group: int, groups: int) -> int:
    """Where in the turn, in ns, the ticks of phase group `group` of `groups` lie."""
    return TURN_NS * group // groups


def tick_at_or_after(now_ns: int, group: int, groups: int) -> int:
    """First tick (monotonic ns) of the group that is not before `now_ns`."""
    offset = phase_offset_ns(group, groups)
    return now_ns + (offset - now_ns) % TURN_NS
