"""What a state load test does to gateways with live calls, and what it then finds.

    away     the state server is killed under live calls, and is back after the outage
    drain    SIGTERM under live calls: each goes on to its own end

Callers are of this process (`gateway.caller`); each plays numbered tones, so that every frame of its own voice that
does not come back is found.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.report import CHUNK_MS, CallReport, report_call
from gateway.caller.signals import numbered_tones
from gateway.priority import keeping_time
from gateway.state.records import Cdr, Session, decode
from loadtests import report
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from loadtests.state_server import StateServer

RATE_HZ = 8000
PLACED_PER_S = 10.0
SETTLE_S = 1.0
TICK_S = 0.1
REPLAY_S = 30.0
SPARE_CALLS = 10
OUTAGE_CALLS_EVERY_S = 3.0
OUTAGE_CALL_S = 2.0
PROBE_S = 1.0
READY_S = 90.0


@dataclass(frozen=True, slots=True)
class Plan:
    """One load test, checked."""

    case: str
    calls: int
    seconds: float
    """Of live calls: before and after the outage; until SIGTERM; until the kill."""
    outage: float
    seed: int
    engine: str
    sessions_s: tuple[float, float] = (8.0, 20.0)
    """Of one session of `killed`, at least and at most."""


@dataclass(slots=True)
class Found:
    """Figures, and what a picture is drawn of: named series over seconds."""

    figures: dict[str, Any] = field(default_factory=dict)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    marks: dict[str, float] = field(default_factory=dict)
    reports: list[CallReport] = field(default_factory=list)

    def note(self, name: str, at_s: float, value: float) -> None:
        """One point of a series."""
        self.series.setdefault(name, []).append((at_s, value))


@contextlib.contextmanager
def state_server() -> Iterator[StateServer]:
    """Running, and gone with all that it wrote."""
    with tempfile.TemporaryDirectory(prefix="mt-state-") as folder:
        server = StateServer(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.close()


def wish(plan: Plan, url: str, calls: int, rtp_port: int = 40_000, **settings: str) -> GatewayWish:
    """A gateway that shares that server."""
    given = {"redis": url, "log_level": "info", "background_workers": "0"} | settings
    return GatewayWish(
        calls=calls, engine=plan.engine, rtp_port=rtp_port, settings=given, ready_timeout_s=READY_S
    )


class Callers:
    """Calls of one case."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.tasks: list[asyncio.Task[CallLog]] = []

    async def place(self, uri: str, seconds: Sequence[float], seed: int) -> None:
        """One call for each length; returns when the last one was placed."""
        pcm = [await asyncio.to_thread(numbered_tones, s, RATE_HZ, seed + n) for n, s in enumerate(seconds)]
        for tones in pcm:
            length_s = tones.size / RATE_HZ
            self.begin(CallPlan(uri, "PCMU", tones, RATE_HZ, seconds=length_s, lead_in_s=0.2, tail_s=1.0))
            await asyncio.sleep(1 / PLACED_PER_S)

    def begin(self, plan: CallPlan) -> asyncio.Task[CallLog]:
        """One call."""
        task = asyncio.create_task(self._caller.place(plan))
        self.tasks.append(task)
        return task

    def wind_up(self) -> None:
        """All that live fall silent, and end a second later if not before."""
        self._caller.wind_up()

    async def finish(self) -> list[CallLog]:
        """When all have ended by themselves."""
        return list(await asyncio.gather(*self.tasks))


@contextlib.asynccontextmanager
async def callers() -> AsyncIterator[Callers]:
    """And the certainty that no call outlives the block."""
    with keeping_time():
        async with Caller() as caller:
            calls = Callers(caller)
            try:
                yield calls
            finally:
                for task in calls.tasks:
                    task.cancel()
                await asyncio.gather(*calls.tasks, return_exceptions=True)


async def see(gateway: GatewayUnderTest, name: str) -> float:
    """One of its metrics, now; -1 when it does not answer."""
    return (await asyncio.to_thread(gateway.metrics)).get(f"microturn_{name}", -1.0)


