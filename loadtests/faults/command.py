"""The command line of the fault matrix, and its cases one after the other."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gateway.sip.pool import ask_library
from loadtests.faults.browsers import browser_hostile
from loadtests.faults.churn import churn
from loadtests.faults.hostile import hostile, worker_struck
from loadtests.faults.killed import gateway_killed, model_server_killed, sip_worker_killed
from loadtests.faults.outcome import Outcome, Plan
from loadtests.faults.upgraded import model_server_upgraded

CASES: dict[str, Callable[[Plan], Awaitable[Outcome]]] = {
    "model-server-killed": model_server_killed,
    "model-server-upgraded": model_server_upgraded,
    "sip-worker-killed": sip_worker_killed,
    "gateway-killed": gateway_killed,
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
        "--calls", type=int, default=20, help="live when the model server is killed or upgraded"
    )
    parser.add_argument("--churn-calls", type=int, default=200)
    parser.add_argument("--hostile-sip", type=int, default=2000, help="mutated SIP messages")
    parser.add_argument("--hostile-rtp", type=int, default=2000, help="mutated RTP packets at live calls")
    parser.add_argument("--hostile-web", type=int, default=2000, help="mutated offers of browser calls")
    parser.add_argument("--json", action="store_true", help="the last line alone; the others go to stderr")
    given = parser.parse_args(argv)
    cases = tuple(name for name in given.cases.split(",") if name)
    unknown = [name for name in cases if name not in CASES]
    if unknown or not cases:
        raise ValueError(f"--cases {given.cases}: choose from {', '.join(CASES)}")
    if min(given.calls, given.churn_calls) < 1 or min(given.hostile_sip, given.hostile_rtp) < 0:
        raise ValueError("--calls and --churn-calls must be positive")
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
    ), given.json


async def run(plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """All cases, one after the other. A case that cannot be judged is broken, and says why."""
    outcomes = []
    for name in plan.cases:
        try:
            outcome = await CASES[name](plan)
        except (TimeoutError, LookupError, RuntimeError, OSError) as wrong:
            outcome = Outcome(name, broken=[f"{type(wrong).__name__}: {wrong}"])
        tell(outcome.line())
        outcomes.append(outcome)
    return {
        "cases": {o.case: {"held": not o.broken, "broken": o.broken, **o.figures} for o in outcomes},
        "held": [o.case for o in outcomes if not o.broken],
        "broken": [o.case for o in outcomes if o.broken],
        "pjsua2": "wheel" if plan.wheel else "built",
    }


def main(argv: list[str]) -> int:
    """0 when it ran, whatever held; 2 for an operator's mistake."""
    try:
        plan, only_json = parse_arguments(argv)
    except ValueError as error:
        print(f"loadtests faults: {error}", file=sys.stderr)
        return 2
    told = sys.stderr if only_json else sys.stdout
    result = asyncio.run(run(plan, lambda line: print(line, file=told, flush=True)))
    print(json.dumps(result), flush=True)
    return 0
