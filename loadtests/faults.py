"""`python -m loadtests faults`: the fault matrix. What dies, who hears it, and how soon it is over.

    calls up -> something dies -> calls end -> analysis -> one line a case; at the end one JSON object

Each case starts its own gateway with the echo engine, so that everything heard can be laid beside what was
said. One rule: a case judges only what came out, which is packets, answers, metrics and processes; nothing is
analysed while calls are live.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.report import CallReport, report_call
from gateway.caller.signals import numbered_tones
from gateway.priority import keeping_time
from gateway.sip.pool import ask_library
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish, Process
from media.rtp import BadPacket, parse_packet

RATE_HZ = 8000
FRAME_MS, FRAME_NS = 20, 20_000_000
MS, S = 1_000_000, 1_000_000_000
PLACED_PER_S = 20.0  # the wheel takes ten INVITEs a second per process, and there are at least two of them
BEFORE_S, AFTER_S = 3.0, 6.0  # of steady calls on either side of the fault

MODEL_BACK_S = 2.0  # DESIGN section 6
WORKER_BACK_S = 1.0
LAG_TOLERANCE_MS = 60.0  # a new lease may have another budget, never another turn
COMFORT_RMS = 100.0  # the comfort sound has 16; the quietest stretch of a numbered tone has over 1,000
PLAYED_OUT_MS = 500  # after the kill: a turn in playout, the jitter buffer, and 40 ms
WELL_MS = 500  # so long without a gap, and speech is back
GAP_TOLERANCE_MS = (
    20.0  # a call: one frame, which a clock thread that is late once costs; a missed turn is 200
)
SILENCE_MS = 100.0  # between two packets of a call that nothing happened to
TORTURE = Path(__file__).parents[2] / "shared/data/sip/rfc4475"


@dataclass(slots=True)
class Outcome:
    """One case: its figures, and in words what did not hold."""

    case: str
    figures: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        """Note what is broken."""
        if not holds:
            self.broken.append(otherwise)

    def line(self) -> str:
        """For people."""
        figures = " ".join(f"{name}={value}" for name, value in self.figures.items())
        verdict = "held  " if not self.broken else "BROKEN"
        return f"{verdict} {self.case}: {figures}" + "".join(f"\n       {text}" for text in self.broken)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run, checked."""

    cases: tuple[str, ...]
    calls: int  # live ones in model-server-killed
    churn_calls: int
    hostile_sip: int
    hostile_rtp: int
    wheel: bool  # the ready-made pjsua2, four calls a process


# -- calls


