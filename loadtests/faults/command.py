"""The command line of the fault matrix, and its cases one after the other."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from gateway.sip.pool import ask_library
from loadtests import machine, report
from loadtests.faults import matrix
from loadtests.faults.browsers import browser_hostile
from loadtests.faults.churn import churn
from loadtests.faults.clock import clock_jump
from loadtests.faults.disk import disk_full
from loadtests.faults.hostile import hostile, worker_struck
from loadtests.faults.killed import gateway_killed, model_server_killed, sip_worker_killed
from loadtests.faults.network import flood, network_partition
from loadtests.faults.outcome import Outcome, Plan
from loadtests.faults.slots import slot_corrupted
from loadtests.faults.stalled import (
    gateway_stalled,
    model_server_stalled,
    model_slow,
    sip_worker_stalled,
)
from loadtests.faults.state import redis_slow
from loadtests.faults.upgraded import model_server_upgraded

WHOLE = 10
"""So many cases in one run are a matrix, which is drawn and shown on the page of results."""
STALLS_S, SHORT_STALLS_S = (1.0, 10.0), (1.0,)

CASES: dict[str, Callable[[Plan], Awaitable[Outcome]]] = {
    "model-server-killed": model_server_killed,
    "model-server-upgraded": model_server_upgraded,
    "sip-worker-killed": sip_worker_killed,
    "gateway-killed": gateway_killed,
    "model-server-stalled": model_server_stalled,
    "model-slow": model_slow,
    "sip-worker-stalled": sip_worker_stalled,
    "gateway-stalled": gateway_stalled,
    "slot-corrupted": slot_corrupted,
    "network-partition": network_partition,
    "flood": flood,
    "redis-slow": redis_slow,
    "disk-full": disk_full,
    "clock-jump": clock_jump,
    "hostile": hostile,
    "worker-struck": worker_struck,
    "churn": churn,
    "browser-hostile": browser_hostile,
}


# -- command line


def parse_arguments(argv: Sequence[str]) -> tuple[Plan, bool]:
    """The plan, and whether only JSON is wanted. Raises ValueError with what to do instead."""
    parser = argparse.ArgumentParser(prog="python -m loadtests faults")
    parser.add_argument("--cases", default=",".join(CASES), help="of " + ", ".join(CASES))
    parser.add_argument(
        "--calls", type=int, default=20, help="live at once, where a case has no number of its own"
    )
    parser.add_argument("--churn-calls", type=int, default=200)
    parser.add_argument("--hostile-sip", type=int, default=2000, help="mutated SIP messages")
    parser.add_argument("--hostile-rtp", type=int, default=2000, help="mutated RTP packets at live calls")
    parser.add_argument("--hostile-web", type=int, default=2000, help="mutated offers of browser calls")
    parser.add_argument("--strangers-per-s", type=float, default=20_000.0, help="their RTP packets, of flood")
    parser.add_argument("--short", action="store_true", help="of stalls and outages the short ones alone")
    parser.add_argument("--json", action="store_true", help="the last line alone; the others go to stderr")
    given = parser.parse_args(argv)
    cases = tuple(name for name in given.cases.split(",") if name)
    unknown = [name for name in cases if name not in CASES]
    if unknown or not cases:
        raise ValueError(f"--cases {given.cases}: choose from {', '.join(CASES)}")
    if min(given.calls, given.churn_calls) < 1 or min(given.hostile_sip, given.hostile_rtp) < 0:
        raise ValueError("--calls and --churn-calls must be positive")
    if given.strangers_per_s <= 0:
        raise ValueError(f"--strangers-per-s {given.strangers_per_s:g}: above 0")
    if given.hostile_web < 20:
        raise ValueError(f"--hostile-web {given.hostile_web}: at least 20, of each class one")
    if given.calls > 60:
        raise ValueError(f"--calls {given.calls}: at most 60, which one process can pace beside the rest")
    wheel = ask_library().is_wheel
    return Plan(
        cases,
        given.calls,
        given.churn_calls,
        given.hostile_sip,
        given.hostile_rtp,
        wheel,
        given.hostile_web,
        SHORT_STALLS_S if given.short else STALLS_S,
        given.strangers_per_s,
    ), given.json


async def run(plan: Plan, tell: Callable[[Outcome], None]) -> list[Outcome]:
    """All cases, one after the other. A case that cannot be judged is broken, and says why."""
    outcomes = []
    for name in plan.cases:
        begin_ns = time.monotonic_ns()
        with machine.witnessed() as stalls:
            try:
                outcome = await CASES[name](plan)
            except (TimeoutError, LookupError, RuntimeError, OSError) as wrong:
                outcome = Outcome(name, broken=[f"{type(wrong).__name__}: {wrong}"])
        found = stalls.figures((begin_ns, time.monotonic_ns()), outcome.gap_starts_ns)
        outcome.figures.setdefault("machine", found)
        tell(outcome)
        outcomes.append(outcome)
    return outcomes


def promise_of(case: str) -> str:
    """What has to hold: the first line of what is written at the case."""
    return (CASES[case].__doc__ or "").split("\n", 1)[0].strip() if case in CASES else ""


def main(argv: list[str], results: Path = report.RESULTS) -> int:
    """0 when it ran, whatever held; 2 for an operator's mistake. Rows and a picture are kept in `results`."""
    try:
        plan, only_json = parse_arguments(argv)
    except ValueError as error:
        print(f"loadtests faults: {error}", file=sys.stderr)
        return 2
    told = sys.stderr if only_json else sys.stdout
    about = report.surroundings(shlex.join(["python", "-m", "loadtests", "faults", *argv]))

    def tell(outcome: Outcome) -> None:
        print(outcome.line(), file=told, flush=True)
        report.append_row(
            results / "faults.csv", about | matrix.row_of(outcome, len(plan.cases), promise_of(outcome.case))
        )

    outcomes = asyncio.run(run(plan, tell))
    print(matrix.table(outcomes), file=told)
    if len(outcomes) >= WHOLE:
        matrix.draw(results / "faults.png", outcomes, f"{plan.calls} calls, {about['date'][:10]}")
    print(json.dumps(matrix.result_of(outcomes, plan.wheel)), flush=True)
    return 0
