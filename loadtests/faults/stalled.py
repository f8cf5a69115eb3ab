"""SIGSTOP and SIGCONT of each kind of process under live calls: it is there, and does nothing.

Nobody is told of it: no socket closes and no child ends. What holds then is what each part does by itself, since
there is no heartbeat that could take a slow part for a dead one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.report import report_call
from loadtests.faults.calls import S, check_all_free, check_new_call, check_untouched, live_calls
from loadtests.faults.heard import BACK_S, Promise, Span, judge_heard
from loadtests.faults.outcome import Outcome, Plan
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish, Process

BETWEEN_S = 4.0
"""After each stall: the 2 s until nothing is heard of it, and 2 s of which the lag is measured."""
SLOW_S, SLOW_STOP_S, SLOW_GO_S = 4.0, 0.3, 0.1
"""Of every 0.4 s the model server has 0.1 s, so that a step takes longer than a turn."""
PROBE_AT_S, PROBE_S = 0.2, 2.0
"""A new call while a part stands still."""
CHANGE_S = 0.4
"""A worker that has stood still gives what waits in its sockets back by leaving sound out: its delay falls. Of a
window of so long across such a change nothing is found, though most of it is heard."""
GROWN = ("turns_missed", "turns_late", "rings_full", "replies_stale", "calls_lost", "model_servers_lost")

Hold = Callable[[Process], Awaitable[list[Span]]]


async def stall(process: Process, seconds: float) -> Span:
    """It stands still for so long."""
    begin_ns = process.stop()
    try:
        await asyncio.sleep(seconds)
    finally:
        end_ns = process.go_on()
    return begin_ns, end_ns


async def stalls(process: Process, lengths_s: tuple[float, ...]) -> list[Span]:
    """One after the other, with quiet time behind each."""
    spans = []
    for seconds in lengths_s:
        spans.append(await stall(process, seconds))
        await asyncio.sleep(BETWEEN_S)
    return spans


def seconds_of(lengths_s: tuple[float, ...]) -> float:
    """How long `stalls` takes."""
    return sum(lengths_s) + BETWEEN_S * len(lengths_s)


def grown(
    before: dict[str, float], after: dict[str, float], names: tuple[str, ...] = GROWN
) -> dict[str, int]:
    """What counters grew by."""
    return {
        name: int(after.get(f"microturn_{name}_total", 0) - before.get(f"microturn_{name}_total", 0))
        for name in names
    }


async def model_server_stalled(plan: Plan) -> Outcome:
    """Comfort sound while it stands still, speech with the lag of before at most 2 s after; nothing replayed."""
    seconds = seconds_of(plan.stalls_s)
    return await _hold_model_server(
        plan,
        Outcome("model-server-stalled"),
        seconds,
        lambda server: stalls(server, plan.stalls_s),
        Promise(),
    )


async def model_slow(plan: Plan) -> Outcome:
    """For some seconds each step takes longer than a turn: what is late is not played, then all is as before."""

    async def slow(server: Process) -> list[Span]:
        begin_ns = end_ns = time.monotonic_ns()
        while end_ns < begin_ns + SLOW_S * S:
            end_ns = (await stall(server, SLOW_STOP_S))[1]
            await asyncio.sleep(SLOW_GO_S)
        await asyncio.sleep(BETWEEN_S)
        return [(begin_ns, end_ns)]

    # between two stops whole turns get through: speech in the gap is as it should be
    seconds = SLOW_S + SLOW_STOP_S + SLOW_GO_S + BETWEEN_S
    return await _hold_model_server(plan, Outcome("model-slow"), seconds, slow, Promise(comfort=False))


async def _hold_model_server(
    plan: Plan, outcome: Outcome, seconds: float, hold: Hold, promise: Promise
) -> Outcome:
    with GatewayUnderTest.start(GatewayWish(calls=plan.calls)) as gateway:
        async with live_calls(gateway) as calls:
            await calls.place(plan.calls, seconds + 1.0)
            before = await asyncio.to_thread(gateway.metrics)
            server = gateway.only("model-server")
            spans = await hold(server)
            outcome.figures |= grown(before, await asyncio.to_thread(gateway.metrics))
            logs = await calls.finish()
        await check_all_free(gateway, outcome)
        await check_new_call(gateway, outcome)
        outcome.expect(gateway.only("model-server").pid == server.pid, "the model server was replaced")
    judge_heard(outcome, logs, spans, promise)
    outcome.expect(outcome.figures["gap_ms_worst"] > 0, "nobody missed anything: nothing is shown")
    counted = sum(outcome.figures[name] for name in ("turns_missed", "turns_late", "rings_full"))
    outcome.expect(counted > 0, "nothing of it was counted")
    return outcome


async def sip_worker_stalled(plan: Plan) -> Outcome:
    """One of three workers: its calls hear nothing meanwhile and go on, the others notice nothing."""
    outcome = Outcome("sip-worker-stalled")
    wish = GatewayWish(calls=12, settings={"sip_calls_per_worker": "4"})
    with GatewayUnderTest.start(wish) as gateway:
        async with live_calls(gateway) as calls:
            new = calls.plan(PROBE_S)
            await calls.place(9, seconds_of(plan.stalls_s) + 1.0)
            worker = gateway.workers()[1]
            ports = set(gateway.rtp_ports(worker))
            before = await asyncio.to_thread(gateway.metrics)
            probe = await _probe_during(new, worker, plan.stalls_s)
            outcome.figures |= grown(before, await asyncio.to_thread(gateway.metrics))
            logs = await calls.finish()
            outcome.expect(worker in gateway.workers(), "the worker was replaced")
        await check_all_free(gateway, outcome)
        await check_new_call(gateway, outcome)
    theirs = [log for log in logs if log.media_at is not None and log.media_at[1] in ports]
    outcome.expect(len(theirs) == 3, f"9 calls on 3 workers, but {len(theirs)} on {worker.name}")
    others = [log for log in logs if not any(log is one for one in theirs)]
    struck = Outcome("")
    promise = Promise(BACK_S + CHANGE_S, packets=False, comfort=False)
    judge_heard(struck, theirs, probe.spans, promise)
    outcome.broken += struck.broken
    check_untouched(outcome, [report_call(log) for log in others])
    untouched_ms = outcome.figures["gap_ms_worst"]
    outcome.figures |= struck.figures | {"untouched_gap_ms_worst": untouched_ms} | probe.figures()
    outcome.figures |= {"calls": len(logs), "struck": len(theirs)}
    outcome.expect(outcome.figures["gap_ms_worst"] > 0, "nobody missed anything: nothing is shown")
    return outcome


async def gateway_stalled(plan: Plan) -> Outcome:
    """Its main process: no call hears of it, and a new one waits."""
    outcome = Outcome("gateway-stalled")
    with GatewayUnderTest.start(GatewayWish(calls=12)) as gateway:
        async with live_calls(gateway) as calls:
            new = calls.plan(PROBE_S)
            await calls.place(8, seconds_of(plan.stalls_s) + 1.0)
            workers, main = gateway.workers(), gateway.only("gateway")
            probe = await _probe_during(new, main, plan.stalls_s)
            logs = await calls.finish()
            outcome.expect(gateway.workers() == workers, "workers were replaced")
            outcome.expect(gateway.only("gateway").pid == main.pid, "the main process was replaced")
        await check_all_free(gateway, outcome)
        await check_new_call(gateway, outcome)
    unanswered = [log for log in logs if log.ended_by != "us"]
    outcome.figures |= {"calls": len(logs), "ended_calls": len(unanswered), **probe.figures()}
    outcome.expect(not unanswered, f"{len(unanswered)} calls were ended, or their BYE was not answered")
    outcome.expect(probe.log.answered, f"the call of meanwhile got {probe.log.status} {probe.log.reason}")
    check_untouched(outcome, [report_call(log) for log in logs])
    return outcome


class Probe:
    """A call that was placed while a part stood still, and when that was."""

    def __init__(self, log: CallLog, spans: list[Span]) -> None:
        self.log, self.spans = log, spans

    def figures(self) -> dict[str, object]:
        """What became of it."""
        answered_s = (
            round((self.log.answered_ns - self.log.invited_ns) / S, 2) if self.log.answered_ns else None
        )
        return {"call_meanwhile": self.log.status, "call_meanwhile_answered_s": answered_s}


async def _probe_during(plan: CallPlan, part: Process, lengths_s: tuple[float, ...]) -> Probe:
    """A call while the part stands still for the first time."""
    async with Caller() as caller:
        stalling = asyncio.create_task(stalls(part, lengths_s))
        await asyncio.sleep(PROBE_AT_S)
        placing = asyncio.create_task(caller.place(plan))
        spans = await stalling
        return Probe(await placing, spans)
