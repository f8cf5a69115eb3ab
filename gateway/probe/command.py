"""`microturn probe`: one probe call by hand, and the same in a process of the gateway's."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from gateway.caller.calls import Caller
from gateway.probe.place import Outcome, plan, probe
from gateway.probe.score import is_installed

ADDRESS = "probe.uri"
"""File in `run_dir`: what a probe of this gateway calls."""
SCORING_NICE = 10
"""Live calls have the CPU first."""


def run_probe(
    uri: str,
    run_dir: Path,
    codec: str,
    *,
    as_json: bool,
    realtime: bool = False,
    caller: type[Caller] = Caller,
) -> int:
    """Call `uri`, or the gateway of `run_dir` where it is empty, and print score, delay and loss; the last line on
    standard output is one JSON object if `as_json`. `realtime` as in `place.probe`. Returns 0 when there is a
    score, 1 when there is none, 2 for an operator's mistake, said on standard error."""
    try:
        if not is_installed():
            raise ValueError("package pesq is not installed: pip install 'microturn[probe]'")
        target = uri or _address(run_dir)
        plan(target, codec)
    except (OSError, ValueError) as wrong:
        print(f"microturn probe: {wrong}", file=sys.stderr)
        return 2
    try:
        outcome = asyncio.run(_until_told(target, codec, caller, realtime))
    except asyncio.CancelledError:  # hung up: somebody needs the place
        return 1
    print(summary(outcome))
    if as_json:
        print(json.dumps(asdict(outcome)))
    return 0 if outcome.reason is None else 1


def summary(outcome: Outcome) -> str:
    """A line or two for a person."""
    if outcome.reason is not None:
        return f"{outcome.codec}: no score: {outcome.reason}, {outcome.detail}"
    return (
        f"{outcome.codec}: PESQ {outcome.mos or 0:.2f} (MOS-LQO), round trip {outcome.delay_ms or 0:.0f} ms, "
        f"missing {outcome.missing or 0:.1%} of the speech, lost {outcome.lost or 0:.1%} of the packets, "
        f"answered in {outcome.setup_ms or 0:.0f} ms"
    )


async def _until_told(uri: str, codec: str, caller: type[Caller], realtime: bool) -> Outcome:
    """SIGTERM hangs up."""
    here = asyncio.current_task()
    assert here is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, here.cancel)
    return await probe(uri, codec, caller, realtime=realtime, scoring_nice=SCORING_NICE)


def _address(run_dir: Path) -> str:
    try:
        return (run_dir / ADDRESS).read_text().strip()
    except FileNotFoundError:
        raise ValueError(
            f"no gateway with an engine for probes has its run_dir at {run_dir}: start one with [engines.echo], "
            'engine = "echo" (or give its run_dir), or give the address of one that echoes, such as sip:HOST:5060'
        ) from None
