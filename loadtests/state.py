"""`python -m loadtests state`: what becomes of calls and of their state when a part of the cluster is gone.

    --case away     the state server is killed for `--outage` seconds under `--calls` live calls
    --case drain    SIGTERM under `--calls` live calls
    --case killed   two gateways, `--calls` sessions that come and go, all of one gateway killed

Everything is started here and only loopback is called. Last on standard output is one line of JSON; rows and
pictures are kept in `loadtests/results/`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from loadtests import machine, report
from loadtests.state_cases import Found, Plan, away, drain
from loadtests.state_killed import killed

CASES = {"away": away, "drain": drain, "killed": killed}


def main(argv: list[str]) -> int:
    """Run one case. 0 when it could be run; 1 when not; 2 for an operator's mistake. Missed goals are in the
    figures."""
    parser = argparse.ArgumentParser(prog="python -m loadtests state")
    parser.add_argument("--case", choices=sorted(CASES), default="away")
    parser.add_argument("--calls", type=int, default=50, help="live at once; of killed: sessions at once")
    parser.add_argument("--seconds", type=float, default=10.0, help="of live calls before and after")
    parser.add_argument("--outage", type=float, default=30.0, help="of the server; of killed: after the kill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", default="echo")
    plan = Plan(**vars(parser.parse_args(argv)))
    if plan.calls < 2 or plan.seconds <= 0 or plan.outage <= 0:
        print("loadtests state: --calls from 2, --seconds and --outage above 0", file=sys.stderr)
        return 2
    command = shlex.join(["python", "-m", "loadtests", "state", *argv])
    try:
        result = run(plan, command)
    except (OSError, RuntimeError) as wrong:
        print(f"loadtests state: {wrong}", file=sys.stderr)
        return 1
    print(report.table(result))
    print(json.dumps(result), flush=True)
    return 0


def run(plan: Plan, command: str, results: Path = report.RESULTS) -> dict[str, Any]:
    """Measure, and keep what was found."""
    begun_ns = time.monotonic_ns()
    with machine.witnessed() as stalls:
        found = asyncio.run(CASES[plan.case](plan))
    result: dict[str, Any] = {"case": plan.case, "sessions_at_once": plan.calls, **found.figures}
    span = begun_ns, time.monotonic_ns()
    result["machine"] = stalls.figures(span, report.gap_starts(found.reports))
    result |= {"seconds": plan.seconds, "outage": plan.outage, "engine": plan.engine}
    row = report.surroundings(command) | report.flatten(result)
    report.append_row(results / f"state-{plan.case}.csv", row)
    _draw(results / f"state-{plan.case}.png", found, f"{plan.case}: {plan.calls} calls, {row['date'][:10]}")
    return result


def _draw(path: Path, found: Found, title: str) -> None:
    """The series over time; nothing where matplotlib is not installed."""
    if not found.series or importlib.util.find_spec("matplotlib") is None:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.5))
    for name, points in found.series.items():
        axes.plot([at_s for at_s, _ in points], [value for _, value in points], label=name)
    for name, at_s in found.marks.items():
        if not name.endswith("_ns"):
            axes.axvline(at_s, color="black", linewidth=0.8)
            axes.annotate(name, (at_s, 0.95), xycoords=("data", "axes fraction"), fontsize=8)
    axes.set(xlabel="seconds", title=title)
    axes.legend(loc="best")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
