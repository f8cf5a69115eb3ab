"""When the chunks of a phase group are cut: so long before its tick that the last of them is in time, too.

A cut that moves takes sound of another 20 ms, and its call's delay moves by a whole frame. So the time changes
seldom: it goes by the group's share of all calls that the worker may have, not by those that there are, in steps of
`STEP_NS`, up as soon as the cuts are measured to need more, and down only when half would do.
"""

from __future__ import annotations

from media.timebase import NS_PER_MS, TURN_NS, phase_offset_ns

EARLY_NS = 5 * NS_PER_MS
"""Before the tick, and before what the cuts take twice: legs that are whole are cut."""
LATE_NS = 2 * NS_PER_MS
"""Before the tick, and before what the cuts take: the others are cut as they are."""
STEP_NS = 1 * NS_PER_MS
MOST_COST_NS = NS_PER_MS
"""Of one cut; what the measure of its usual cost is bounded by."""
TELEPHONE_COST_NS, BROWSER_COST_NS = 200_000, 700_000
"""Of one cut, before any is measured, on cores that are full. A telephone's takes 80 us alone, a browser's, which
decodes ten packets, 400. Too little here, and the cuts of the first minute's calls move while they talk."""
_SHARE = 512
"""A cut counts for so little of the measure of all: seconds go by until it follows."""


class CutTime:
    """Of one worker: it measures the cuts of all groups, and says for each how early they begin."""

    def __init__(self, most_calls: int, cost_ns: int) -> None:
        """`most_calls` that the worker may have; `cost_ns` of a cut, until it is measured."""
        self._most_calls = most_calls
        self._cost_ns = cost_ns
        self._ahead_ns: dict[tuple[str, int], int] = {}
        self._at: dict[tuple[str, int], int] = {}
        """Calls of an engine whose tick is so long after the beginning of a turn, when it was last asked."""

        self._next: dict[tuple[str, int], tuple[int, int]] = {}
        """When the calls of a group of an engine are cut next, monotonic ns, and how many they are."""

    def next_cut(self, engine: str, group: int, at_ns: int, calls: int) -> None:
        """That group sleeps until then."""
        self._next[engine, group] = at_ns, calls

    def quiet_ns(self, now_ns: int) -> int:
        """How long nobody is cut, of no engine; 0 when somebody is due, `TURN_NS` at most."""
        due = (at_ns for at_ns, calls in self._next.values() if calls)
        return min(max(0, min(due, default=now_ns + TURN_NS) - now_ns), TURN_NS)

    def took(self, cost_ns: int) -> None:
        """One cut."""
        self._cost_ns += (min(cost_ns, MOST_COST_NS) - self._cost_ns) // _SHARE

    def forget(self, engine: str) -> None:
        """Its turn clock stands still, or begins anew, perhaps with other groups: none of its calls is cut."""
        self._at = {key: calls for key, calls in self._at.items() if key[0] != engine}
        self._next = {key: due for key, due in self._next.items() if key[0] != engine}

    def ahead_ns(self, group: int, calls: int, groups: int, engine: str = "") -> tuple[int, int]:
        """How long before the tick of `group`, which has so many `calls`, whole legs are cut, and the others.

        What other engines have at the same tick is cut in the same thread, and counts.
        """
        offset_ns = phase_offset_ns(group, groups)
        self._at[engine, offset_ns] = calls
        calls = sum(each for (_, at_ns), each in self._at.items() if at_ns == offset_ns)
        cuts_ns = max(calls, -(-self._most_calls // groups)) * self._cost_ns
        needed_ns = -(-cuts_ns // STEP_NS) * STEP_NS
        kept_ns = self._ahead_ns.get((engine, group), 0)
        if needed_ns > kept_ns or 2 * needed_ns < kept_ns:
            kept_ns = self._ahead_ns[engine, group] = needed_ns
        return EARLY_NS + 2 * kept_ns, LATE_NS + kept_ns
