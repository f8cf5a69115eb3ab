"""How much longer than the shortest way a packet is under way. As in `loss.py`, a value that begins."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from media.timebase import NS_PER_MS, NS_PER_S

Delayer = Callable[[int], int]
"""More ns for the packet that is sent so many ns after the distribution began."""


class DelayDistribution(Protocol):
    """Something that delays packets."""

    def begin(self, rng: random.Random) -> Delayer:
        """One link's delays from now on."""


@dataclass(frozen=True, slots=True)
class UniformDelay:
    """Anything from nothing to `most_ms`, each packet by itself."""

    most_ms: float

    def begin(self, rng: random.Random) -> Delayer:
        most_ns = self.most_ms * NS_PER_MS
        return lambda _: int(rng.random() * most_ns)


@dataclass(frozen=True, slots=True)
class GammaDelay:
    """Gamma of a mean and a shape, as delays of radio links are found to be; the long tail ends at 10 means."""

    mean_ms: float
    shape: float = 2.0

    def begin(self, rng: random.Random) -> Delayer:
        scale_ns = self.mean_ms * NS_PER_MS / self.shape
        most_ns = 10 * self.mean_ms * NS_PER_MS
        return lambda _: int(min(rng.gammavariate(self.shape, scale_ns), most_ns))


@dataclass(frozen=True, slots=True)
class HeldDelay:
    """A shared radio: now and then all packets wait until it is free again, `low_ms` to `high_ms`, at random
    times `every_s` apart on average; beside it `usual` for each."""

    every_s: float
    low_ms: float
    high_ms: float
    usual: DelayDistribution

    def begin(self, rng: random.Random) -> Delayer:
        usual = self.usual.begin(rng)
        begins_ns = ends_ns = 0

        def delay(age_ns: int) -> int:
            nonlocal begins_ns, ends_ns
            while age_ns >= ends_ns:
                begins_ns = ends_ns + int(rng.expovariate(1 / self.every_s) * NS_PER_S)
                ends_ns = begins_ns + int(rng.uniform(self.low_ms, self.high_ms) * NS_PER_MS)
            return usual(age_ns) + (ends_ns - age_ns if age_ns >= begins_ns else 0)

        return delay
