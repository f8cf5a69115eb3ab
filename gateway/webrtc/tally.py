"""What the organs of browser calls have counted: of those that live, and of those that are over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from gateway.webrtc.call import BrowserCall


class Tally:
    """Sums that never fall while calls come and go."""

    def __init__(self) -> None:
        self._over: Counter[str] = Counter()

    def close(self, call: BrowserCall) -> None:
        """A call is over: keep what it counted."""
        self._over.update(call.counts())

    def sums(self, calls: Iterable[BrowserCall]) -> dict[str, int]:
        """Over all calls so far."""
        sums = Counter(self._over)
        for call in calls:
            sums.update(call.counts())
        return dict(sums)
