"""`python -m loadtests sip`: many SIP calls at once through a gateway, with what they cost and how they
sounded.

    idle sample -> ramp -> all calls up: sample -> S seconds -> sample -> all hang up -> analysis -> figures

Calls all end together, after the last sample, so the steady state has every answered call in it. Nothing
is analysed while calls are live. Only loopback is called: this is no tool to load other people's machines
with.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import resource
import shlex
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.codec import find_codec
from gateway.caller.messages import is_loopback, parse_uri
from gateway.caller.report import report_call
from gateway.caller.signals import numbered_tones
from gateway.priority import keeping_time
from loadtests import machine, processes, report

SPEECH = Path(__file__).parents[2] / "shared/data/speech/connected_digits"  # beside the checkout
READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
SETTLE_S = 1.0  # from the last INVITE to the steady state
TAIL_S = 1.5  # after it: silence for what is still on its way, and time for the last sample
_READY = re.compile(r"^ready\b.*?(sip:[^\s,;]+)(?:.*?(https?://\S+))?")


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One load test, checked. Raises ValueError for what must not or cannot be run."""

    calls: int
    seconds: float  # of steady state
    engine: str
    target: str  # HOST:PORT, or "" to start a gateway
    pid: int | None
    metrics_url: str
    ramp: float  # calls per second
    codec: str
    play: Path | None
    seed: int
    gateway_flags: str
    results: Path

    def __post_init__(self) -> None:
        if self.calls < 1 or self.seconds <= 0 or self.ramp <= 0:
            raise ValueError("--calls, --seconds and --ramp must be positive")
        find_codec(self.codec)
        if self.play is not None and not self.play.exists():
            raise ValueError(f"--play {self.play} does not exist")
        if self.target:
            refuse_foreign(f"sip:{self.target}")


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway: where to call it, and the process whose family is measured."""

    uri: str
    http: str  # base URL, or ""
    pid: int | None


def refuse_foreign(uri: str) -> None:
    """ValueError unless the URI's host is loopback."""
    host = parse_uri(uri).host
    if not is_loopback(host):
        raise ValueError(f"{host} is not a loopback address; load tests call only this machine (127.0.0.1)")


def main(argv: list[str]) -> int:
    """Run one load test. 0 when every call was either answered or refused and at least one was answered; 1
    when not; 2 for an operator's mistake. Missed goals are in the figures."""
    try:
        plan = parse_arguments(argv)
    except ValueError as error:
        print(f"loadtests sip: {error}", file=sys.stderr)
        return 2
    command = shlex.join(["python", "-m", "loadtests", "sip", *argv])
    try:
        result = asyncio.run(run(plan, command))
    except (OSError, RuntimeError) as error:
        print(f"loadtests sip: {error}", file=sys.stderr)
        return 1
    print(report.table(result))
    print(json.dumps(result), flush=True)
    return 0 if result["answered"] else 1


def parse_arguments(argv: list[str]) -> LoadPlan:
    """Arguments as a plan. Raises ValueError with what to do instead."""
    parser = argparse.ArgumentParser(prog="python -m loadtests sip")
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20.0, help="steady state with all calls up")
    parser.add_argument("--engine", default="echo", help="for the gateway that is started")
    parser.add_argument("--target", default="", metavar="HOST:PORT", help="call this; start no gateway")
    parser.add_argument("--pid", type=int, help="with --target: the process whose family is measured")
    parser.add_argument("--metrics-url", default="", help="Prometheus endpoint with the turn counters")
    parser.add_argument("--ramp", type=float, default=20.0, help="calls per second")
    parser.add_argument("--codec", default="PCMU", help="PCMU, PCMA or G722")
    parser.add_argument("--play", type=Path, help="sound file or directory; default: speech, if there is any")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gateway-flags", default="", help="more flags for `microturn up`, in one string")
    parser.add_argument(
        "--results", type=Path, default=report.RESULTS, help="folder of the CSV file and plots"
    )
    return LoadPlan(**vars(parser.parse_args(argv)))