class LiveCalls:
    """Calls that are up together and play numbered tones, each its own, until their time is over."""

    def __init__(self, caller: Caller, gateway: GatewayUnderTest) -> None:
        self._caller = caller
        self._gateway = gateway
        self._tasks: list[asyncio.Task[CallLog]] = []

    async def place(self, count: int, seconds: float) -> None:
        """Returns when `count` more calls are up and have been so for `BEFORE_S`, or TimeoutError."""
        wanted = len(self._tasks) + count
        ramp_s = count / PLACED_PER_S
        # made before anybody speaks: it would hold up the pacing
        plans = [
            await asyncio.to_thread(
                tones, self._gateway.uri, seconds + BEFORE_S + ramp_s - index / PLACED_PER_S, index
            )
            for index in range(len(self._tasks), wanted)
        ]
        for plan in plans:  # they all end together
            self._tasks.append(asyncio.create_task(self._caller.place(plan), name=f"call-{len(self._tasks)}"))
            await asyncio.sleep(1 / PLACED_PER_S)
        await self.until(lambda m: m["microturn_calls_live"] == wanted)
        await asyncio.sleep(BEFORE_S)

    async def until(self, holds: Callable[[dict[str, float]], bool], timeout_s: float = 10.0) -> int:
        """As `GatewayUnderTest.wait_for`, without holding up the calls."""
        return await asyncio.to_thread(self._gateway.wait_for, holds, timeout_s)

    async def finish(self) -> list[CallLog]:
        """Wait for all to end by themselves."""
        return list(await asyncio.gather(*self._tasks))

    async def cancel(self) -> None:
        """Hang up what is left when something failed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def tones(uri: str, seconds: float, seed: int) -> CallPlan:
    """A call of `seconds` whose every 200 ms are unlike all others."""
    pcm = numbered_tones(seconds, RATE_HZ, seed + 1000)
    return CallPlan(uri, "PCMU", pcm, play_rate_hz=RATE_HZ, seconds=seconds, lead_in_s=0.2, tail_s=1.0)


@contextlib.asynccontextmanager
async def live_calls(gateway: GatewayUnderTest) -> AsyncIterator[LiveCalls]:
    """A caller, and the certainty that no call of it outlives the block."""
    with keeping_time():  # a caller that is late would be taken for a gateway that is
        async with Caller() as caller:
            calls = LiveCalls(caller, gateway)
            try:
                yield calls
            finally:
                await calls.cancel()


async def check_new_call(gateway: GatewayUnderTest, outcome: Outcome) -> None:
    """A call after it all: answered, and heard again."""
    with keeping_time():
        async with Caller() as caller:
            log = await caller.place(await asyncio.to_thread(tones, gateway.uri, 3.0, 77))
    report = report_call(log)
    outcome.figures["new_call"] = report.status
    heard = f"{report.received_packets} packets came, {report.gap_ms:.0f} ms of sound did not come back"
    outcome.expect(report.answered, f"a new call got {report.status} {report.reason}")
    outcome.expect(
        report.media_came_back and report.gap_ms <= GAP_TOLERANCE_MS, f"a new call is not whole: {heard}"
    )


async def check_all_free(gateway: GatewayUnderTest, outcome: Outcome) -> None:
    """No call lives and no slot is leased: every BYE was taken."""
    free = lambda m: m["microturn_calls_live"] == 0 and m["microturn_model_slots_leased"] == 0  # noqa: E731
    try:
        await asyncio.to_thread(gateway.wait_for, free, 5.0)
    except (TimeoutError, KeyError) as wrong:
        outcome.expect(False, f"calls or slots are left over: {wrong}")


def lag_ms(report: CallReport, begin_ns: int, end_ns: int) -> float | None:
    """Median delay of what was sent in a time, or None."""
    assert report.windows is not None
    sent = report.windows.sent_ns
    within = report.windows.delay_ms[(sent >= begin_ns) & (sent < end_ns)]
    return float(np.median(within)) if within.size else None


def loudness(log: CallLog, begin_ns: int, end_ns: int) -> float:
    """The loudest packet's RMS among those that arrived in a time; 0 without any."""
    loudest = 0.0
    for datagram, arrival_ns in zip(log.datagrams, log.arrivals_ns, strict=True):
        if not begin_ns <= arrival_ns < end_ns:
            continue
        packet = parse_packet(datagram)
        if not isinstance(packet, BadPacket) and packet.payload_type == log.received_type:
            pcm = log.codec.decode(packet.payload).astype(np.float64)
            loudest = max(loudest, float(np.sqrt(np.mean(pcm**2))))
    return loudest


def check_untouched(outcome: Outcome, reports: Sequence[CallReport]) -> None:
    """These calls heard nothing of it."""
    gaps = [report.gap_ms for report in reports]
    silences = [report.longest_silence_ms for report in reports]
    outcome.figures["untouched"] = len(reports)
    outcome.figures["gap_ms_worst"] = max(gaps, default=0.0)
    outcome.figures["silence_ms_worst"] = round(max(silences, default=0.0), 1)
    outcome.figures["calls_with_gaps"] = sum(gap > 0 for gap in gaps)
    outcome.expect(
        max(gaps, default=0.0) <= GAP_TOLERANCE_MS,
        f"gaps of {sorted(gaps)[-3:]} ms where there should be none",
    )
    outcome.expect(
        max(silences, default=0.0) < SILENCE_MS, f"{max(silences, default=0.0):.0f} ms without a packet"
    )


# -- cases


