"""`python -m loadtests rollout`: a rolling restart of the chart's gateways under live calls.

Redis, `--gateways` pods (each a gateway and a model server) and the Kamailio edge are started as the chart renders
them, `--calls` telephone calls are put up through the edge, and from then on new ones come at the rate at which
calls end. Then Kubernetes' part is played, as for a StatefulSet (`loadtests/chart/pod.py`): the last pod is ended
with its `preStop`, SIGTERM and grace period, the next one of its name is started at another address, is waited for
until it is ready, and for `minReadySeconds`; then the pod before it.

A call was dropped when somebody else than its caller ended it. Calls play numbered tones, so every frame that does
not come back is found. Where a call went is known by the address that its sound went to. Last on standard output is
one line of JSON; a row and a picture are kept in `loadtests/results/`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import random
import shlex
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gateway.caller.calls import CallLog, CallPlan
from gateway.caller.report import report_call
from gateway.caller.signals import numbered_tones
from loadtests import machine, report
from loadtests.chart.helm import NAME
from loadtests.chart.pod import ChartPod, Ending
from loadtests.chart.release import Release, lacks
from loadtests.state_cases import PLACED_PER_S, RATE_HZ, Callers, audio, callers
from loadtests.state_server import ends_of_calls

LOOK_S = 0.5
SETTLE_S = 2.0
READY_LOOK_S = 0.1
TONES = 8
"""Voices, of which each call has one: making them takes as long as many calls do."""
TURN_COUNTERS = ("turns_total", "turns_missed_total", "turns_late_total", "edge_refused_draining_total")
BEFORE = "before"


@dataclass(frozen=True, slots=True)
class Plan:
    """One load test, checked."""

    calls: int
    gateways: int
    least_s: float
    """Of one call."""
    most_s: float
    seed: int
    values: tuple[str, ...] = ()
    """NAME=VALUE of the chart, beside what it is by itself."""

    def __post_init__(self) -> None:
        if not 1 <= self.calls <= 200:
            raise ValueError(f"--calls {self.calls}: 1 to 200, which one process can pace")
        if not 2 <= self.gateways <= 5:
            raise ValueError(
                f"--gateways {self.gateways}: 2 to 5; one alone has nobody who takes its new calls"
            )
        if not 1 <= self.least_s <= self.most_s:
            raise ValueError(f"--least {self.least_s:g} --most {self.most_s:g}: 1 <= least <= most")
        for value in self.values:
            if "=" not in value:
                raise ValueError(f"--set {value}: expected NAME=VALUE")

    @property
    def chart_values(self) -> dict[str, str]:
        """What the chart is rendered with."""
        room = self.calls + 20  # one gateway has all of them while the others go
        given = {
            "gateway.sip.calls": str(room),
            "gateway.sip.callsPerWorker": str(room),
            "gateway.rtp.ports": str(4 * room),
            "gateway.webrtc.calls": "0",
            "gateway.settings.disclosure": "off",  # tones are to come back from their first one on
            "model.slots": str(room + 8),
        }
        return given | dict(value.split("=", 1) for value in self.values)


@dataclass(slots=True)
class Restart:
    """One pod's: who went, how, and who came."""

    name: str
    live: int
    """Calls that it had when it was to go."""
    live_told: int = 0
    """When it got SIGTERM."""
    ending: Ending = field(default_factory=Ending)
    ready_s: float = 0.0
    """From the start of the next one."""


