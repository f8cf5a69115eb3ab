"""`python -m loadtests capacity`: how many calls this machine holds, and what becomes of those beyond.

    more calls, step by step -> a step that does not hold -> as many calls as held, and half as many more -> a herd

A step holds when every call was answered, fewer than 0.1 % of the turns were missed, and 99 % of what was said came
back within 100 ms beyond the chunk. Beyond the limit (admission is told that limit) those who are taken have to be
heard as before, and the others refused at once, with Retry-After. A herd is as many calls in one second.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests import mixed, report
from loadtests.gateway_under_test import GatewayUnderTest
from loadtests.mixed import Load

MOST_MISSED, MOST_DELAY_MS = 0.001, 100.0
MORE = 1.4
"""Calls of a step, times those of the one before."""
BEYOND = 1.5
CASES = {"sip": (1, 0), "webrtc": (0, 1), "mixed": (2, 1)}
"""Telephone calls and browser calls, of three in all or of one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for."""

    case: str
    begin: int
    most: int
    seconds: float
    engine: str

    def __post_init__(self) -> None:
        if not 3 <= self.begin <= self.most or self.seconds <= 0:
            raise ValueError(
                f"--begin {self.begin} --most {self.most}: expected 3 <= begin <= most, and --seconds > 0"
            )

    def load(self, calls: int, ramp: float = 20.0) -> Load:
        """So many in all."""
        sip, webrtc = CASES[self.case]
        phones = calls * sip // (sip + webrtc)
        return Load(phones, calls - phones, self.seconds, ramp)


def main(argv: Sequence[str]) -> int:
    """See `report.carry_out`."""
    parser = argparse.ArgumentParser(prog="python -m loadtests capacity")
    parser.add_argument("--case", choices=CASES, default="mixed")
    parser.add_argument("--begin", type=int, default=20, help="calls of the first step (20)")
    parser.add_argument("--most", type=int, default=400, help="calls of the last step at most (400)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each step, with all calls up (20)")
    parser.add_argument("--engine", default="echo")
    asked = vars(parser.parse_args(argv))
    command = shlex.join(["python", "-m", "loadtests", "capacity", *argv])
    return report.carry_out("capacity", lambda: Plan(**asked), lambda plan: run(plan, command))


def run(plan: Plan, command: str, results: Path = report.RESULTS) -> dict[str, Any]:
    """Measure, and keep what was found."""
    steps: list[dict[str, Any]] = []
    calls, held = plan.begin, 0
    while calls <= plan.most:
        steps.append(asyncio.run(_step(plan, plan.load(calls), room=calls)))
        print(report.table(steps[-1]), flush=True)
        if not steps[-1]["holds"]:
            break
        held, calls = calls, max(calls + 1, round(calls * MORE))
    if not held:
        raise RuntimeError(f"{plan.begin} calls do not hold here: {steps[0]}; try --begin with fewer")
    beyond = asyncio.run(_step(plan, plan.load(round(held * BEYOND)), room=held))
    herd = asyncio.run(_step(plan, plan.load(held, ramp=float(held)), room=held))
    result: dict[str, Any] = {
        "case": plan.case, "engine": plan.engine, "held": held,
        "reached_the_limit": not steps[-1]["holds"],
        "limit_why": steps[-1]["why"],
        "at_limit": next(step for step in reversed(steps) if step["holds"]),
        "beyond": beyond, "herd": herd,
    }  # fmt: skip
    row = report.surroundings(command) | report.flatten(result)
    report.append_row(results / "capacity.csv", row)
    _draw(results / f"capacity-{plan.case}.png", steps, beyond)
    return result


async def _step(plan: Plan, load: Load, room: int) -> dict[str, Any]:
    places = plan.load(room)
    with GatewayUnderTest.start(mixed.wish(places.sip, places.webrtc, plan.engine)) as gateway:
        told = await mixed.place(gateway, load)
    return judged(load.sip + load.webrtc, told)


def judged(calls: int, told: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One step's figures, and whether it holds; `told` by kind."""
    delays = [float(one["delay_ms"]["p99"]) for one in told.values() if one["delay_ms"]["p99"] is not None]
    answered = sum(one["answered"] for one in told.values())
    missed = max(map(mixed.missed_share, told.values()))
    costs = [(one.get("cpu_percent_per_call") or {}).get("total") for one in told.values()]
    # each looks at the whole family of processes: what one kind's calls cost is what all do, by its own number
    of_all = [cost * one["answered"] for cost, one in zip(costs, told.values(), strict=True) if cost]
    why = {
        f"{calls - answered} calls were not answered": answered < calls,
        f"{missed:.2%} of the turns were missed": missed > MOST_MISSED,
        f"99 % came back within {max(delays, default=0.0):.0f} ms": max(delays, default=0.0) > MOST_DELAY_MS,
    }
    return {
        "calls": calls,
        "answered": answered,
        "refused": sum(one["refused"] for one in told.values()),
        "refused_with_retry_after": sum(one["refused_with_retry_after"] for one in told.values()),
        "missed_percent": round(100 * missed, 4),
        "delay_p99_ms": round(max(delays), 1) if delays else None,
        "setup_p99_ms": max(one["setup_ms"]["p99"] or 0.0 for one in told.values()),
        "not_heard_ms": round(sum(one["gap_ms"] for one in told.values()), 1),
        "cpu_percent": round(max(of_all), 1) if of_all else None,
        "holds": not any(why.values()),
        "why": "; ".join(text for text, is_so in why.items() if is_so),
    }


def _draw(path: Path, steps: Sequence[Mapping[str, Any]], beyond: Mapping[str, Any]) -> bool:
    """Delay, missed turns and CPU over calls. False when matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4))
    columns = (
        ("delay_p99_ms", "ms beyond the chunk, p99"),
        ("missed_percent", "turns missed, %"),
        ("cpu_percent", "CPU, % of a core"),
    )
    for axis, (column, title) in zip(axes, columns, strict=True):
        axis.plot([step["calls"] for step in steps], [step[column] or 0 for step in steps], marker="o")
        axis.plot(
            [beyond["calls"]], [beyond[column] or 0], marker="x", color="tab:red", label="beyond the limit"
        )
        axis.set(xlabel="calls", title=title, ylim=(0, None))
    axes[0].axhline(MOST_DELAY_MS, color="black", linestyle=":")
    axes[1].axhline(100 * MOST_MISSED, color="black", linestyle=":")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