async def model_server_killed(plan: Plan) -> Outcome:
    """SIGKILL of the model server under live calls."""
    outcome = Outcome("model-server-killed")
    with GatewayUnderTest.start(GatewayWish(calls=plan.calls)) as gateway:
        async with live_calls(gateway) as calls:
            await calls.place(plan.calls, AFTER_S)
            victim = gateway.only("model-server")
            killed_ns = victim.kill()
            _, born_ns = await asyncio.to_thread(gateway.successor, victim)
            ready_ns = await calls.until(lambda m: m["microturn_model_slots_leased"] == plan.calls)
            logs = await calls.finish()
        await check_all_free(gateway, outcome)
        outcome.figures["epochs"] = len(gateway.epochs())
        outcome.expect(outcome.figures["epochs"] == 2, "no worker attached to a new slot table")
    judge_model_server_killed(outcome, logs, killed_ns, born_ns, ready_ns)
    return outcome


def judge_model_server_killed(
    outcome: Outcome, logs: Sequence[CallLog], killed_ns: int, born_ns: int, ready_ns: int
) -> None:
    """No call ends, comfort and nothing else until speech is back, then only what was just said."""
    reports = [report_call(log) for log in logs]
    backs, lags, odd, loudest = [], [], [], 0.0
    for log, report in zip(logs, reports, strict=True):
        if report.windows is None:
            outcome.expect(False, f"a call got {report.status} {report.reason}")
            continue
        outcome.expect(report.ended_by == "us", f"a call was ended by {report.ended_by}")
        before = lag_ms(report, 0, killed_ns - S)
        after = lag_ms(report, ready_ns, killed_ns + 60 * S)
        if before is None or after is None:
            outcome.expect(False, "a call was not heard again after the restart")
            continue
        gaps = report.windows.gap_starts_ns
        away = gaps[gaps > killed_ns - S]
        ends = np.flatnonzero(np.diff(away, append=np.iinfo(np.int64).max) > WELL_MS * MS)
        back_ns = int(away[ends[0]]) + FRAME_NS + round(after * MS) if away.size else killed_ns
        backs.append(back_ns)
        others = len(gaps) - (int(ends[0]) + 1 if away.size else 0)
        outcome.expect(
            others * FRAME_MS <= GAP_TOLERANCE_MS, f"{others * FRAME_MS} ms of gaps at other times"
        )
        lags.append(after - before)
        odd += [d for d in report.windows.delay_ms if abs(d - before) > LAG_TOLERANCE_MS]
        loudest = max(loudest, loudness(log, killed_ns + PLAYED_OUT_MS * MS, back_ns - 2 * FRAME_NS))
    outcome.figures |= {
        "calls": len(logs),
        "process_s": round((born_ns - killed_ns) / S, 2),
        "speech_after_kill_s": round((max(backs, default=0) - killed_ns) / S, 2),
        "speech_after_start_s": round((max(backs, default=0) - born_ns) / S, 2),
        "lag_change_ms_worst": round(max((abs(lag) for lag in lags), default=0.0), 2),
        "stale_windows": len(odd),
        "loudest_in_gap_rms": round(loudest, 1),
    }
    outcome.expect(bool(backs), "no call has anything to judge")
    outcome.expect(outcome.figures["speech_after_start_s"] <= MODEL_BACK_S, "speech was back too late")
    outcome.expect(not odd, f"heard with another lag, in ms: {[round(d) for d in odd[:5]]}")
    outcome.expect(loudest < COMFORT_RMS, "something else than comfort noise was heard in the gap")


