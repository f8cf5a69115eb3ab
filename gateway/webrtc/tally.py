"""What the organs of browser calls have counted: of those that live, and of those that are over."""

from __future__ import annotations

from collections import Counter
from typing import Protocol


class Counting(Protocol):
    """A call."""

    def counts(self) -> dict[str, int]: ...


class Tally:
    """Sums that never fall while calls come and go. A call is asked when there is time for it, not when all are."""

    def __init__(self) -> None:
        self._over: Counter[str] = Counter()
        self._live: dict[Counting, dict[str, int]] = {}

    def note(self, call: Counting) -> None:
        """What a live call has counted up to now; 100 us."""
        self._live[call] = call.counts()

    def close(self, call: Counting) -> None:
        """A call is over: keep what it counted."""
        self._live.pop(call, None)
        self._over.update(call.counts())

    def sums(self) -> dict[str, int]:
        """Over all calls, as last noted."""
        sums = Counter(self._over)
        for counted in self._live.values():
            sums.update(counted)
        return dict(sums)
