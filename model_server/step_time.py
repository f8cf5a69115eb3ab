"""How long a step will take, from steps that were measured on this machine, at start-up and live.

    step = (fixed + per_row * rows + per_position * positions) * tail(rows)

Rows are calls, positions what their sequences keep in all. Steps are kept by powers of two of both, the newest
`WINDOW` of each cell. The line goes through the cells' medians, none of its three parts below 0; the tail is how
far the 99th percentile of cells of that many rows lies above the line. It knows nothing of what a step does.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WINDOW = 512
"""Enough for a 99th percentile that one stall of the machine does not decide; 26 s of one group's ticks."""
QUANTILE = 0.99

Real = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Line:
    """The cost of a usual step, ns."""

    fixed_ns: float
    per_row_ns: float
    per_position_ns: float

    def ns(self, rows: float, positions: float) -> float:
        """Of a step of so many rows that keep so many positions in all."""
        return self.fixed_ns + self.per_row_ns * rows + self.per_position_ns * positions


@dataclass(frozen=True, slots=True)
class _Fit:
    line: Line
    rows: Real
    """Of the cells, ascending."""
    tails: Real
    """99th percentile over the line, of cells of so many rows."""
    slowest_ns: Real
    """The largest 99th percentile of cells of so many rows or fewer."""


class StepTime:
    """Fed by every step, asked at every admission."""

    looks_away = False
    """Steps that come meanwhile are not kept."""

    def __init__(self, positions_of_row: int = 0) -> None:
        """`positions_of_row`: the most that one call keeps; predictions are for calls that have come so far."""
        self._positions_of_row = positions_of_row
        self._cells: dict[tuple[int, int], deque[tuple[int, int, int]]] = {}
        self._fit: _Fit | None = None

    def add(self, rows: int, step_ns: int, positions: int = 0) -> None:
        """A step of `rows` (at least 1), which keep so many positions in all, took `step_ns`."""
        if self.looks_away:
            return
        cell = (rows - 1).bit_length(), (positions // rows).bit_length()
        self._cells.setdefault(cell, deque(maxlen=WINDOW)).append((rows, positions, step_ns))
        self._fit = None

    def forget_stalls(self) -> None:
        """Take what took more than twice as long as the usual step of its cell for so much.

        For the few steps of a start-up: another process in the way of one of them would stand for a percentile.
        """
        for kept in self._cells.values():
            most_ns = 2 * int(np.median([step_ns for _, _, step_ns in kept]))
            steps = [(rows, positions, min(step_ns, most_ns)) for rows, positions, step_ns in kept]
            kept.clear()
            kept.extend(steps)
        self._fit = None

    @property
    def line(self) -> Line:
        """Through all that was measured; zeros as long as nothing was."""
        return self._fitted().line if self._cells else Line(0.0, 0.0, 0.0)

    def predict_ns(self, rows: int, positions: int | None = None) -> int:
        """99th percentile of a step; 0 as long as nothing was measured. Never falls with `rows`.

        `positions` None: of calls that keep as much as they ever will.
        """
        if not self._cells:
            return 0
        fit = self._fitted()
        kept = rows * self._positions_of_row if positions is None else positions
        usual_ns = fit.line.ns(rows, kept)
        fewer = int(np.searchsorted(fit.rows, rows, "right"))
        least_ns = float(fit.slowest_ns[fewer - 1]) if fewer and positions is None else 0.0
        return round(max(least_ns, usual_ns * float(np.interp(rows, fit.rows, fit.tails))))

    def predict_up_to_ns(self, most_rows: int) -> list[int]:
        """`predict_ns` of 0, 1 ... `most_rows` rows, 20 times as fast as one by one; 0 rows take nothing."""
        if not self._cells:
            return [0] * (most_rows + 1)
        fit, rows = self._fitted(), np.arange(most_rows + 1)
        line = fit.line
        usual_ns = line.fixed_ns + (line.per_row_ns + line.per_position_ns * self._positions_of_row) * rows
        fewer = np.searchsorted(fit.rows, rows, "right")
        least_ns = np.where(fewer > 0, fit.slowest_ns[np.maximum(fewer, 1) - 1], 0.0)
        predicted = np.maximum(least_ns, usual_ns * np.interp(rows, fit.rows, fit.tails))
        return [0, *(round(each) for each in predicted[1:].tolist())]

    def _fitted(self) -> _Fit:
        if self._fit is None:
            self._fit = _fit([np.array(steps, np.float64) for _, steps in sorted(self._cells.items())])
        return self._fit


def _fit(cells: list[Real]) -> _Fit:
    rows, positions = (np.array([steps[:, column].mean() for steps in cells]) for column in (0, 1))
    line = _line(rows, positions, np.array([np.median(steps[:, 2]) for steps in cells]))
    high = np.array([np.quantile(steps[:, 2], QUANTILE, method="lower") for steps in cells])
    tails: dict[float, float] = {}
    for count, kept, high_ns in zip(rows, positions, high, strict=True):
        over = high_ns / line.ns(float(count), float(kept))
        tails[float(count)] = max(float(over), tails.get(float(count), 0.0))
    order = sorted(tails)
    slowest = [max(high[rows <= count]) for count in order]
    return _Fit(line, np.array(order), np.array([tails[count] for count in order]), np.array(slowest))


def _line(rows: Real, positions: Real, usual_ns: Real) -> Line:
    """Least squares of what is off by a share of the step, over every choice of parts that may be above 0."""
    scale = np.array([1.0, max(1.0, rows.max()), max(1.0, positions.max())])
    columns = np.stack([np.ones_like(rows), rows, positions], 1) / scale
    usual_ns = np.maximum(usual_ns, 1.0)
    best, least = np.zeros(3), np.inf
    for count in (1, 2, 3):
        for chosen in itertools.combinations((1, 0, 2), count):
            part = list(chosen)
            found = np.linalg.lstsq(columns[:, part] / usual_ns[:, None], np.ones_like(rows), rcond=1e-9)[0]
            off = float(np.square(columns[:, part] @ found / usual_ns - 1).sum())
            if (found >= 0).all() and off < least - 1e-9:
                best, least = np.zeros(3), off
                best[part] = found
    fixed, per_row, per_position = best / scale
    return Line(float(fixed), float(per_row), float(per_position))