async def run(plan: LoadPlan, command: str) -> dict[str, object]:
    """Start what is to be measured unless it runs, measure, keep the results. Raises RuntimeError when the
    gateway does not come up."""
    sounds = await asyncio.to_thread(_load_sounds, plan)
    async with contextlib.AsyncExitStack() as stack:
        if plan.target:
            gateway = Gateway(f"sip:{plan.target}", "", plan.pid)
        else:
            gateway = await stack.enter_async_context(started_gateway(plan))
        begun_ns = time.monotonic_ns()
        with machine.witnessed() as stalls:
            logs, costs, turns, own_cpu_s = await _measure(plan, gateway, sounds)
        span = begun_ns, time.monotonic_ns()
    reports = [report_call(log) for log in logs]
    result = report.figures(reports, costs, turns)
    result["machine"] = stalls.figures(span, report.gap_starts(reports))
    result |= {"calls": plan.calls, "seconds": plan.seconds, "codec": plan.codec, "engine": plan.engine}
    result["generator_cpu_s"] = round(own_cpu_s, 2)
    row = report.surroundings(command) | report.flatten(result)
    report.append_row(plan.results / "sip.csv", row)
    picture = plan.results / f"sip-{plan.calls}.png"
    title = f"{plan.calls} SIP calls, {plan.codec}, engine {plan.engine}, {row['date'][:10]}"
    report.draw(picture, reports, title)
    return result


# -- the gateway


@contextlib.asynccontextmanager
async def started_gateway(plan: LoadPlan) -> AsyncIterator[Gateway]:
    """`microturn up` on free ports in a process group of its own; SIGINT at the end, also when we are killed."""
    with tempfile.TemporaryDirectory(prefix="microturn-load-") as run_dir:
        arguments = ["-m", "gateway", "up", "--kept", "--engine", plan.engine, "--sip-host", "127.0.0.1"]
        arguments += ["--sip-port", "0", "--http-port", "0", "--run-dir", run_dir, "--redis", "off"]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            *shlex.split(plan.gateway_flags),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        tail: deque[str] = deque(maxlen=40)
        drain: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                uri, http = await _wait_until_ready(process, tail)
            refuse_foreign(uri)
            drain = asyncio.create_task(_drain(process, tail), name="gateway-output")
            yield Gateway(uri, http, process.pid)
        except TimeoutError:
            raise RuntimeError("microturn up was not ready in time:\n" + "".join(tail)) from None
        finally:
            await _stop(process)
            if drain is not None:
                await drain


async def _wait_until_ready(process: asyncio.subprocess.Process, tail: deque[str]) -> tuple[str, str]:
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode(errors="replace"):
        tail.append(line)
        if found := parse_ready(line):
            return found
    raise RuntimeError("microturn up ended before it was ready:\n" + "".join(tail))


def parse_ready(line: str) -> tuple[str, str] | None:
    """(SIP URI, page URL or "") of a line that begins with `ready`; else None."""
    match = _READY.match(line)
    return (match[1], match[2] or "") if match else None


async def _drain(process: asyncio.subprocess.Process, tail: deque[str]) -> None:
    """Keep reading, so that the gateway never blocks on a full pipe."""
    assert process.stdout is not None
    while data := await process.stdout.read(65536):
        tail.append(data.decode(errors="replace"))


