"""Which samples of a stream were made up, in step with its sound.

They are kept as runs of samples, not one by one: a line that loses nothing has none, and costs nothing.
"""

from __future__ import annotations

from media.chunk import PCM, QUARTER_SAMPLES, QUARTERS, Quarters
from media.conceal import shorten, stretch

Runs = tuple[tuple[int, int], ...]
"""First sample of each run and the one after its last, ascending, of a block of sound."""


class MadeUp:
    """Of the samples of one stream that wait to be taken."""

    def __init__(self) -> None:
        self._runs: Runs = ()

    @property
    def waiting(self) -> int:
        """Made-up samples."""
        return total(self._runs)

    def add(self, first: int, samples: int) -> None:
        """So many, from place `first` of those that wait on; behind all that were added before."""
        if not samples:
            return
        runs = self._runs
        if runs and runs[-1][1] == first:
            first, runs = runs[-1][0], runs[:-1]
            samples += self._runs[-1][1] - first
        self._runs = (*runs, (first, first + samples))

    def take(self, samples: int) -> Runs:
        """Of the next so many samples of the stream; those behind them move up."""
        runs = self._runs
        if not runs or runs[-1][1] <= samples:
            self._runs = ()
            return runs
        self._runs = _moved(_between(runs, samples, runs[-1][1]), -samples)
        return _between(runs, 0, samples)


def total(runs: Runs) -> int:
    """Samples in all of them."""
    return sum(end - first for first, end in runs)


def behind(samples: int, runs: Runs) -> Runs:
    """Of the same sound with so many samples in front of it."""
    return _moved(runs, samples)


def fitted(pcm: PCM, runs: Runs, samples: int, rate_hz: int) -> tuple[PCM, Runs]:
    """int16 [n] -> int16 [samples], time-compressed or stretched, and what of it was made up."""
    more = len(pcm) - samples
    if more >= 0:
        fit, at = shorten(pcm, more, rate_hz)
        return fit, _between(runs, 0, at) + _moved(_between(runs, at + more, len(pcm)), -more)
    fit, at = stretch(pcm, -more, rate_hz)
    return fit, _between(runs, 0, at - more) + _moved(_between(runs, at, len(pcm)), -more)


def quarters(runs: Runs) -> Quarters:
    """How many samples of each quarter of a chunk."""
    counts = [0] * QUARTERS
    for first, end in runs:
        while first < end:
            quarter = first // QUARTER_SAMPLES
            until = min(end, (quarter + 1) * QUARTER_SAMPLES)
            counts[quarter] += until - first
            first = until
    one, two, three, four = counts
    return one, two, three, four


def _between(runs: Runs, begin: int, end: int) -> Runs:
    return tuple((max(first, begin), min(last, end)) for first, last in runs if first < end and last > begin)


def _moved(runs: Runs, by: int) -> Runs:
    return tuple((first + by, last + by) for first, last in runs)
