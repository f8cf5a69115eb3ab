"""Which calls of this gateway count for which limits.

A limit has a name (`tenant:acme`, `trunk:carrier`) and a number of calls of all gateways together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping


class Permits:
    """By call. What a former process of this gateway held counts on until its calls are known again."""

    def __init__(self) -> None:
        self._limits: dict[str, tuple[str, ...]] = {}
        self._counts: Counter[str] = Counter()
        self._former: Counter[str] = Counter()

    def __contains__(self, call: str) -> bool:
        return call in self._limits

    def __len__(self) -> int:
        return len(self._limits)

    def hold(self, call: str, limits: tuple[str, ...], *, adopted: bool = False) -> None:
        """It counts from now on; an adopted one has counted all the time."""
        self.give(call)
        if not limits:
            return
        self._limits[call] = limits
        self._counts.update(limits)
        if not adopted:
            self._former.update(set(limits) & set(self._former))

    def give(self, call: str) -> bool:
        """It is over; False when it counted for nothing."""
        limits = self._limits.pop(call, ())
        self._counts.subtract(limits)
        self._counts += Counter()  # zeros go
        return bool(limits)

    def sweep(self, lives: Callable[[str], bool]) -> int:
        """Give those of calls that came to nothing: refused elsewhere, cancelled, lost with their worker."""
        gone = [call for call in self._limits if not lives(call)]
        for call in gone:
            self.give(call)
        return len(gone)

    def held(self) -> dict[str, int]:
        """Calls by limit."""
        return dict(self._counts | self._former)

    def inherit(self, former: Mapping[str, int]) -> None:
        """A process before this one held so many; its calls live on, and are told one by one."""
        self._former = Counter({name: count for name, count in former.items() if count > 0})

    def settle(self) -> None:
        """All of them have been told."""
        self._former.clear()
