"""Which packets never arrive. A pattern is a value; `begin` gives who decides, with random numbers of its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from loadtests.netem import traces
from media.timebase import NS_PER_MS

Decider = Callable[[int], bool]
"""Whether the packet that is sent so many ns after the pattern began is lost."""


class LossPattern(Protocol):
    """Something that loses packets."""

    def begin(self, rng: random.Random) -> Decider:
        """One link's losses from now on."""


@dataclass(frozen=True, slots=True)
class UniformLoss:
    """Each packet with the same chance."""

    share: float

    def __post_init__(self) -> None:
        _check(self.share)

    def begin(self, rng: random.Random) -> Decider:
        return lambda _: rng.random() < self.share


@dataclass(frozen=True, slots=True)
class BurstLoss:
    """Gilbert and Elliott's two states (Bell System Technical Journal 39 and 42): in the bad one each packet is
    lost with `bad_loss`, in the good one none. `share` is lost in all, bad times last `run` packets on average."""

    share: float
    run: float
    bad_loss: float = 1.0

    def __post_init__(self) -> None:
        _check(self.share)
        if self.run < 1 or not self.share < self.bad_loss <= 1:
            raise ValueError(
                f"bursts of {self.run} packets that lose {self.bad_loss}: 1 or more, above the share"
            )

    def begin(self, rng: random.Random) -> Decider:
        leave = 1 / self.run
        time_in_bad = self.share / self.bad_loss
        enter = leave * time_in_bad / (1 - time_in_bad) if time_in_bad < 1 else 1.0
        bad = rng.random() < time_in_bad

        def decide(_: int) -> bool:
            nonlocal bad
            bad = rng.random() >= leave if bad else rng.random() < enter
            return bad and rng.random() < self.bad_loss

        return decide


@dataclass(frozen=True, slots=True)
class TraceLoss:
    """A recorded call's losses by time, one decision for each of its packet times, round and round."""

    trace: str

    def begin(self, rng: random.Random) -> Decider:
        lost = traces.losses(self.trace).tolist()
        start = rng.randrange(len(lost))
        period_ns = traces.LOSS_PERIOD_MS * NS_PER_MS
        return lambda age_ns: bool(lost[(start + age_ns // period_ns) % len(lost)])


def _check(share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"a loss of {share} is no part of one; 0.05 loses 5 % of the packets")
