"""`python -m loadtests scrape`: what a look at `/metrics` costs, and whether its length depends on calls.

    a gateway of our own -> looks at it without a call, with half of the real ones, with all of them
    in this process      -> the same object, fed as the workers of so many calls feed it: none, a tenth, all

`live_...` is of real calls through a real gateway, over HTTP, the question to the model server included: as many
as this machine takes (`--live`); who looks paces the calls, too. `fed_...` is of no calls: counters, lines' figures
and every part that a gateway can have are as large as so many calls make them, and what is timed is making the text
of it. Last on standard output is one line of JSON; a row is kept in `loadtests/results/scrape.csv`, with a plot.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import importlib.util
import shlex
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from gateway import catalogue
from gateway.figures import Quality
from gateway.histogram import ROUND_TRIP, Histogram
from gateway.metrics import Metrics
from gateway.model_control import ask_model
from gateway.state.records import Figures
from loadtests import report
from loadtests.faults.calls import live_calls
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish

CALLS_OF_WORKER: Final = 100
"""Of a process with the pjsua2 of `make pjsip`."""
GOAL_MS: Final = 50.0
PAUSE_S: Final = 0.1
MOST_LIVE: Final = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """One load test. Raises ValueError for what cannot be run."""

    calls: int
    live: int
    looks: int

    def __post_init__(self) -> None:
        if self.calls < 10 or self.looks < 1:
            raise ValueError("--calls must be 10 or more, and --looks positive")
        if not 2 <= self.live <= MOST_LIVE:
            raise ValueError(f"--live {self.live}: from 2 to {MOST_LIVE}, which one process can pace")


def main(argv: list[str]) -> int:
    """See `report.carry_out`."""
    parser = argparse.ArgumentParser(prog="python -m loadtests scrape")
    parser.add_argument("--calls", type=int, default=500, help="whose figures the metrics are fed with")
    parser.add_argument("--live", type=int, default=60, help="real calls through a gateway")
    parser.add_argument("--looks", type=int, default=100, help="of each kind")
    asked = vars(parser.parse_args(argv))
    command = shlex.join(["python", "-m", "loadtests", "scrape", *argv])
    return report.carry_out("scrape", lambda: Plan(**asked), lambda plan: run(plan, command))


def run(plan: Plan, command: str, results: Path = report.RESULTS) -> dict[str, Any]:
    """Measure, and keep what was found."""
    looks, stats = asyncio.run(measure_live(plan))
    looks |= measure_fed(plan, stats)
    fed = f"fed_{plan.calls}"
    result: dict[str, Any] = {
        "calls": plan.calls,
        "live_calls": plan.live,
        "scrape_ms": {name: report.percentiles(look.took_ms) for name, look in looks.items()},
        "series": {name: look.series for name, look in looks.items()},
        "bytes": {name: look.bytes for name, look in looks.items()},
        "live_series_equal": len({look.series for name, look in looks.items() if name.startswith("live")})
        == 1,
        "fed_series_equal": len({look.series for name, look in looks.items() if name.startswith("fed")}) == 1,
        "report_ms": round(time_reports(plan.calls), 3),
        "goal_ms": GOAL_MS,
        "within_goal": bool(np.percentile(looks[fed].took_ms, 99) < GOAL_MS),
    }
    row = report.surroundings(command) | report.flatten(result)
    report.append_row(results / "scrape.csv", row)
    draw(results / "scrape.png", looks)
    return result


class Look:
    """Several looks at one state."""

    def __init__(self, read: Callable[[], bytes], looks: int, pause_s: float = 0.0) -> None:
        took: list[float] = []
        for _ in range(looks):
            began = time.perf_counter()
            text = read()
            took.append(1e3 * (time.perf_counter() - began))
            time.sleep(pause_s)
        self.took_ms = np.array(took)
        self.bytes = len(text)
        self.series = sum(1 for line in text.splitlines() if line and not line.startswith(b"#"))


# -- real calls


async def measure_live(plan: Plan) -> tuple[dict[str, Look], dict[str, Any]]:
    """By name; and what the model server tells at the end."""
    found: dict[str, Look] = {}
    span_s = plan.looks * (PAUSE_S + 0.05)
    with GatewayUnderTest.start(GatewayWish(plan.live)) as gateway:

        def read() -> bytes:
            with urllib.request.urlopen(f"{gateway.http}/metrics", timeout=10.0) as answer:
                return bytes(answer.read())

        async def look(calls: int) -> None:
            await asyncio.to_thread(gateway.wait_for, lambda m: m["microturn_calls_live"] == calls)
            found[f"live_{calls}"] = await asyncio.to_thread(Look, read, plan.looks, PAUSE_S)

        await asyncio.sleep(1.5)  # every worker has reported
        await look(0)
        async with live_calls(gateway) as calls:
            half = plan.live // 2
            await calls.place(half, 2 * span_s + 15)
            await look(half)
            await calls.place(plan.live - half, span_s + 5)
            await look(plan.live)
            stats = await ask_model(gateway.run_dir / "model.sock")
            await calls.finish()
    return found, stats or {}


# -- calls that are fed


def measure_fed(plan: Plan, stats: dict[str, Any]) -> dict[str, Look]:
    """By name."""
    found = {}
    for calls in (0, plan.calls // 10, plan.calls):
        metrics = fed(calls, stats)
        found[f"fed_{calls}"] = Look(metrics.text, plan.looks)
    return found


def reports(calls: int) -> list[dict[str, int]]:
    """What the workers of so many telephone calls report after a minute of them."""
    rng, told = np.random.default_rng(1), []
    for first in range(0, calls, CALLS_OF_WORKER):
        here = min(CALLS_OF_WORKER, calls - first)
        quality = Quality("telephone")
        for _ in range(here):
            lost = int(rng.integers(0, 200))
            quality.note(
                Figures(
                    codec="PCMU", turns=300, packets=3_000 - lost, lost_packets=lost, loss=lost / 3_000,
                    jitter_ms=float(rng.exponential(5)), delay_ms=float(rng.uniform(10, 90)),
                    mos=float(rng.uniform(2, 4.4)), concealed_ms=int(rng.integers(0, 3_000)),
                )
            )  # fmt: skip
        told.append(
            {name: here * int(rng.integers(1, 1_000)) for name in catalogue.OF_WORKERS} | quality.report()
        )
    return told


def fed(calls: int, stats: Mapping[str, Any]) -> Metrics:
    """The main process's, with every part that there can be."""
    metrics = Metrics()
    for told in reports(calls):
        metrics.count({}, told)
    metrics.model = dict(stats)
    metrics.histograms = (Histogram("state.round_trip", ROUND_TRIP),)
    parts: dict[str, list[str]] = {}
    for family in catalogue.families("gateway"):
        for source in family.sources:
            if source == "predicted_free_calls":  # what the others make
                continue
            if family.kind == "gauge":
                metrics.gauges[f"{source}:crm" if family.listed else source] = 3.0 * calls
            elif family.kind == "counter" and "." in source and not source.startswith("model."):
                part, _, field = source.partition(".")
                parts.setdefault(f"{part}:crm" if family.listed else part, []).append(field)
    for part, fields in parts.items():
        made = dataclasses.make_dataclass("Counters", [(field, int) for field in fields])
        metrics.parts[part] = made(*([7 * calls] * len(fields)))
    return metrics


def time_reports(calls: int) -> float:
    """Milliseconds that one second's reports of all workers take to be added, the least of ten."""
    metrics, told, took = Metrics(), reports(calls), []
    for _ in range(10):
        began = time.perf_counter()
        for each in told:
            metrics.count(each, each)
        took.append(1e3 * (time.perf_counter() - began))
    return min(took)


def draw(path: Path, looks: Mapping[str, Look]) -> bool:
    """What looks took, each kind a line. False when matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (took, length) = pyplot.subplots(1, 2, figsize=(11, 4), width_ratios=(2, 1))
    for name, look in looks.items():
        share = np.arange(1, len(look.took_ms) + 1) / len(look.took_ms)
        took.plot(np.sort(look.took_ms), share, label=name.replace("_", ", calls: "))
    took.axvline(GOAL_MS, color="black", linestyle=":", label="goal")
    took.set(xlabel="ms a look", ylabel="share of looks", xscale="log", title="Looks at /metrics")
    took.legend()
    names = [name.replace("_", "\n") for name in looks]
    length.bar(names, [look.series for look in looks.values()])
    length.set(title="Series")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