async def sip_worker_killed(plan: Plan) -> Outcome:
    """SIGKILL of one of three SIP workers."""
    outcome = Outcome("sip-worker-killed")
    wish = GatewayWish(calls=12, settings={"sip_calls_per_worker": "4"})  # three workers with either pjsua2
    with GatewayUnderTest.start(wish) as gateway:
        async with live_calls(gateway) as calls:
            await calls.place(9, AFTER_S)
            probe_plan = await asyncio.to_thread(tones, gateway.uri, 2.0, 500)
            workers = gateway.workers()
            victim = workers[1]
            theirs = len(gateway.rtp_ports(victim))
            outcome.expect(theirs == 3, f"9 calls on 3 workers, but {theirs} on {victim.name}")
            killed_ns = victim.kill()
            heir, born_ns = await asyncio.to_thread(gateway.successor, victim)
            ready_ns = await calls.until(lambda m: m["microturn_workers_ready"] == len(workers))
            async with Caller() as caller:
                probe = asyncio.create_task(caller.place(probe_plan))
                await asyncio.sleep(1.0)
                taken = len(gateway.rtp_ports(heir))
                answer = await probe
            lost_count = gateway.metrics()["microturn_calls_lost_total"]
            logs = await calls.finish()
        await check_all_free(gateway, outcome)
    struck = [log for log in logs if not log.arrivals_ns or log.arrivals_ns[-1] < killed_ns + S]
    answered_s = ((answer.answered_ns or 0) - killed_ns) / S
    outcome.figures |= {
        "calls": len(logs),
        "lost": len(struck),
        "lost_in_metrics": int(lost_count),
        "process_s": round((born_ns - killed_ns) / S, 2),
        "ready_s": round((ready_ns - killed_ns) / S, 2),
        "new_call_answered_s": round(answered_s, 2),
    }
    outcome.expect(len(struck) == theirs, f"{len(struck)} calls stopped, but {theirs} were the worker's")
    outcome.expect(lost_count == theirs, f"the gateway counts {lost_count:.0f} lost calls")
    outcome.expect(answer.answered, f"a new call got {answer.status} {answer.reason}")
    outcome.expect(taken == 1, "the new call did not go to the new worker, which had none")
    outcome.expect(answered_s < WORKER_BACK_S, "the worker was back too late")
    check_untouched(outcome, [report_call(log) for log in logs if not any(log is other for other in struck)])
    return outcome


async def gateway_killed(plan: Plan) -> Outcome:
    """SIGKILL of the gateway's main process: media does not pass it."""
    outcome = Outcome("gateway-killed")
    with GatewayUnderTest.start(GatewayWish(calls=12)) as gateway:
        async with live_calls(gateway) as calls:
            await calls.place(8, AFTER_S)
            workers = gateway.workers()
            victim = gateway.only("gateway")
            killed_ns = victim.kill()
            _, born_ns = await asyncio.to_thread(gateway.successor, victim)
            ready_ns = await calls.until(lambda m: m["microturn_ready"] == 1)
            adopted_ns = await calls.until(lambda m: m["microturn_edge_calls_adopted_total"] == 8)
            logs = await calls.finish()
            outcome.expect(gateway.workers() == workers, "workers were replaced")
        await check_all_free(gateway, outcome)
        await check_new_call(gateway, outcome)
        await check_all_free(gateway, outcome)
    unanswered = [log for log in logs if log.ended_by != "us"]
    outcome.figures |= {
        "calls": len(logs),
        "process_s": round((born_ns - killed_ns) / S, 2),
        "ready_s": round((ready_ns - killed_ns) / S, 2),
        "adopted_s": round((adopted_ns - killed_ns) / S, 2),
    }
    outcome.expect(not unanswered, f"{len(unanswered)} calls' BYE was not answered")
    check_untouched(outcome, [report_call(log) for log in logs])
    return outcome


