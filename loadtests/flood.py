"""`python -m loadtests flood`: what live calls hear of scanners at the SIP port.

    calls up -> as many seconds as the flood takes, quiet -> the flood -> all hang up -> figures of both spans

The calls are of 127.0.0.1, which is held to no rate; there are as many as the gateway takes, so that an INVITE
which gets through is refused where capacity is. The scanners are of 127.0.1.x, held to `sip_requests_per_s` as it
is by itself, and of 127.0.2.x, which `sip_allow` does not have (`loadtests.scanner`). Somebody asks for OPTIONS ten
times a second all the while. Last on standard output is one line of JSON; a row is kept in
`loadtests/results/flood.csv`.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from gateway.caller.report import CHUNK_MS, CallReport, report_call
from loadtests import beside, machine, processes, report
from loadtests.faults.calls import live_calls
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish

FRAME_MS = 20.0
PROBE_EVERY_S, PROBE_WITHIN_S = 0.1, 2.0
MARGIN_S = 2.0
NICE = 10
GUARD = (
    "strangers",
    "scanners",
    "refused",
    "limited",
    "silenced",
    "silences",
    "crowded",
    "stray_acks",
    "untold",
)
"""Counters of the guard, `microturn_guard_*_total` but for one."""
_METRICS = {"refused": 'microturn_admission_refused_total{by="guard",reason="rate"}'}
SETTINGS = {"sip_allow": "127.0.0.0/23", "sip_unlimited": "127.0.0.1/32"}
MS, S = 1_000_000, 1_000_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """One load test. Raises ValueError for what cannot be run."""

    calls: int
    requests: int
    per_s: float
    sources: int
    seed: int
    engine: str

    def __post_init__(self) -> None:
        if self.calls < 1 or self.requests < 1 or self.per_s <= 0:
            raise ValueError("--calls, --requests and --per-s must be positive")
        if self.calls > 60:
            raise ValueError(f"--calls {self.calls}: at most 60, which one process can pace beside the rest")

    @property
    def span_s(self) -> float:
        """How long the flood is meant to take."""
        return self.requests / self.per_s


@dataclass(frozen=True, slots=True)
class Span:
    """A time, what the metrics were at its ends, and CPU of the gateway's processes in it."""

    begin_ns: int
    end_ns: int
    before: dict[str, float]
    after: dict[str, float]
    usage: dict[str, processes.Usage]

    def of(self, times_ns: Any, values: Any) -> Any:
        """The values whose time lies in it."""
        return values[(times_ns >= self.begin_ns) & (times_ns < self.end_ns)]

    def grown(self, name: str) -> int:
        """What a counter grew by."""
        return int(self.after.get(name, 0) - self.before.get(name, 0))


class Probe(asyncio.DatagramProtocol):
    """Asks for OPTIONS by the clock; how long each answer took, None for those that never came."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._sent_ns: dict[bytes, int] = {}
        self.took_ns: dict[int, int | None] = {}
        """By when it was asked."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        for call_id, sent_ns in list(self._sent_ns.items()):
            if call_id in data:
                self.took_ns[sent_ns] = time.monotonic_ns() - sent_ns
                del self._sent_ns[call_id]

    async def run(self) -> None:
        """Until it is cancelled."""
        number = 0
        while True:
            call_id = b"probe-%d@127.0.0.1" % number
            now_ns = time.monotonic_ns()
            self._sent_ns[call_id] = now_ns
            self.took_ns[now_ns] = None
            self._transport.sendto(
                b"OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKp%d;rport\r\n"
                b"Max-Forwards: 70\r\nFrom: <sip:probe@127.0.0.1>;tag=%d\r\nTo: <sip:127.0.0.1>\r\n"
                b"Call-ID: %b\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n" % (number, number, call_id),
                self._target,
            )
            number += 1
            await asyncio.sleep(PROBE_EVERY_S)

    def between(self, span: Span) -> dict[str, Any]:
        """Percentiles in ms of what was asked in a time, and how much had no answer."""
        asked = {at: took for at, took in self.took_ns.items() if span.begin_ns <= at < span.end_ns}
        took = np.array([took / MS for took in asked.values() if took is not None])
        lost = sum(t is None or t > PROBE_WITHIN_S * S for t in asked.values())
        return {**report.percentiles(took), "asked": len(asked), "unanswered": lost}


def main(argv: list[str]) -> int:
    """See `report.carry_out`."""
    parser = argparse.ArgumentParser(prog="python -m loadtests flood")
    parser.add_argument("--calls", type=int, default=8, help="live at once")
    parser.add_argument("--requests", type=int, default=100_000, help="of scanners")
    parser.add_argument("--per-s", type=float, default=4000.0, help="requests a second")
    parser.add_argument("--sources", type=int, default=16, help="addresses of each of two networks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", default="echo")
    asked = vars(parser.parse_args(argv))
    command = shlex.join(["python", "-m", "loadtests", "flood", *argv])
    return report.carry_out("flood", lambda: Plan(**asked), lambda plan: run(plan, command))


def run(plan: Plan, command: str, results: Path = report.RESULTS) -> dict[str, Any]:
    """Measure, and keep what was found."""
    with machine.witnessed() as stalls:
        result, flood, reports = asyncio.run(measure(plan))
    result["machine"] = stalls.figures((flood.begin_ns, flood.end_ns), report.gap_starts(reports))
    row = report.surroundings(command) | report.flatten(result)
    report.append_row(results / "flood.csv", row)
    return result


