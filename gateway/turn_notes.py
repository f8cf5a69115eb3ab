"""What a worker notes of one call for its trace: when media began, and which turns were missed. Off unless traces
are taken; what is beyond `MOST_NOTES` is in the call's figures alone."""

from __future__ import annotations

from typing import Final

from gateway.control import CallNotes, TurnNote

MOST_NOTES: Final = 32
MS: Final = 1_000_000


class TurnNotes:
    """Of one call. Wall clock and monotonic clock are arguments, ns."""

    def __init__(self) -> None:
        self._media_ms = 0
        self._missed = self._late = 0
        self._turns: list[TurnNote] = []

    def look(self, turn: int, missed: int, late: int, first_ns: int, now_ns: int, unix_ns: int) -> None:
        """Turn `turn` was cut; `missed` and `late` are all of the call so far, `first_ns` is when its ear was first
        served."""
        if not self._media_ms:
            self._media_ms = (unix_ns - (now_ns - first_ns)) // MS
        if missed > self._missed and len(self._turns) < MOST_NOTES:
            self._turns.append(TurnNote(turn, unix_ns // MS, missed - self._missed, late > self._late))
        self._missed, self._late = missed, late

    def told(self) -> CallNotes:
        """Up to now."""
        return CallNotes(self._media_ms, tuple(self._turns))