async def hostile(plan: Plan) -> Outcome:
    """Torture, crash messages, mutated SIP and RTP, with live calls beside them."""
    outcome = Outcome("hostile")
    with GatewayUnderTest.start(GatewayWish(calls=16)) as gateway:
        async with live_calls(gateway) as calls:
            estimate_s = 20 + (plan.hostile_sip + plan.hostile_rtp) / 400
            await calls.place(8, estimate_s)
            workers = {worker: gateway.rtp_ports(worker) for worker in gateway.workers()}
            targets = [f"127.0.0.1:{port}" for ports in workers.values() for port in ports]
            begin_ns = time.monotonic_ns()
            told = await _attack(plan, gateway, targets)
            attacked_s = (time.monotonic_ns() - begin_ns) / S
            survivors = gateway.workers()
            logs = await calls.finish()
        left = [log for log in logs if log.listened_until_ns < begin_ns + attacked_s * S]
        await check_new_call(gateway, outcome)
    struck = [worker for worker in workers if worker not in survivors]
    theirs = sum(len(workers[worker]) for worker in struck)
    lost = [log for log in logs if not log.arrivals_ns or log.arrivals_ns[-1] < log.listened_until_ns - S]
    outcome.figures |= {
        "calls": len(logs),
        "attack_s": round(attacked_s, 1),
        "sip_sent": sum(told.get(name, 0) for name in ("torture", "crash", "sip")),
        "rtp_sent": told.get("rtp", 0),
        "longest_silence_ms": told.get("longest_silence_ms"),
        "workers_struck": len(struck),
        "lost": len(lost),
    }
    outcome.expect(bool(told.get("alive")), "the gateway fell silent")
    outcome.expect(bool(told.get("rtp")), "no RTP was sent at live calls")
    outcome.expect(plan.wheel or not struck, f"{len(struck)} workers died of it")
    outcome.expect(
        len(lost) == theirs, f"{len(lost)} calls were lost, but {theirs} were of workers that died"
    )
    if left and not lost:
        outcome.figures["calls_over_before_the_end"] = len(left)
    reports = [report_call(log) for log in logs if not any(log is other for other in lost)]
    check_untouched(outcome, reports)
    whens = sorted(
        round((int(gap_ns) - begin_ns) / S, 2)
        for report in reports
        if report.windows is not None
        for gap_ns in report.windows.gap_starts_ns
    )
    if whens:
        outcome.figures["gaps_at_s"] = f"{whens[0]}..{whens[-1]}"
    return outcome