def audio(reports: Sequence[CallReport], span_ns: tuple[int, int] | None = None) -> dict[str, Any]:
    """What callers did not hear, and the delay beyond the chunk; within `span_ns` only what was said then."""
    windows = [one.windows for one in reports if one.windows is not None]

    def inside(times_ns: Any) -> Any:
        return (times_ns >= span_ns[0]) & (times_ns < span_ns[1]) if span_ns else times_ns == times_ns

    delays = [w.delay_ms[inside(w.sent_ns)] - CHUNK_MS for w in windows]
    gaps = sum(int(inside(w.gap_starts_ns).sum()) for w in windows)
    return {
        "missing_frames": gaps,
        "delay_ms": report.percentiles(np.concatenate(delays) if delays else np.zeros(0)),
    }


# -- the state server is away


async def away(plan: Plan) -> Found:
    """Calls live through the outage, others begin and end in it; then everything of all of them is written."""
    found = Found()
    with state_server() as server:
        empty_bytes = server.memory_bytes()
        with GatewayUnderTest.start(wish(plan, server.url, plan.calls + SPARE_CALLS)) as gateway:
            async with callers() as calls:
                short = await _outage(plan, found, server, gateway, calls, empty_bytes)
                logs = await calls.finish()
            await _replayed(found, server, gateway, len(logs))
    found.reports = [report_call(log) for log in logs]
    long = found.reports[: plan.calls]
    span = (int(found.marks["killed_ns"]), int(found.marks["back_ns"]))
    found.figures |= {
        "answered": sum(one.answered for one in found.reports),
        "begun_in_outage": short,
        "ended_early": sum(one.ended_by == "peer" for one in found.reports),
        "whole_calls": audio(long),
        "in_outage": audio(long, span),
        "before_outage": audio(long, (span[0] - int(plan.seconds * 1e9), span[0])),
    }
    return found


async def _outage(
    plan: Plan, found: Found, server: StateServer, gateway: GatewayUnderTest, calls: Callers, empty_bytes: int
) -> int:
    """Gives how many calls were placed while it was away."""
    placed_s = plan.calls / PLACED_PER_S
    together_s = 2 * plan.seconds + plan.outage + 2 * SETTLE_S
    lengths = [placed_s - n / PLACED_PER_S + together_s for n in range(plan.calls)]
    await calls.place(gateway.uri, lengths, plan.seed)
    await asyncio.sleep(SETTLE_S)
    begun = time.monotonic()
    scripts, commands = await asyncio.to_thread(server.commands)
    await asyncio.sleep(plan.seconds)
    scripts_after, commands_after = await asyncio.to_thread(server.commands)
    call_seconds = plan.calls * (time.monotonic() - begun)
    bytes_by_call = await asyncio.to_thread(server.bytes_by_call)
    found.figures |= {
        "round_trips_per_call_s": round((scripts_after - scripts) / call_seconds, 3),
        "commands_per_call_s": round((commands_after - commands) / call_seconds, 3),
        "redis_bytes_per_call": round(float(np.mean(bytes_by_call))) if bytes_by_call else None,
        "redis_grown_bytes_per_call": round((server.memory_bytes() - empty_bytes) / plan.calls),
    }
    server.kill()
    found.marks |= {"killed_ns": time.monotonic_ns(), "killed": 0.0, "back": plan.outage}
    killed_s, short = time.monotonic(), 0
    while (at_s := time.monotonic() - killed_s) < plan.outage:
        found.note("writes that wait", at_s, await see(gateway, "state_buffered"))
        if at_s > short * OUTAGE_CALLS_EVERY_S and short < SPARE_CALLS and at_s + 1 < plan.outage:
            short += 1
            await calls.place(gateway.uri, [OUTAGE_CALL_S], plan.seed + 1000 + short)
        await asyncio.sleep(5 * TICK_S)
    found.marks["back_ns"] = time.monotonic_ns()
    await asyncio.to_thread(server.start)
    while (at_s := time.monotonic() - killed_s) < plan.outage + 3.0:
        waiting = await see(gateway, "state_buffered")
        found.note("writes that wait", at_s, waiting)
        if not waiting and "replayed_s" not in found.figures:
            found.figures["replayed_s"] = round(at_s - plan.outage, 2)
        await asyncio.sleep(TICK_S)
    return short


