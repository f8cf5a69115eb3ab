"""`python -m loadtests webrtc`: many browser calls at once, with what they cost and how they sounded.

    idle sample -> ramp -> all calls up: sample -> S seconds -> sample -> all hang up -> analysis -> figures

The callers live in processes of their own (`loadtests.webrtc_generator`). `--baseline` does the same work on aiortc
as it comes after the gateway, with the same callers, as a second column and a second row. Only loopback is called:
this is no tool to load other people's machines with.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

from loadtests import machine, processes, report, webrtc_figures
from loadtests.webrtc_generator import GeneratorPlan, GeneratorResult, Schedule, work
from loadtests.webrtc_media import VOICE_S
from loadtests.webrtc_systems import BASELINE, System, started_baseline, started_gateway, system_at

DATA = Path(__file__).parents[2] / "shared/data"  # beside the checkout
SPEECH = DATA / "speech/connected_digits"
CLIP = DATA / "video/foreman.mp4"
VOICES = 4  # different ones at most; calls of the same voice are at different places of it
SETTLE_S = 2.0  # from the last offer to the steady state
BEGIN_S = 0.3  # from the word to the first offer
PREPARE_TIMEOUT_S = 120.0
FINISH_TIMEOUT_S = 120.0  # for hanging up and handing over, after the end


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One load test, checked. Raises ValueError for what must not or cannot be run."""

    calls: int
    seconds: float  # of steady state
    target: str  # URL, or "" to start a gateway
    pid: int | None
    metrics_url: str
    token: str
    engine: str
    settings: dict[str, str]  # MICROTURN_* of the gateway that is started, without the prefix
    baseline: bool
    video: bool
    loss: float
    ptime: int
    ramp: float  # calls per second
    generators: int
    play: Path | None
    tones: bool
    channel: bool
    seed: int
    results: Path

    def __post_init__(self) -> None:
        if self.calls < 1 or self.seconds <= 0 or self.ramp <= 0 or self.generators < 1:
            raise ValueError("--calls, --seconds, --ramp and --generators must be positive")
        if not 0 <= self.loss < 1:
            raise ValueError(f"--loss {self.loss} is no part of one; 0.02 drops 2 % of the packets")
        if self.video and not CLIP.exists():
            raise ValueError(f"--video needs {CLIP}")
        if self.play is not None and not self.play.exists():
            raise ValueError(f"--play {self.play} does not exist")
        if self.target:
            system_at(self.target, self.pid)

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.calls, self.ramp, SETTLE_S, self.seconds)

    @property
    def sounds(self) -> Path | None:
        """What is played; None for numbered tones."""
        if self.tones:
            return None
        return self.play or (SPEECH if SPEECH.is_dir() else None)


def main(argv: list[str]) -> int:
    """Run one load test. 0 when a call of each system was answered; 1 when not; 2 for an operator's mistake.
    Missed goals are in the figures."""
    try:
        plan = parse_arguments(argv)
    except ValueError as error:
        print(f"loadtests webrtc: {error}", file=sys.stderr)
        return 2
    command = shlex.join(["python", "-m", "loadtests", "webrtc", *argv])
    try:
        results = run(plan, command)
    except (OSError, RuntimeError) as error:
        print(f"loadtests webrtc: {error}", file=sys.stderr)
        return 1
    print(webrtc_figures.side_by_side(results))
    first, *others = results.values()
    baseline = {"baseline": results[BASELINE]} if others else {}
    print(json.dumps(first | baseline), flush=True)
    return 0 if all(result["answered"] for result in results.values()) else 1


def parse_arguments(argv: list[str]) -> LoadPlan:
    """Arguments as a plan. Raises ValueError with what to do instead."""
    parser = argparse.ArgumentParser(prog="python -m loadtests webrtc")
    add = parser.add_argument
    add("--calls", type=int, default=10)
    add("--seconds", type=float, default=20.0, help="steady state with all calls up")
    add(
        "--target",
        default="",
        metavar="URL",
        help="call this (a page's URL or that of WHIP); start no gateway",
    )
    add("--pid", type=int, help="with --target: the process whose family is measured")
    add("--metrics-url", default="", help="with --target: its Prometheus endpoint, else /metrics")
    add("--token", default="", help="bearer token of the API")
    add("--engine", default="echo", help="for the gateway that is started")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="setting of that gateway")
    add("--baseline", action="store_true", help="then the same on aiortc as it comes")
    add("--video", action="store_true", help="with a camera: 640x480, 15 frames a second, VP8")
    add("--loss", type=float, default=0.0, help="part of the callers' packets that never leave, such as 0.02")
    add("--ptime", type=int, default=20, choices=(20, 40), help="ms of sound in a packet")
    add("--ramp", type=float, default=5.0, help="calls per second")
    add("--generators", type=int, default=1, help="processes that the callers live in")
    add("--play", type=Path, help="sound file or directory; default: speech, if there is any")
    add("--tones", action="store_true", help="say numbered tones instead")
    add("--no-channel", dest="channel", action="store_false", help="open no data channel")
    add("--seed", type=int, default=1)
    add("--results", type=Path, default=report.RESULTS, help="folder of the CSV file and the plots")
    arguments = vars(parser.parse_args(argv))
    settings = [item.partition("=") for item in arguments.pop("set")]
    if wrong := [name for name, equals, _ in settings if not equals]:
        raise ValueError(f"--set {wrong[0]} is not NAME=VALUE")
    return LoadPlan(settings={name.lower(): value for name, _, value in settings}, **arguments)