async def _stop(process: asyncio.subprocess.Process) -> None:
    """SIGINT to the leader, which ends its children; what is left in its group after a while is killed."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)  # send_signal would reap it under asyncio's hands
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        print("loadtests sip: microturn up did not end on SIGINT; killed", file=sys.stderr)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


# -- the calls


async def _measure(
    plan: LoadPlan, gateway: Gateway, sounds: Sequence[NDArray[np.int16]]
) -> tuple[list[CallLog], report.Costs | None, dict[str, int | None], float]:
    idle = await _sample(gateway.pid)
    metrics_url = plan.metrics_url or (gateway.http.rstrip("/") + "/metrics" if gateway.http else "")
    turns_before = await asyncio.to_thread(_read_turns, metrics_url)
    spoken = await asyncio.to_thread(_make_speech, plan, sounds)
    own = _own_cpu_s()
    with keeping_time():
        async with Caller() as caller:
            begin_s = time.monotonic() + 0.2
            steady_s = begin_s + (plan.calls - 1) / plan.ramp + SETTLE_S
            end_s = steady_s + plan.seconds
            calls = [
                asyncio.create_task(_call(caller, plan, gateway.uri, pcm, begin_s + index / plan.ramp, end_s))
                for index, pcm in enumerate(spoken)
            ]
            await asyncio.sleep(steady_s - time.monotonic())
            first, first_s = await _sample(gateway.pid), time.monotonic()
            await asyncio.sleep(end_s - time.monotonic())
            last, last_s = await _sample(gateway.pid), time.monotonic()
            turns_after = await asyncio.to_thread(_read_turns, metrics_url)
            logs = list(await asyncio.gather(*calls))
    costs = None
    if idle and first and last:
        grown_mb = processes.grown_mb(idle, last)
        costs = report.Costs(last_s - first_s, processes.usage_by_kind(first, last), grown_mb)
    return logs, costs, report.turns_between(turns_before, turns_after), _own_cpu_s() - own


async def _call(
    caller: Caller, plan: LoadPlan, uri: str, pcm: NDArray[np.int16], start_s: float, end_s: float
) -> CallLog:
    """One call that lasts from its turn in the ramp until past the steady state."""
    rate_hz = find_codec(plan.codec).rate_hz
    call = CallPlan(uri, plan.codec, pcm, rate_hz, end_s - start_s + TAIL_S, record=False)
    await asyncio.sleep(start_s - time.monotonic())
    return await caller.place(call)


def _make_speech(plan: LoadPlan, sounds: Sequence[NDArray[np.int16]]) -> list[NDArray[np.int16]]:
    """What each call says, made before the first one: the pacer could not spare the time."""
    rate_hz = find_codec(plan.codec).rate_hz
    longest_s = SETTLE_S + plan.seconds + TAIL_S + (plan.calls - 1) / plan.ramp
    lengths_s = (longest_s - index / plan.ramp for index in range(plan.calls))
    return [speech(sounds, length_s, rate_hz, plan.seed, index) for index, length_s in enumerate(lengths_s)]


def speech(
    sounds: Sequence[NDArray[np.int16]], seconds: float, rate_hz: int, seed: int, index: int
) -> NDArray[np.int16]:
    """int16 for one call: the sounds in an order of its own until it is full, or numbered tones without
    sounds."""
    if not sounds:
        return numbered_tones(seconds, rate_hz, seed * 100_003 + index)
    rng = random.Random(f"{seed} {index}")
    parts: list[NDArray[np.int16]] = []
    samples = 0
    while samples < seconds * rate_hz:
        for sound in rng.sample(sounds, len(sounds)):
            parts.append(sound)
            samples += sound.size
            if samples >= seconds * rate_hz:
                break
    return np.concatenate(parts)[: round(seconds * rate_hz)]


def _load_sounds(plan: LoadPlan) -> list[NDArray[np.int16]]:
    """All sound files of --play, or of the speech beside the checkout, at the codec's rate. Raises OSError
    for a directory without any."""
    source = plan.play or SPEECH
    if plan.play is None and not source.is_dir():
        return []
    paths = [source] if source.is_file() else sorted([*source.glob("*.flac"), *source.glob("*.wav")])
    rate_hz = find_codec(plan.codec).rate_hz
    sounds = []
    for path in paths:
        pcm, rate = soundfile.read(path, dtype="int16", always_2d=True)
        sounds.append(soxr.resample(np.ascontiguousarray(pcm[:, 0]), rate, rate_hz))
    if not any(sound.size for sound in sounds):
        raise OSError(f"no sound files in {source}")
    return [sound for sound in sounds if sound.size]


# -- readings


async def _sample(pid: int | None) -> list[processes.ProcessSample]:
    """In a thread: reading /proc takes milliseconds that the pacer cannot spare."""
    return await asyncio.to_thread(processes.sample, pid) if pid is not None else []


def _read_turns(url: str) -> dict[str, int | None] | None:
    if not url:
        return None
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return report.parse_turns(answer.read().decode(errors="replace"))
    except (OSError, ValueError, urllib.error.URLError):
        return None


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
