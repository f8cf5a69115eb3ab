"""How long a step of so many rows will take, from steps that were measured on this machine.

Steps are kept by powers of two of their rows, the last `WINDOW` of each; a prediction lies on the line
between the 99th percentiles of neighbours, and beyond the largest one on the line through the smallest and
largest. It knows nothing of what a step does.
"""

from __future__ import annotations

from collections import deque

import numpy as np

WINDOW = 512
"""Enough for a 99th percentile that one stall of the machine does not decide; 26 s of one group's ticks."""


class StepTime:
    """Fed by every step, asked at every admission."""

    def __init__(self) -> None:
        self._steps: dict[int, deque[tuple[int, int]]] = {}
        self._line: tuple[list[float], list[float]] | None = None

    def add(self, rows: int, step_ns: int) -> None:
        """A step of `rows` (at least 1) took `step_ns`."""
        kept = self._steps.setdefault((rows - 1).bit_length(), deque(maxlen=WINDOW))
        kept.append((rows, step_ns))
        self._line = None

    def forget_stalls(self) -> None:
        """Take what took more than twice as long as the usual step of its size for so much.

        For the few steps of a start-up: another process in the way of one of them would stand for a percentile.
        """
        for kept in self._steps.values():
            most_ns = 2 * int(np.median([step_ns for _, step_ns in kept]))
            steps = [(rows, min(step_ns, most_ns)) for rows, step_ns in kept]
            kept.clear()
            kept.extend(steps)
        self._line = None

    def predict_ns(self, rows: int) -> int:
        """99th percentile of a step of `rows`; 0 as long as nothing was measured. Never falls with `rows`."""
        if not self._steps:
            return 0
        xs, ys = self._line = self._line or self._measured()
        if rows <= xs[-1]:
            return int(np.interp(rows, xs, ys))
        if len(xs) == 1:  # one size known: as if all its time were for its rows
            return int(ys[0] * rows / xs[0])
        return int(ys[-1] + (rows - xs[-1]) * (ys[-1] - ys[0]) / (xs[-1] - xs[0]))

    def _measured(self) -> tuple[list[float], list[float]]:
        xs, ys = [], []
        for _, steps in sorted(self._steps.items()):
            rows, ns = np.array(steps).T
            xs.append(float(rows.mean()))
            ys.append(float(np.quantile(ns, 0.99, method="lower")))
        return xs, np.maximum.accumulate(ys).tolist()
