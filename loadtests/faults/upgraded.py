"""A live upgrade of the model server under live calls, as an operator asks for it."""

from __future__ import annotations

import asyncio
import time

from gateway.caller.report import report_call
from gateway.operator import ask
from loadtests.faults.calls import S, check_all_free, check_new_call, check_untouched, live_calls
from loadtests.faults.outcome import Outcome, Plan
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish

CALLS_S = 27.0
"""Longer than loading, moving and waiting for calls that speak."""
AFTER_S = 3.0


async def model_server_upgraded(plan: Plan) -> Outcome:
    """A new model server takes over from the one that serves; nobody may hear of it."""
    outcome = Outcome("model-server-upgraded")
    wish = GatewayWish(calls=plan.calls, settings={"spare_model_server": "on"})
    with GatewayUnderTest.start(wish) as gateway:
        await asyncio.to_thread(gateway.spare, "model-server")
        async with live_calls(gateway) as calls:
            await calls.place(plan.calls, CALLS_S)
            old = gateway.only("model-server")
            before = await asyncio.to_thread(gateway.metrics)
            asked_ns = time.monotonic_ns()
            told = await ask(gateway.run_dir, lambda said: None)
            await asyncio.sleep(AFTER_S)
            now = await asyncio.to_thread(gateway.metrics)
            heir = gateway.only("model-server")
            logs = await calls.finish()
        await check_all_free(gateway, outcome)
        await check_new_call(gateway, outcome)
    counted = {
        name: int(now[f"microturn_{name}_total"] - before[f"microturn_{name}_total"])
        for name in ("turns_missed", "turns_late", "replies_stale", "calls_lost")
    }
    reports = [report_call(log) for log in logs]
    ended = [log for log in logs if log.ended_by != "us"]
    outcome.figures |= {
        "calls": len(logs),
        "load_s": told.figures.get("load_s"),
        "move_s": told.figures.get("move_s"),
        "moved": int(now["microturn_calls_moved_total"]),
        "given_up": int(now["microturn_moves_given_up_total"]),
        "ended": len(ended),
        **counted,
        "gap_ms_by_call": sorted((report.gap_ms for report in reports), reverse=True)[:10],
        "gaps_s_after_request": sorted(
            round(float(report.windows.gap_starts_ns[0] - asked_ns) / S, 2)
            for report in reports
            if report.windows is not None and report.windows.gap_starts_ns.size
        ),
    }
    outcome.expect(told.done, f"the upgrade failed: {told.said}")
    outcome.expect(heir.pid != old.pid and not old.alive, "the old model server is still there")
    outcome.expect(outcome.figures["moved"] == len(logs), "not every call moved, or one did twice")
    outcome.expect(not ended, f"{len(ended)} calls were ended by others")
    outcome.expect(not any(counted.values()), f"counted: {counted}")
    check_untouched(outcome, reports)
    return outcome
