"""Two gateways, one state server, sessions that come and go at both; then all of one gateway dies at once.

What was the dead one's has to be free within seconds: its leases, its calls of the trunk's cap, its place among the
nodes. Every `TICK_S` the server is asked who has which call: none may ever have had two owners.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

from gateway.caller.calls import CallLog, CallPlan
from gateway.caller.signals import numbered_tones
from gateway.state.records import Cdr, decode
from loadtests.gateway_under_test import GatewayUnderTest
from loadtests.state_cases import (
    PLACED_PER_S,
    PROBE_S,
    RATE_HZ,
    SPARE_CALLS,
    TICK_S,
    Callers,
    Found,
    Plan,
    callers,
    state_server,
    wish,
)  # fmt: skip
from loadtests.state_server import StateServer

AGAIN_S = 0.5
"""After a refusal."""
SHORT_OF = 0.15
"""The trunk may have so much less than all sessions: its cap is reached, and what is free is taken at once."""
LOOK_S = 0.2
LEFT, RIGHT = "left", "right"


async def killed(plan: Plan) -> Found:
    """The right one dies; the left one goes on."""
    found = Found()
    cap = max(2, round(plan.calls * (1 - SHORT_OF)))
    trunk = json.dumps({"lab": {"hosts": ["127.0.0.1"], "calls": cap}})
    with state_server() as server, contextlib.ExitStack() as stack:
        gateways = []
        for name, port in ((LEFT, 30_000), (RIGHT, 40_000)):
            wished = wish(plan, server.url, plan.calls + SPARE_CALLS, port, trunks=trunk, node=name)
            gateways.append(stack.enter_context(GatewayUnderTest.start(wished)))
        watch = Watch(found, server, gateways)
        async with callers() as calls:
            await watch.churn(plan, calls)
        await asyncio.to_thread(gateways[0].wait_for, lambda m: m["microturn_state_leases"] == 0, 30.0)
        await asyncio.to_thread(gateways[0].wait_for, lambda m: m["microturn_cluster_permits"] == 0, 30.0)
        found.figures["cap"] = cap
        await watch.judge()
    return found


class Watch:
    """Both gateways, and what the server has of them meanwhile."""

    def __init__(self, found: Found, server: StateServer, gateways: list[GatewayUnderTest]) -> None:
        self.found, self._server, self._gateways = found, server, gateways
        self._owners: dict[str, set[str]] = {}
        self._killed_s = 0.0
        self._nodes: list[dict[str, Any]] = []
        self._logs: list[CallLog] = []
        self._over = False

    async def churn(self, plan: Plan, calls: Callers) -> None:
        """Until `plan.outage` after the kill."""
        loops = [asyncio.create_task(self._sessions(plan, calls, number)) for number in range(plan.calls)]
        watching = asyncio.create_task(self._look())
        await asyncio.sleep(plan.calls / PLACED_PER_S + plan.seconds)
        self.found.figures["live_at_kill"] = sum(not task.done() for task in calls.tasks)
        while (status := await self._one_more(calls)) == 200:  # a session ended just then
            await asyncio.sleep(TICK_S)
        self.found.figures["over_the_cap_before"] = status
        self._kill(self._gateways[1])
        probing = asyncio.create_task(self._probe(calls))
        await asyncio.sleep(plan.outage)
        self._over = True
        calls.wind_up()
        await asyncio.gather(*loops, probing)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    async def _sessions(self, plan: Plan, calls: Callers, number: int) -> None:
        """One after another, at the left or the right gateway, as long as that is there."""
        rng = random.Random(plan.seed * 10_007 + number)
        gateway, pcm = self._gateways[number % 2], numbered_tones(2.0, RATE_HZ, number)
        await asyncio.sleep(number / PLACED_PER_S)
        while not self._over:
            length_s = rng.uniform(*plan.sessions_s)
            task = calls.begin(CallPlan(gateway.uri, "PCMU", pcm, RATE_HZ, seconds=length_s, record=False))
            while not task.done():
                if number % 2 and self._killed_s:
                    task.cancel()
                    return
                await asyncio.sleep(TICK_S)
            log = task.result()
            self._logs.append(log)
            if not log.answered:
                await asyncio.sleep(AGAIN_S)

    async def _one_more(self, calls: Callers) -> int:
        """Status of one call more, at the left."""
        pcm = numbered_tones(PROBE_S, RATE_HZ, 1)
        return (await calls.begin(CallPlan(self._gateways[0].uri, "PCMU", pcm, RATE_HZ, PROBE_S))).status

    async def _probe(self, calls: Callers) -> None:
        """Until one more is taken: the dead one's are free, or a session of the left one ended just then."""
        while not self._over:
            asked_s = time.monotonic()
            if await self._one_more(calls) == 200:
                self.found.figures["next_taken_s"] = round(asked_s - self._killed_s, 2)
                return
            await asyncio.sleep(TICK_S)

    def _kill(self, gateway: GatewayUnderTest) -> None:
        """All of its processes, `up` first, which would start them again."""
        processes = sorted(gateway.processes(), key=lambda process: process.kind != "up")
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        self._killed_s = time.monotonic()
        self.found.marks["killed"] = 0.0
        self.found.figures["processes_killed"] = len(processes)

    async def _look(self) -> None:
        while True:
            leases = await asyncio.to_thread(self._server.leases)
            self._nodes = await asyncio.to_thread(_nodes, self._gateways[0].http)
            now_s, owners = time.monotonic(), list(leases.values())
            for call, owner in leases.items():
                self._owners.setdefault(call, set()).add(owner)
            for name in (LEFT, RIGHT):
                self.found.note(f"leases of {name}", now_s, owners.count(name))
            if self._killed_s:
                self._note_freed(now_s - self._killed_s, owners.count(RIGHT))
            await asyncio.sleep(LOOK_S)

    def _note_freed(self, at_s: float, leases: int) -> None:
        figures = self.found.figures
        if leases == 0:
            figures.setdefault("leases_expired_s", round(at_s, 2))
        if [node["node"] for node in self._nodes] == [LEFT]:
            figures.setdefault("node_gone_s", round(at_s, 2))

    async def judge(self) -> None:
        """After the last session."""
        figures = self.found.figures
        for name, points in self.found.series.items():
            self.found.series[name] = [(at_s - self._killed_s, value) for at_s, value in points]
        answered = [log.answered_ns for log in self._logs if log.answered_ns is not None]
        seen = await asyncio.to_thread(self._gateways[0].metrics)
        cdrs = [decode(Cdr, record) for record in self._server.records("cdr")]
        nodes = await asyncio.to_thread(_nodes, self._gateways[0].http)
        figures |= {
            "sessions": len(self._owners),
            "owned_twice": sum(len(owners) > 1 for owners in self._owners.values()),
            "charged_twice": len(cdrs) - len({cdr.call for cdr in cdrs}),
            "answered_after_kill": sum(at_ns > self._killed_s * 1e9 for at_ns in answered),
            "statuses": _statuses(self._logs),
            "leases_lost": int(seen["microturn_state_leases_lost_total"]),
            "fencing_refusals": int(seen["microturn_state_fencing_refusals_total"]),
            "permits_unchecked": int(seen["microturn_cluster_permits_unchecked_total"]),
            "nodes_at_end": [node["node"] for node in nodes],
            "room_at_end": [node.get("sip_free", 0) for node in nodes],
        }


def _statuses(logs: Sequence[CallLog]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for log in logs:
        counts[str(log.status)] = counts.get(str(log.status), 0) + 1
    return counts


def _nodes(http: str) -> list[dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"{http}/nodes", timeout=1.0) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())
            return found
    except (OSError, ValueError):
        return []