async def _replayed(found: Found, server: StateServer, gateway: GatewayUnderTest, calls: int) -> None:
    """Everything is with the server: each call ended, charged once, nothing dropped."""

    def settled(m: dict[str, float]) -> bool:
        return not m["microturn_state_buffered"] and not m["microturn_state_leases"]

    await asyncio.to_thread(gateway.wait_for, settled, REPLAY_S)
    sessions = [decode(Session, record) for record in server.records("session")]
    cdrs = [decode(Cdr, record) for record in server.records("cdr")]
    seen = await asyncio.to_thread(gateway.metrics)
    found.figures |= {
        "sessions_complete": sum(s.ended_ms > s.began_ms for s in sessions),
        "cdrs_complete": sum(c.ended_ms > c.began_ms and c.reason == "over" for c in cdrs),
        "calls": calls,
        "writes_dropped": int(seen["microturn_state_dropped_total"]),
        "reconnects": int(seen["microturn_state_reconnects_total"]),
        "turns_missed": int(seen["microturn_turns_missed_total"]),
        "turns_late": int(seen["microturn_turns_late_total"]),
        "said_away": sum("Redis is away: calls go on" in line for line in gateway.lines),
        "said_back": sum("Redis is back" in line and "writes_waiting" in line for line in gateway.lines),
    }


# -- a gateway is drained


async def drain(plan: Plan) -> Found:
    """SIGTERM once all are up; they end over the same time again, each by its caller."""
    found = Found()
    with state_server() as server:
        longest_s = plan.calls / PLACED_PER_S + 4 * plan.seconds
        drain_s = str(round(longest_s) + 10)
        with GatewayUnderTest.start(
            wish(plan, server.url, plan.calls + SPARE_CALLS, drain_s=drain_s)
        ) as gateway:
            async with callers() as calls:
                ramp_s = plan.calls / PLACED_PER_S
                lengths = [
                    ramp_s - n / PLACED_PER_S + plan.seconds * (1 + (n + 1) / plan.calls)
                    for n in range(plan.calls)
                ]
                await calls.place(gateway.uri, lengths, plan.seed)
                await asyncio.sleep(SETTLE_S)
                refused = await _drained(plan, found, gateway, calls)
                logs = await calls.finish()
            up = gateway.only("up") if gateway.processes() else None
            ended_s = time.monotonic()
            while up is not None and up.alive and time.monotonic() - ended_s < 10.0:
                await asyncio.sleep(TICK_S)
        cdrs = [decode(Cdr, record) for record in server.records("cdr")]
    found.reports = [report_call(log) for log in logs[: plan.calls]]
    found.figures |= {
        "answered": sum(one.answered for one in found.reports),
        "ended_by_caller": sum(one.ended_by == "us" for one in found.reports),
        "dropped": sum(one.ended_by != "us" for one in found.reports),
        "refused_while_draining": [log.status for log in refused],
        "gone_after_last_call_s": round(time.monotonic() - ended_s, 1),
        "left_behind": len(getattr(gateway, "left_behind", [])),
        "cdrs_over": sum(cdr.reason == "over" and cdr.ended_ms > 0 for cdr in cdrs),
        "cdrs_stopped": sum(cdr.reason == "stopped" for cdr in cdrs),
    } | audio(found.reports)
    return found


async def _drained(plan: Plan, found: Found, gateway: GatewayUnderTest, calls: Callers) -> list[CallLog]:
    """Tell it to stop, watch, and call once more: gives that call."""
    found.figures["live_at_sigterm"] = int(await see(gateway, "calls_live"))
    os.kill(gateway.only("up").pid, signal.SIGTERM)
    begun_s = time.monotonic()
    found.marks["SIGTERM"] = 0.0
    await asyncio.sleep(0.5)
    found.figures["ready_status"] = await asyncio.to_thread(_status, f"{gateway.http}/readyz")
    await calls.place(gateway.uri, [PROBE_S], plan.seed + 5000)
    probe = await calls.tasks[-1]
    while any(not task.done() for task in calls.tasks):
        live = sum(not task.done() for task in calls.tasks)
        found.note("live calls", time.monotonic() - begun_s, live)
        await asyncio.sleep(5 * TICK_S)
    return [probe]


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=2.0) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return 0
