"""Values counted in buckets, by whole numbers: a worker reports them beside its counters, as `NAME|BUCKET` and
`NAME|sum`, and the main process adds them up like any other counter. What a unit is, is the shape's to say."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

SUM: Final = "sum"
_US: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Shape:
    """Bounds in whole units of `scale` (of the base unit that is shown); the last bucket has the rest."""

    scale: float
    bounds: tuple[int, ...]

    @property
    def shown(self) -> list[str]:
        """Upper bounds in the base unit, as Prometheus has them."""
        return [*(f"{bound * self.scale:.6g}" for bound in self.bounds), "+Inf"]


def _ms(*bounds: float) -> Shape:
    return Shape(_US, tuple(int(bound * 1_000) for bound in bounds))


SETUP: Final = _ms(5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000)
ROUND_TRIP: Final = _ms(0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000)
TASK: Final = _ms(100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000)
JITTER: Final = _ms(1, 2, 5, 10, 20, 40, 80, 160)
DELAY: Final = _ms(10, 20, 40, 60, 80, 100, 150, 200, 400)
SHARE: Final = Shape(_US, (0, 1_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000))
"""Of packets or sound, in millionths."""
MOS: Final = Shape(1e-3, (1_500, 2_000, 2_500, 3_000, 3_300, 3_600, 3_800, 4_000, 4_200, 4_400))
"""In thousandths: below 3.6 many are dissatisfied (G.109)."""


class Histogram:
    """One, of one process, since its start."""

    def __init__(self, name: str, shape: Shape) -> None:
        self.name = name
        self._bounds = shape.bounds
        self._counts = [0] * (len(shape.bounds) + 1)
        self._sum = 0

    def observe(self, value: int) -> None:
        """One value, in the shape's units."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def report(self) -> dict[str, int]:
        """As counters; what never had anything in it is left out."""
        if not any(self._counts):
            return {}
        told = {f"{self.name}|{place}": count for place, count in enumerate(self._counts) if count}
        return told | {f"{self.name}|{SUM}": self._sum}
