"""What a case is told, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Outcome:
    """One case: its figures, and in words what did not hold."""

    case: str
    figures: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    skipped: str = ""
    """Why it could not be run here."""
    gap_starts_ns: list[NDArray[np.int64]] = field(default_factory=list, repr=False)
    """Of calls that were to hear nothing: when the frames were said that did not come back, monotonic ns."""

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note what is broken."""
        if not holds:
            self.broken.append(otherwise)

    def line(self) -> str:
        """For people."""
        figures = " ".join(f"{name}={value}" for name, value in self.figures.items())
        if self.skipped:
            return f"skipped {self.case}: {self.skipped}"
        verdict = "held  " if not self.broken else "BROKEN"
        return f"{verdict} {self.case}: {figures}" + "".join(f"\n       {text}" for text in self.broken)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run, checked."""

    cases: tuple[str, ...]
    calls: int  # live ones in model-server-killed and -upgraded
    churn_calls: int
    hostile_sip: int
    hostile_rtp: int
    wheel: bool  # the ready-made pjsua2, four calls a process
    hostile_web: int = 2000  # mutated offers; five times as many datagrams and packets
    stalls_s: tuple[float, ...] = (1.0, 10.0)  # of a part that stands still, one after the other
    strangers_per_s: float = 20_000.0  # RTP packets at ports of live calls