async def measure(plan: Plan) -> tuple[dict[str, Any], Span, list[CallReport]]:
    """The figures, the time of the flood, and the calls."""
    with GatewayUnderTest.start(GatewayWish(plan.calls, plan.engine, settings=SETTINGS)) as gateway:
        host, _, port = gateway.uri.removeprefix("sip:").rpartition(":")
        target = host, int(port)
        transport, probe = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Probe(target), local_addr=("127.0.0.1", 0)
        )
        probing = asyncio.create_task(probe.run(), name="probe")
        try:
            async with live_calls(gateway) as calls:
                await calls.place(plan.calls, 2 * plan.span_s + 4 * MARGIN_S)
                quiet, _ = await _span(gateway, asyncio.sleep(plan.span_s))
                memory_mb = await asyncio.to_thread(_memory_mb, gateway)
                flood, told = await _span(gateway, _scan(plan, target))
                grown_mb = await asyncio.to_thread(_memory_mb, gateway) - memory_mb
                drops = await asyncio.to_thread(_dropped_by_the_kernel, target[1])
                logs = await calls.finish()
            await asyncio.to_thread(gateway.wait_for, lambda m: m["microturn_calls_live"] == 0)
        finally:
            probing.cancel()
            transport.close()
        lines = sum(" not heard " in line for line in list(gateway.lines))
    reports = [report_call(log) for log in logs]
    guarded = {name: flood.grown(_METRICS.get(name, f"microturn_guard_{name}_total")) for name in GUARD}
    heard = sum(guarded[name] for name in GUARD[:5])
    return (
        {
            "calls": plan.calls,
            "answered": sum(one.answered for one in reports),
            "ended_early": sum(one.ended_by == "peer" for one in reports),
            "requests": told["sent"],
            "flood_s": told["seconds"],
            "per_s": round(told["sent"] / max(told["seconds"], 1e-3)),
            "sources": 2 * plan.sources,
            "answers": told["answers"],
            "guard": guarded,
            "passed": told["sent"] - heard - drops,
            "not_heard": heard,
            "dropped_by_the_kernel": drops,
            "log_lines": lines,
            "quiet": _heard(reports, quiet, probe),
            "flood": _heard(reports, flood, probe),
            "gateway_grown_mb": round(grown_mb, 2),
            "engine": plan.engine,
        },
        flood,
        reports,
    )


def _heard(reports: Sequence[CallReport], span: Span, probe: Probe) -> dict[str, Any]:
    """What calls heard in a time, and what it cost."""
    seconds = (span.end_ns - span.begin_ns) / S
    windows = [one.windows for one in reports if one.windows is not None]
    starts = [span.of(w.gap_starts_ns, w.gap_starts_ns) for w in windows]
    delays = [span.of(w.sent_ns, w.delay_ms) for w in windows]
    return {
        "seconds": round(seconds, 1),
        "turns_missed": span.grown("microturn_turns_missed_total"),
        "turns_late": span.grown("microturn_turns_late_total"),
        "turns": span.grown("microturn_turns_cut_total"),
        "gap_ms": FRAME_MS * sum(one.size for one in starts),
        "gap_ms_worst_call": FRAME_MS * max((one.size for one in starts), default=0),
        "delay_ms": report.percentiles(np.concatenate([*delays, np.zeros(0)]) - CHUNK_MS),
        "options_ms": probe.between(span),
        "cpu_percent": {
            kind: round(100 * usage.cpu_s / seconds, 2) for kind, usage in sorted(span.usage.items())
        },
    }


async def _span(gateway: GatewayUnderTest, what: Any) -> tuple[Span, Any]:
    """Look, do it, and look again."""
    pid = gateway.only("up").pid
    first = await asyncio.to_thread(processes.sample, pid)
    before = await asyncio.to_thread(gateway.metrics)
    begin_ns = time.monotonic_ns()
    result = await what
    end_ns = time.monotonic_ns()
    last = await asyncio.to_thread(processes.sample, pid)
    await asyncio.sleep(1.1)  # workers report once a second
    after = await asyncio.to_thread(gateway.metrics)
    return Span(begin_ns, end_ns, before, after, dict(processes.usage_by_kind(first, last))), result


async def _scan(plan: Plan, target: tuple[str, int]) -> dict[str, Any]:
    """`loadtests.scanner` in a process of its own; its JSON."""
    status, told = await beside.run(
        "loadtests.scanner",
        *("--target", f"{target[0]}:{target[1]}", "--requests", str(plan.requests)),
        *("--per-s", str(plan.per_s), "--sources", str(plan.sources), "--seed", str(plan.seed)),
        nice=NICE,
    )
    if status != 0:
        raise RuntimeError(f"loadtests.scanner ended with {status}")
    return told


def _memory_mb(gateway: GatewayUnderTest) -> float:
    return gateway.only("gateway").pss_kb() / 1000


def _dropped_by_the_kernel(port: int) -> int:
    """Datagrams that found the socket's buffer full."""
    rows = (line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:])
    return sum(int(row[-1]) for row in rows if int(row[1].rpartition(":")[2], 16) == port)
