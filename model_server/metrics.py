"""What the model server counts. It serves none of it: whoever asks on the control socket gets a snapshot."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import asdict, dataclass, field
from typing import Any

from media.timebase import NS_PER_MS

_STEP_LE_MS = (
    0.5,
    1,
    2,
    5,
    10,
    20,
    30,
    40,
    50,
    60,
    80,
    100,
    120,
    140,
    160,
    180,
    200,
    220,
    250,
    300,
    500,
    1_000,
)
_STEP_LE_NS = tuple(int(ms * NS_PER_MS) for ms in _STEP_LE_MS)
"""Drawn around the budget of a step, 50 ms with four phase groups, and around a turn, which is 200 ms."""
_LATENESS_LE_NS = tuple(int(ms * NS_PER_MS) for ms in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50))
_SLACK_LE_NS = tuple(int(ms * NS_PER_MS) for ms in (-50, -10, -1, 0, 1, 2, 5, 10, 20, 40))
"""Below zero: published after what the worker was told."""


@dataclass(slots=True)
class Histogram:
    """Counts per bucket: `counts[i]` values were at most `le_ns[i]`, the last one the rest."""

    le_ns: tuple[int, ...]
    counts: list[int] = field(default_factory=list)
    sum_ns: int = 0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.le_ns) + 1)

    def observe(self, value_ns: int) -> None:
        """Count one value."""
        self.counts[bisect_left(self.le_ns, value_ns)] += 1
        self.sum_ns += value_ns


@dataclass(slots=True)
class Counters:
    """All only ever grow."""

    turns_total: int = 0
    """Replies published."""
    turns_missed_total: int = 0
    """Turns of a call in progress that had no chunk at their tick (masked rows)."""
    turns_looked_for_total: int = 0
    """Of the replies: to chunks that were not there at their tick, but at a second look soon after."""
    turns_late_total: int = 0
    """Chunks that came after their tick: taken into the state, no reply."""
    turns_overdue_total: int = 0
    """Replies published after the budget that their worker was told."""
    turns_shed_total: int = 0
    """Replies made while something was left out (`shedding.py`)."""
    turns_rebuilt_total: int = 0
    """Turns of calls of a server before us, appended from their logs (`rebuild.py`); no reply."""
    turns_not_rebuilt_total: int = 0
    """Of these, forgotten: time was over."""
    calls_moved_total: int = 0
    """Calls that another server answered until we did, without a turn in between (`slack.py`)."""
    passes_total: int = 0
    """Of the network, one after another, over all steps."""
    checks_failed_total: int = 0
    """Lines of the engine's check of what it keeps."""
    resyncs_total: int = 0
    """Times that a call's lasting lateness was taken for good."""
    rows_torn_total: int = 0
    rows_stale_total: int = 0
    video_frames_total: int = 0
    """Frames of video that were given to the engine."""
    video_frames_missed_total: int = 0
    """Frames that their worker wrote over before they could be given."""
    video_frames_overwritten_total: int = 0
    """Frames that were written over during the step that they were given to."""
    publishes_refused_total: int = 0
    """Replies dropped because the worker's ring was full."""
    ticks_total: int = 0
    ticks_skipped_total: int = 0
    """Ticks that were overslept."""
    leases_total: int = 0
    leases_refused_slots_total: int = 0
    """No row was free."""
    leases_refused_predicted_total: int = 0
    """Steps would take too long with one call more."""
    leases_refused_overload_total: int = 0
    """Steps take too long now."""
    leases_refused_wish_total: int = 0
    """What was asked for cannot be: a persona that the engine does not know, a slot held twice, a move."""
    workers_attached_total: int = 0
    workers_gone_total: int = 0
    messages_bad_total: int = 0


@dataclass(slots=True)
class Metrics:
    """One process's counters and histograms."""

    counters: Counters = field(default_factory=Counters)
    step: Histogram = field(default_factory=lambda: Histogram(_STEP_LE_NS))
    """From the tick's begin (ours) until its replies are published."""
    slack: Histogram = field(default_factory=lambda: Histogram(_SLACK_LE_NS))
    """Budget that the worker was told minus the time from tick to publication: the least of the batch."""
    lateness: Histogram = field(default_factory=lambda: Histogram(_LATENESS_LE_NS))
    """How long after a tick was due we began with it."""

    @property
    def misses_per_million(self) -> int:
        """Of a million turns whose chunk was there in time, how many got their reply too late or not at all."""
        counters = self.counters
        asked = counters.turns_total + counters.publishes_refused_total
        missed = counters.turns_overdue_total + counters.publishes_refused_total
        return round(1e6 * missed / asked) if asked else 0

    def fields(self, gauges: dict[str, int]) -> dict[str, Any]:
        """The content of a `Stats` message."""
        histograms = {"step_ns": self.step, "slack_ns": self.slack, "tick_lateness_ns": self.lateness}
        return {
            "counters": asdict(self.counters),
            "gauges": gauges,
            "histograms": {name: asdict(histogram) for name, histogram in histograms.items()},
        }