async def _attack(plan: Plan, gateway: GatewayUnderTest, targets: Sequence[str]) -> dict[str, Any]:
    """`loadtests.hostile` in a process of its own; its JSON."""
    arguments = ["--target", gateway.uri.removeprefix("sip:"), "--rtp-targets", ",".join(targets)]
    arguments += ["--sip", str(plan.hostile_sip), "--rtp", str(plan.hostile_rtp), "--seed", "1"]
    if TORTURE.is_dir():
        arguments += ["--torture", str(TORTURE)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "loadtests.hostile", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=_as_others,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    lines = output.decode().splitlines()
    told: dict[str, Any] = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return told


def _as_others() -> None:
    """Normal scheduling for a child of a process that keeps time."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


CHURN_AT_ONCE = 10
CHURN_WARM_UP_S = (
    40.0  # a UDP transaction is remembered for 64 T1 = 32 s: only then memory is as high as it gets
)
CHURN_SLOTS = 64
CHURN_CALL_S = 0.5
SETTLE_S = 35.0  # and after the last call as long until all is forgotten
PSS_TOLERANCE_KB = 3072  # per process: shared pages move by 1.5 MB when any other process comes or goes
PSS_TOLERANCE_KB_PER_CALL = 1.0


@dataclass(frozen=True, slots=True)
class Holdings:
    """What one process holds."""

    pss_kb: int
    descriptors: int
    threads: int


async def churn(plan: Plan) -> Outcome:
    """Many short calls; everything comes back to where it was."""
    outcome = Outcome("churn")
    # slots are taken in turn, and one is memory from its first call on: the warm-up has them all
    wish = GatewayWish(calls=16, settings={"slots": str(CHURN_SLOTS)})
    with GatewayUnderTest.start(wish) as gateway:
        warm = await _churn_calls(gateway, until_s=time.monotonic() + CHURN_WARM_UP_S)
        before = await _settled(gateway, outcome)
        begin_s = time.monotonic()
        run = await _churn_calls(gateway, count=plan.churn_calls)
        took_s = time.monotonic() - begin_s
        after = await _settled(gateway, outcome)
        counted = gateway.metrics()
        await check_new_call(gateway, outcome)
    statuses = {status: (warm + run).count(status) for status in set(warm + run)}
    outcome.figures |= {
        "calls": len(run),
        "calls_per_s": round(len(run) / took_s, 1),
        "answered": int(counted["microturn_calls_answered_total"]),
        "statuses": "/".join(f"{status}:{count}" for status, count in sorted(statuses.items())),
    }
    outcome.expect(set(statuses) == {200}, "not every call was answered")
    outcome.expect(before.keys() == after.keys(), "a process was replaced")
    grown: dict[str, list[int]] = {}
    for process in before.keys() & after.keys():
        was, now = before[process], after[process]
        grown.setdefault(process.kind, []).append(now.pss_kb - was.pss_kb)
        who = f"{process.kind} {process.name}".rstrip()
        for what, a, b in (
            ("descriptors", was.descriptors, now.descriptors),
            ("threads", was.threads, now.threads),
        ):
            outcome.expect(a == b, f"{who}: {a} {what} before, {b} after")
    for kind, kilobytes in sorted(grown.items()):
        outcome.figures[f"pss_kb_{kind}"] = max(kilobytes)
        bound = PSS_TOLERANCE_KB + PSS_TOLERANCE_KB_PER_CALL * len(run)
        outcome.expect(max(kilobytes) <= bound, f"a {kind} grew by {max(kilobytes)} kB, over {bound:.0f}")
    return outcome


async def _churn_calls(gateway: GatewayUnderTest, count: int = 0, until_s: float = 0.0) -> list[int]:
    """Statuses of `count` short calls, or of as many as there is time for, `CHURN_AT_ONCE` at a time."""
    statuses: list[int] = []
    placed = itertools.count()
    async with Caller() as caller:

        async def one_after_another() -> None:
            for seed in placed:
                if seed >= count and time.monotonic() >= until_s:
                    return
                statuses.append((await caller.place(tones(gateway.uri, CHURN_CALL_S, seed))).status)

        await asyncio.gather(*(one_after_another() for _ in range(CHURN_AT_ONCE)))
    return statuses


async def _settled(gateway: GatewayUnderTest, outcome: Outcome) -> dict[Process, Holdings]:
    """What every process holds once no call lives and SIP has forgotten the last."""
    await check_all_free(gateway, outcome)
    await asyncio.sleep(SETTLE_S)
    return {
        process: Holdings(process.pss_kb(), process.descriptors(), process.threads())
        for process in gateway.processes()
    }


CASES: dict[str, Callable[[Plan], Awaitable[Outcome]]] = {
    "model-server-killed": model_server_killed,
    "sip-worker-killed": sip_worker_killed,
    "gateway-killed": gateway_killed,
    "hostile": hostile,
    "churn": churn,
}


# -- command line


def parse_arguments(argv: Sequence[str]) -> tuple[Plan, bool]:
    """The plan, and whether only JSON is wanted. Raises ValueError with what to do instead."""
    parser = argparse.ArgumentParser(prog="python -m loadtests faults")
    parser.add_argument("--cases", default=",".join(CASES), help="of " + ", ".join(CASES))
    parser.add_argument("--calls", type=int, default=20, help="live when the model server is killed")
    parser.add_argument("--churn-calls", type=int, default=200)
    parser.add_argument("--hostile-sip", type=int, default=2000, help="mutated SIP messages")
    parser.add_argument("--hostile-rtp", type=int, default=2000, help="mutated RTP packets at live calls")
    parser.add_argument("--json", action="store_true", help="the last line alone; the others go to stderr")
    given = parser.parse_args(argv)
    cases = tuple(name for name in given.cases.split(",") if name)
    unknown = [name for name in cases if name not in CASES]
    if unknown or not cases:
        raise ValueError(f"--cases {given.cases}: choose from {', '.join(CASES)}")
    if min(given.calls, given.churn_calls) < 1 or min(given.hostile_sip, given.hostile_rtp) < 0:
        raise ValueError("--calls and --churn-calls must be positive")
    if given.calls > 60:
        raise ValueError(f"--calls {given.calls}: at most 60, which one process can pace beside the rest")
    wheel = ask_library().is_wheel
    return Plan(
        cases, given.calls, given.churn_calls, given.hostile_sip, given.hostile_rtp, wheel
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