@dataclass(slots=True)
class Watch:
    """What is seen while it goes on. Times are monotonic seconds."""

    begun_s: float = field(default_factory=time.monotonic)
    phases: list[tuple[float, str]] = field(default_factory=list)
    live: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """By address, of each pod that there has been."""
    counted: dict[str, dict[str, float]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """Of addresses."""

    def phase(self, name: str) -> None:
        """From now on."""
        self.phases.append((time.monotonic(), name))

    def phase_at(self, at_s: float) -> str:
        """Which it was then."""
        return next((name for since_s, name in reversed(self.phases) if since_s <= at_s), BEFORE)

    def know(self, pod: ChartPod) -> str:
        """Its name; of one that replaced another, with how many there were before."""
        if pod.address not in self.names:
            short = pod.name.removeprefix(f"{NAME}-")
            earlier = sum(name.startswith(f"gateway-{short}") for name in self.names.values())
            self.names[pod.address] = f"gateway-{short}" + "'" * earlier
        return self.names[pod.address]

    def look(self, pod: ChartPod) -> None:
        """Its figures of now, if it answers."""
        seen = pod.metrics()
        if seen:
            self.know(pod)
            at_s = time.monotonic() - self.begun_s
            self.live.setdefault(pod.address, []).append((at_s, seen.get("calls_live", 0.0)))
            self.counted[pod.address] = {name: seen.get(name, 0.0) for name in TURN_COUNTERS}


# -- what Kubernetes does


async def roll(release: Release, watch: Watch, ordinal: int) -> Restart:
    """One pod goes, and the next one of its name comes."""
    old = release.pods[ordinal]
    name = watch.know(old)
    watch.phase(f"{name} before SIGTERM")
    restart = Restart(name, int(await asyncio.to_thread(old.figure, "calls_live")))
    going = asyncio.create_task(asyncio.to_thread(old.end, restart.ending))
    while not going.done() and not restart.ending.told_s:
        await asyncio.sleep(READY_LOOK_S)
    restart.live_told = max(0, int(await asyncio.to_thread(old.figure, "calls_live")))
    watch.phase(f"{name} drains")
    await going
    watch.phase(f"{name} is gone")
    new = release.make(ordinal)
    release.pods[ordinal] = new
    begun_s = time.monotonic()
    new.begin()
    await asyncio.to_thread(new.wait_until_ready)
    restart.ready_s = time.monotonic() - begun_s
    watch.phase(f"{watch.know(new)} is ready")
    await asyncio.sleep(new.least_ready_s)
    return restart


async def watched(release: Release, watch: Watch) -> None:
    """Until it is cancelled."""
    while True:
        for pod in list(release.pods):
            await asyncio.to_thread(watch.look, pod)
        await asyncio.sleep(LOOK_S)


# -- calls


class Traffic:
    """Calls that come at the rate at which they end, so that as many are up at any time."""

    def __init__(self, plan: Plan, uri: str, calls: Callers) -> None:
        self._plan, self._uri, self._calls = plan, uri, calls
        self._dice = random.Random(plan.seed)
        self._tones = [numbered_tones(plan.most_s, RATE_HZ, plan.seed + n) for n in range(TONES)]
        self.placed = 0

    def _place(self, seconds: float) -> None:
        pcm = self._tones[self.placed % TONES][: round(seconds * RATE_HZ)]
        self.placed += 1
        self._calls.begin(
            CallPlan(self._uri, "PCMU", pcm, RATE_HZ, seconds=seconds, lead_in_s=0.2, tail_s=1.0)
        )

    async def put_up(self) -> None:
        """As if there had always been calls: each has a part of its length before it."""
        for number in range(self._plan.calls):
            ramp_s = (self._plan.calls - number) / PLACED_PER_S + SETTLE_S
            rest_s = self._dice.uniform(self._plan.least_s / 2, self._plan.most_s)
            self._place(min(ramp_s + rest_s, self._plan.most_s))
            await asyncio.sleep(1 / PLACED_PER_S)

    async def go_on(self) -> None:
        """Until it is cancelled."""
        mean_s = (self._plan.least_s + self._plan.most_s) / 2
        while True:
            self._place(self._dice.uniform(self._plan.least_s, self._plan.most_s))
            await asyncio.sleep(mean_s / self._plan.calls)


async def measure(plan: Plan, folder: Path) -> tuple[dict[str, Any], Watch, list[CallLog]]:
    """Figures without those of sound, what was seen, and the calls."""
    release = Release(folder, plan.chart_values, plan.gateways)
    with release.running():
        async with callers() as calls:
            traffic = await asyncio.to_thread(Traffic, plan, release.uri, calls)
            watch = Watch()
            background = [asyncio.create_task(watched(release, watch))]
            await traffic.put_up()
            background.append(asyncio.create_task(traffic.go_on()))
            await asyncio.sleep(SETTLE_S)
            live = sum([await asyncio.to_thread(pod.figure, "calls_live") for pod in release.pods])
            restarts = [await roll(release, watch, ordinal) for ordinal in reversed(range(plan.gateways))]
            took_s = time.monotonic() - watch.phases[0][0]
            background[1].cancel()
            calls.wind_up()
            logs = await calls.finish()
            await asyncio.sleep(2 * LOOK_S)
            background[0].cancel()
            await asyncio.gather(*background, return_exceptions=True)
        kept = ends_of_calls(**release.redis_arguments())
    figures: dict[str, Any] = {
        "live_at_begin": int(live),
        "took_s": round(took_s, 1),
        "placed": len(logs),
        "placed_meanwhile": sum(watch.phase_at(log.invited_ns / 1e9) != BEFORE for log in logs),
        "answered": sum(log.answered for log in logs),
        "refused": sum(not log.answered for log in logs),
        "statuses": {str(k): n for k, n in sorted(Counter(log.status for log in logs).items())},
        "dropped": sum(log.answered and log.ended_by != "us" for log in logs),
        "restarts": {one.name: _restart(one) for one in restarts},
        "turns": {
            watch.names[address]: {key.removesuffix("_total"): int(n) for key, n in counted.items()}
            for address, counted in watch.counted.items()
        },
        "new_calls": _new_calls(watch, logs),
        "records": kept,
    }
    return figures, watch, logs


def _restart(one: Restart) -> dict[str, Any]:
    ending = one.ending
    return {
        "live": one.live,
        "live_at_sigterm": one.live_told,
        "pre_stop_s": round(ending.told_s - ending.begun_s, 1),
        "drain_s": round(ending.gateway_s - ending.told_s, 1),
        "model_after_gateway_s": round(ending.gone_s - ending.gateway_s, 1),
        "killed": ending.killed,
        "next_ready_s": round(one.ready_s, 1),
    }


def _new_calls(watch: Watch, logs: list[CallLog]) -> dict[str, dict[str, int]]:
    """By phase: how many calls that began in it went to which pod."""
    found: dict[str, Counter[str]] = {
        name: Counter() for name in (BEFORE, *(name for _, name in watch.phases))
    }
    for log in logs:
        where = watch.names.get(log.media_at[0], "unknown") if log.media_at else "nowhere"
        found[watch.phase_at(log.invited_ns / 1e9)][where] += 1
    return {phase: dict(sorted(counted.items())) for phase, counted in found.items()}


# -- command line


def run(plan: Plan, command: str, results: Path = report.RESULTS) -> dict[str, Any]:
    """Measure, and keep what was found."""
    if wanting := lacks():
        raise RuntimeError(f"not installed: {wanting}")
    begun_ns = time.monotonic_ns()
    with tempfile.TemporaryDirectory(prefix="mt-rollout-") as folder, machine.witnessed() as stalls:
        figures, watch, logs = asyncio.run(measure(plan, Path(folder)))
        span = begun_ns, time.monotonic_ns()
    reports = [report_call(log) for log in logs]
    setups = [one.setup_ms for one in reports if one.setup_ms is not None]
    result: dict[str, Any] = {"calls": plan.calls, "gateways": plan.gateways, **figures}
    result |= {"setup_ms": report.percentiles(np.array(setups)), **audio(reports)}
    result["calls_with_gaps"] = sum(one.gap_ms > 0 for one in reports)
    starts = [at_ns / 1e9 for times in report.gap_starts(reports) for at_ns in times]
    result["missing_by_phase"] = dict(Counter(watch.phase_at(at_s) for at_s in sorted(starts)))
    result["machine"] = stalls.figures(span, report.gap_starts(reports))
    row = report.surroundings(command) | report.flatten(result)
    row["new_calls"] = " | ".join(f"{phase}: {counted}" for phase, counted in figures["new_calls"].items())
    row["missing_by_phase"] = str(result["missing_by_phase"])
    apart = ("new_calls.", "missing_by_phase.")
    row = {name: value for name, value in row.items() if not name.startswith(apart)}
    report.append_row(results / "rollout.csv", row)
    _draw(results / "rollout.png", watch, f"rolling restart under {plan.calls} calls, {row['date'][:10]}")
    return result


def _draw(path: Path, watch: Watch, title: str) -> None:
    """Calls of each pod over time; nothing where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 4))
    for address, points in watch.live.items():
        axes.plot(*zip(*points, strict=True), label=watch.names[address])
    for since_s, name in watch.phases:
        at_s = since_s - watch.begun_s
        axes.axvline(at_s, color="black", linewidth=0.6)
        axes.annotate(
            name, (at_s, 0.98), xycoords=("data", "axes fraction"), fontsize=7, rotation=90, va="top"
        )
    axes.set(xlabel="seconds", ylabel="live calls", title=title)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(argv: list[str]) -> int:
    """0 when it could be run; 1 when not; 2 for an operator's mistake. Missed goals are in the figures."""
    parser = argparse.ArgumentParser(prog="python -m loadtests rollout")
    parser.add_argument("--calls", type=int, default=30, help="live at any time")
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--least", type=float, default=10.0, help="seconds of a call, at least")
    parser.add_argument("--most", type=float, default=30.0, help="and at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a value of the chart"
    )
    given = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "loadtests", "rollout", *argv])
    return report.carry_out(
        "rollout",
        lambda: Plan(given.calls, given.gateways, given.least, given.most, given.seed, tuple(given.set)),
        lambda plan: run(plan, command),
    )
