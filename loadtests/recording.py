"""`python -m loadtests recording`: what it costs to record calls, in the same processes and minutes as the same
calls that are not recorded.

    idle -> as often as --rounds: calls that are not recorded, the same calls recorded -> figures

A rule allows recording by the number that is called, so one gateway has both, and the machine's good and bad
minutes fall on both alike. CPU of gateway main and workers is counted, beyond what they use when nobody calls.
Beside that stand the parts by themselves: the writer's thread by its own clock, the tape in this process. On a
busy machine they are the better figure, since the difference of two loads is smaller than its noise. What
finishing costs afterwards (WAV or Opus, at nice 15) is the keeper's, and told apart. Last on standard output is one
line of JSON; a row is kept in `loadtests/results/recording.csv`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gateway.caller.calls import Caller, CallPlan
from gateway.caller.report import CHUNK_MS, CallReport, report_call
from gateway.caller.signals import numbered_tones
from gateway.priority import keeping_time
from loadtests import machine, processes, report
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from media.tape import Tape

RATE_HZ = 8_000
PLACED_PER_S = 10.0
SETTLE_S, TAIL_S, PAUSE_S = 1.5, 2.0, 3.0
RECORDED, PLAIN = "100", "101"
KEY = "hGUNxVVHBBlxbQJ6H5k7rpGsmzdMBNBcs7ZQsBIiwxE="  # of a test: nothing that it encrypts is worth anything
KINDS = ("gateway", "sip-worker")


@dataclass(frozen=True, slots=True)
class Plan:
    """One load test. Raises ValueError for what cannot be run."""

    calls: int
    seconds: float
    rounds: int
    form: str
    encryption: str
    engine: str

    def __post_init__(self) -> None:
        if self.calls < 1 or self.seconds <= 0 or self.rounds < 1:
            raise ValueError("--calls, --seconds and --rounds must be positive")
        if self.calls > 60:
            raise ValueError(f"--calls {self.calls}: at most 60, which one process can pace beside the rest")


@dataclass(frozen=True, slots=True)
class Span:
    """A time with so many calls up, and what it cost."""

    seconds: float
    cpu_s: float
    reports: list[CallReport]


def main(argv: list[str]) -> int:
    """See `report.carry_out`."""
    parser = argparse.ArgumentParser(prog="python -m loadtests recording")
    parser.add_argument("--calls", type=int, default=8, help="live at once")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each span")
    parser.add_argument("--rounds", type=int, default=3, help="spans of each kind")
    parser.add_argument("--form", choices=("wav", "opus"), default="wav")
    parser.add_argument("--encryption", choices=("on", "off"), default="on")
    parser.add_argument("--engine", default="echo")
    asked = vars(parser.parse_args(argv))
    command = shlex.join(["python", "-m", "loadtests", "recording", *argv])
    return report.carry_out("recording", lambda: Plan(**asked), lambda plan: run(plan, command))


def run(plan: Plan, command: str, results: Path = report.RESULTS) -> dict[str, Any]:
    """Measure, and keep what was found."""
    begun_ns = time.monotonic_ns()
    with machine.witnessed() as stalls, tempfile.TemporaryDirectory(prefix="microturn-load-") as folder:
        result, reports = asyncio.run(measure(plan, Path(folder)))
    result["machine"] = stalls.figures((begun_ns, time.monotonic_ns()), report.gap_starts(reports))
    report.append_row(results / "recording.csv", report.surroundings(command) | report.flatten(result))
    return result


async def measure(plan: Plan, folder: Path) -> tuple[dict[str, Any], list[CallReport]]:
    """The figures, and the calls."""
    settings = {
        "rules": json.dumps([{"called": RECORDED, "recording": True}, {"called": PLAIN}]),
        "recording_dir": str(folder / "calls"), "recording_format": plan.form,
        "recording_encryption": plan.encryption, "recording_key": KEY, "log_level": "info",
    }  # fmt: skip
    spans: dict[str, list[Span]] = {PLAIN: [], RECORDED: []}
    with GatewayUnderTest.start(GatewayWish(plan.calls, plan.engine, settings=settings)) as gateway:
        pid = gateway.only("up").pid
        await asyncio.sleep(PAUSE_S)
        idle = await _idle(pid, plan.seconds)
        begun = await asyncio.to_thread(processes.sample, pid)
        for at in range(2 * plan.rounds):  # one goes first in every second round
            number = (PLAIN, RECORDED)[(at + at // 2) % 2]
            spans[number].append(await _calls(gateway, plan, number, pid))
            await asyncio.sleep(PAUSE_S)
        await asyncio.to_thread(
            gateway.wait_for,
            lambda m: m["microturn_recordings_kept_finished_total"] == plan.calls * plan.rounds, 60.0,
        )  # fmt: skip
        ended = await asyncio.to_thread(processes.sample, pid)
        metrics = await asyncio.to_thread(gateway.metrics)
    kept = processes.usage_by_kind(begun, ended).get("recordings")
    per_call = {number: _per_call(some, idle, plan.calls) for number, some in spans.items()}
    more = per_call[RECORDED] - per_call[PLAIN]
    tape_s = _tape_cpu_s()
    recorded_s = metrics["microturn_recordings_written_bytes_total"] / (4 * RATE_HZ)
    return (
        {
            "calls": plan.calls,
            "seconds": plan.seconds,
            "rounds": plan.rounds,
            "form": plan.form,
            "encryption": plan.encryption,
            "engine": plan.engine,
            "idle_cpu_percent": round(100 * idle, 3),
            "cpu_percent_per_call": {
                "plain": round(100 * per_call[PLAIN], 4),
                "recorded": round(100 * per_call[RECORDED], 4),
                "more": round(100 * more, 4),
            },
            "cpu_percent_by_parts": {
                "tape": round(100 * tape_s, 4),
                "writer": round(metrics["microturn_recordings_cpu_seconds_total"] * 100 / recorded_s, 4),
            },
            "ratio": round(per_call[RECORDED] / per_call[PLAIN], 3),
            "ratios_of_rounds": [
                round(_per_call([b], idle, plan.calls) / _per_call([a], idle, plan.calls), 3)
                for a, b in zip(spans[PLAIN], spans[RECORDED], strict=True)
            ],
            "finishing_cpu_percent_of_recorded_time": round(
                100 * (kept.cpu_s if kept else 0.0) / recorded_s, 3
            ),
            "recorded_s": round(recorded_s, 1),
            "samples_dropped": _samples(metrics, "dropped", "refused"),
            "samples_late": _samples(metrics, "heard_late", "said_late"),
            "syncs_slow": metrics["microturn_recordings_syncs_slow_total"],
            "plain": _heard(spans[PLAIN]),
            "recorded": _heard(spans[RECORDED]),
            "turns_missed": metrics["microturn_turns_missed_total"],
        },
        [one for some in spans.values() for span in some for one in span.reports],
    )


def _tape_cpu_s(turns: int = 1_000) -> float:
    """What laying both sides on one clock takes, CPU seconds a second of a call: in this process, alone."""
    tape, frame = Tape(RATE_HZ), bytes(2 * RATE_HZ // 50)
    said = np.zeros(RATE_HZ // 5, np.int16)
    began = time.process_time()
    for turn in range(turns):
        for at in range(10):
            tape.hear(10 * turn + at, frame)
        tape.say((turn + 1) * len(said), said)
        tape.take()
    return (time.process_time() - began) / (turns * len(said) / RATE_HZ)


async def _idle(pid: int, seconds: float) -> float:
    """CPU seconds a second when nobody calls."""
    first = await asyncio.to_thread(processes.sample, pid)
    await asyncio.sleep(seconds)
    return _cpu_s(first, await asyncio.to_thread(processes.sample, pid)) / seconds


async def _calls(gateway: GatewayUnderTest, plan: Plan, number: str, pid: int) -> Span:
    """All up at once for so long."""
    length_s = plan.calls / PLACED_PER_S + SETTLE_S + plan.seconds + TAIL_S
    uri = gateway.uri.replace("sip:", f"sip:{number}@")
    sounds = [
        await asyncio.to_thread(numbered_tones, length_s, RATE_HZ, seed=seed) for seed in range(plan.calls)
    ]
    with keeping_time():
        async with Caller() as caller:
            calling = []
            for sound in sounds:
                wish = CallPlan(uri, "PCMU", sound, RATE_HZ, length_s, record=False)
                calling.append(asyncio.create_task(caller.place(wish)))
                await asyncio.sleep(1 / PLACED_PER_S)
            await asyncio.sleep(SETTLE_S)
            first, begun_s = await asyncio.to_thread(processes.sample, pid), time.monotonic()
            await asyncio.sleep(plan.seconds)
            last, ended_s = await asyncio.to_thread(processes.sample, pid), time.monotonic()
            logs = await asyncio.gather(*calling)
    return Span(ended_s - begun_s, _cpu_s(first, last), [report_call(log) for log in logs])


def _cpu_s(first: list[processes.ProcessSample], last: list[processes.ProcessSample]) -> float:
    usage = processes.usage_by_kind(first, last)
    return sum(usage[kind].cpu_s for kind in KINDS if kind in usage)


def _per_call(spans: list[Span], idle: float, calls: int) -> float:
    """CPU seconds a second and call, beyond what nobody's calls cost."""
    return (sum(span.cpu_s for span in spans) / sum(span.seconds for span in spans) - idle) / calls


def _samples(metrics: dict[str, float], *names: str) -> int:
    """Of G.711: 8,000 a second."""
    return sum(round(8_000 * metrics[f"microturn_recordings_{name}_seconds_total"]) for name in names)


def _heard(spans: list[Span]) -> dict[str, Any]:
    """What callers noticed."""
    reports = [one for span in spans for one in span.reports]
    delays = [one.windows.delay_ms for one in reports if one.windows is not None]
    return {
        "answered": sum(one.answered for one in reports),
        "gap_ms": sum(one.gap_ms for one in reports),
        "delay_ms": report.percentiles(np.concatenate([*delays, np.zeros(0)]) - CHUNK_MS),
    }
