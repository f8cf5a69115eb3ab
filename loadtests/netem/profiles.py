"""Networks by name. A profile is a value; `Link` (`emulator.py`) is one direction of it at work.

Base delays are one way. Where a recording has both directions, each way gets its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from loadtests.netem import traces
from loadtests.netem.bottleneck import Rate, TraceRate
from loadtests.netem.jitter import DelayDistribution, GammaDelay, HeldDelay, UniformDelay
from loadtests.netem.loss import BurstLoss, LossPattern, TraceLoss, UniformLoss

QUEUE_BYTES = 64 * 1024
"""Before the bottleneck: 4 s of one call's packets; cellular base stations have more, home routers less."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One direction of a network."""

    name: str
    text: str
    base_ms: float = 30.0
    """The shortest way, which is not the gateway's fault. Also what a fast sender's clock (`drift_ppm` > 0) may
    gain: 30 ms are 150 s of +200 ppm."""
    loss: LossPattern | None = None
    jitter: DelayDistribution | None = None
    reorder: bool = False
    """A packet with less delay may overtake; else the one before it holds it up."""
    duplicate: float = 0.0
    rate: Rate | None = None
    queue_bytes: int = QUEUE_BYTES
    stalls: tuple[tuple[float, float], ...] = ()
    """(seconds after the profile began, ms) in which nothing passes the bottleneck; ascending."""
    drift_ppm: float = 0.0
    """How much faster the sender's clock runs than ours."""

    def __post_init__(self) -> None:
        if self.base_ms < 0 or self.queue_bytes <= 0 or not 0 <= self.duplicate < 1:
            raise ValueError(f"{self.name}: negative delay, no queue, or more than every packet twice")

    @property
    def recovered(self) -> Profile:
        """The same way with nothing wrong."""
        return Profile("clean", f"{self.name} when it is over", base_ms=self.base_ms)


LTE, UMTS, EVDO = "ATT-LTE-driving-2016", "TMobile-UMTS-driving.up", "Verizon-EVDO-driving.down"

_FIXED = (
    Profile("clean", "nothing wrong"),
    Profile("loss-5", "5 % lost, each packet by itself", loss=UniformLoss(0.05)),
    Profile("loss-10", "10 % lost", loss=UniformLoss(0.10)),
    Profile("loss-20", "20 % lost", loss=UniformLoss(0.20)),
    Profile("burst-20", "20 % lost in runs of 3 on average", loss=BurstLoss(0.20, 3.0)),
    Profile("jitter-300", "0 to 300 ms more, in any order", jitter=UniformDelay(300.0), reorder=True),
    Profile(
        "loss-5-jitter-60",
        "5 % lost, 0 to 60 ms more, in any order",
        loss=UniformLoss(0.05),
        jitter=UniformDelay(60.0),
        reorder=True,
    ),
    Profile("stall-1s", "nothing for a second, then all at once", stalls=((2.0, 1000.0),)),
    Profile("drift+200ppm", "the sender's clock is fast", drift_ppm=200.0),
    Profile("drift-200ppm", "the sender's clock is slow", drift_ppm=-200.0),
    Profile(
        "busy-wifi",
        "2 % lost in runs of 3; 4 ms more, and 30 to 150 ms every 2 s; 1 % twice",
        base_ms=10.0,
        loss=BurstLoss(0.02, 3.0),
        jitter=HeldDelay(2.0, 30.0, 150.0, GammaDelay(4.0)),
        duplicate=0.01,
    ),
    Profile(
        "3G",
        "a car's UMTS uplink as recorded; 1 % lost, 15 ms more",
        base_ms=60.0,
        loss=BurstLoss(0.01, 2.0),
        jitter=GammaDelay(15.0),
        rate=TraceRate(UMTS, 10.0),
    ),
    Profile(
        "cellular", "a car's LTE as recorded, holes and all", base_ms=35.0, rate=TraceRate(f"{LTE}.up", 80.0)
    ),
)
NAMED = {profile.name: profile for profile in _FIXED}


def names() -> list[str]:
    """All profiles that can be had here, those of recordings last."""
    needs_data = {"3G", "cellular"}
    fixed = [name for name in NAMED if traces.available() or name not in needs_data]
    recorded = [*traces.loss_names(), *dict.fromkeys(name.rpartition(".")[0] for name in traces.rate_names())]
    return fixed + [f"trace-{name}" for name in recorded]


def find(name: str, direction: str = "up") -> Profile:
    """A profile, one way: "up" (to the gateway) or "down". Raises ValueError for a name that there is not."""
    if name.startswith("trace-"):
        return _of_trace(name, direction)
    try:
        profile = NAMED[name]
    except KeyError:
        raise ValueError(f"no network {name!r}: choose from {', '.join(names())}") from None
    if name == "cellular" and direction == "down":
        return replace(profile, rate=TraceRate(f"{LTE}.down", 80.0))
    return profile


def _of_trace(name: str, direction: str) -> Profile:
    trace = name.removeprefix("trace-")
    if trace in traces.loss_names():
        return Profile(name, f"losses of call {trace} of the PLC challenge", loss=TraceLoss(trace))
    ways = [
        way for way in (f"{trace}.{direction}", f"{trace}.up", f"{trace}.down") if way in traces.rate_names()
    ]
    if not ways:
        raise ValueError(f"no network {name!r}: choose from {', '.join(names())}")
    return Profile(name, f"recorded link {ways[0]}", base_ms=35.0, rate=TraceRate(ways[0]))
