"""What a case is told, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Outcome:
    """One case: its figures, and in words what did not hold."""

    case: str
    figures: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note what is broken."""
        if not holds:
            self.broken.append(otherwise)

    def line(self) -> str:
        """For people."""
        figures = " ".join(f"{name}={value}" for name, value in self.figures.items())
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