def run(plan: LoadPlan, command: str) -> dict[str, dict[str, Any]]:
    """Measure each system in turn and keep the results, by its name. Raises RuntimeError when one does not come
    up, or the callers fail."""
    results = {}
    with _first_system(plan) as system:
        results[system.name] = _measure_and_keep(plan, system, command)
    if plan.baseline:
        with started_baseline() as system:
            results[system.name] = _measure_and_keep(plan, system, command)
    return results


def _first_system(plan: LoadPlan) -> contextlib.AbstractContextManager[System]:
    if plan.target:
        return contextlib.nullcontext(system_at(plan.target, plan.pid, plan.metrics_url))
    return started_gateway(plan.calls, plan.engine, plan.settings)


def _measure_and_keep(plan: LoadPlan, system: System, command: str) -> dict[str, Any]:
    begun_ns = time.monotonic_ns()
    with machine.witnessed() as stalls:
        measured = measure(plan, system)
    span = begun_ns, time.monotonic_ns()
    reports = webrtc_figures.report_calls(measured.logs, measured.voices)
    for reason in sorted({log.reason for log in measured.logs if log.reason}):
        print(f"loadtests webrtc: {system.name}: {reason}", file=sys.stderr)
    result = webrtc_figures.figures(measured, reports)
    result["machine"] = stalls.figures(span, report.gap_starts(reports))
    result |= {"system": system.name, "calls": plan.calls, "seconds": plan.seconds, "engine": plan.engine}
    result |= {"ptime_ms": plan.ptime, "loss": plan.loss, "camera": plan.video}
    row = report.surroundings(command) | report.flatten(result)
    report.append_row(plan.results / "webrtc.csv", row)
    name = "-".join(
        ["webrtc", system.name, str(plan.calls)] + ["video"] * plan.video + ["loss"] * bool(plan.loss)
    )
    report.draw(
        plan.results / f"{name}.png",
        reports,
        f"{plan.calls} browser calls, {system.name}, {row['date'][:10]}",
    )
    return result


# -- the run


def measure(plan: LoadPlan, system: System) -> webrtc_figures.SystemRun:
    """All calls of one system, and what it used. Raises RuntimeError when the callers fail."""
    schedule = plan.schedule
    with generators(plan, system) as children:
        for _, child in children:
            _expect(child, PREPARE_TIMEOUT_S, str)
        idle = _sample(system)
        before = system.metrics()
        begin_ns = time.monotonic_ns() + round(BEGIN_S * 1e9)
        for _, child in children:
            child.send(begin_ns)
        first, first_s = _sample_at(system, begin_ns / 1e9 + schedule.steady_s)
        last, last_s = _sample_at(system, begin_ns / 1e9 + schedule.end_s)
        after = system.metrics()
        found = [_expect(child, FINISH_TIMEOUT_S, GeneratorResult) for _, child in children]
    costs = None
    if idle and first and last:
        grown_mb = processes.grown_mb(idle, last)
        costs = report.Costs(last_s - first_s, processes.usage_by_kind(first, last), grown_mb)
    counted = [webrtc_figures.parse_counters(text) for text in (before, after)]
    return webrtc_figures.SystemRun(
        name=system.name,
        logs=sorted((log for one in found for log in one.logs), key=lambda log: log.index),
        voices=found[0].voices,
        costs=costs,
        turns=report.turns_between(report.parse_turns(before), report.parse_turns(after)),
        counted=webrtc_figures.counted_between(*counted),
        generator_cpu_s=sum(one.steady_cpu_s for one in found),
        generator_late_ms=max(one.max_late_ms for one in found),
    )


@contextlib.contextmanager
def generators(plan: LoadPlan, system: System) -> Iterator[list[tuple[SpawnProcess, Connection]]]:
    """The callers' processes; ended when the block is left."""
    context = multiprocessing.get_context("spawn")
    children: list[tuple[SpawnProcess, Connection]] = []
    count = min(plan.generators, plan.calls)
    try:
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=work, args=(_generator_plan(plan, system, number, count), theirs)
            )
            process.start()
            theirs.close()
            children.append((process, ours))
        yield children
    finally:
        for process, ours in children:
            ours.close()
            process.join(5.0)
            process.kill()
            process.join()


def _generator_plan(plan: LoadPlan, system: System, number: int, count: int) -> GeneratorPlan:
    return GeneratorPlan(
        schedule=plan.schedule,
        first=number,
        step=count,
        whip_url=system.whip_url,
        token=plan.token,
        sounds=plan.sounds,
        clip=CLIP if plan.video else None,
        voices=min(VOICES, plan.calls),
        voice_s=VOICE_S,
        ptime_ms=plan.ptime,
        loss=plan.loss,
        seed=plan.seed,
        channel=plan.channel,
    )


def _expect(child: Connection, timeout_s: float, kind: type[T]) -> T:
    """The next word of a generator. Raises RuntimeError when it is another, or none."""
    try:
        said = child.recv() if child.poll(timeout_s) else "said nothing in time"
    except EOFError:
        said = "ended early"
    if not isinstance(said, kind) or (isinstance(said, str) and said != "ready"):
        raise RuntimeError(f"a generator failed: {said}")
    return said


def _sample(system: System) -> list[processes.ProcessSample]:
    return processes.sample(system.pid) if system.pid is not None else []


def _sample_at(system: System, at_s: float) -> tuple[list[processes.ProcessSample], float]:
    """A sample at a monotonic time, and when it was taken."""
    time.sleep(max(0.0, at_s - time.monotonic()))
    return _sample(system), time.monotonic()
