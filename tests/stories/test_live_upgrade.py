"""A new model server takes over while people talk: real calls, a real `microturn up` and `microturn upgrade`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.caller.calls import CallLog
from gateway.caller.report import report_call
from loadtests.faults.calls import live_calls
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish

pytestmark = pytest.mark.processes

CALLS = 4
ROOT = Path(__file__).parents[2]


def upgrade(gateway: GatewayUnderTest) -> subprocess.CompletedProcess[str]:
    """`microturn upgrade`, as an operator types it."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", "upgrade", "--run-dir", str(gateway.run_dir)],
        env={k: v for k, v in os.environ.items() if not k.startswith("MICROTURN_")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
    )


def test_a_new_model_server_takes_over_and_no_turn_is_missed() -> None:
    async def story(gateway: GatewayUnderTest) -> list[CallLog]:
        async with live_calls(gateway) as calls:
            await calls.place(CALLS, 12.0)
            done = await asyncio.to_thread(upgrade, gateway)
            assert done.returncode == 0, (done.stdout, done.stderr, list(gateway.lines)[-20:])
            assert f"{CALLS} calls moved" in done.stdout
            assert gateway.only("model-server").pid != old.pid and not old.alive
            await calls.until(lambda m: m["microturn_model_slots_leased"] == CALLS)
            return await calls.finish()

    with GatewayUnderTest.start(GatewayWish(calls=CALLS)) as gateway:
        old = gateway.only("model-server")
        logs = asyncio.run(story(gateway))
        metrics = gateway.metrics()
        gateway.wait_for(lambda m: m["microturn_calls_live"] == 0 and m["microturn_model_slots_leased"] == 0)
    assert metrics["microturn_calls_moved_total"] == CALLS == metrics["microturn_model_calls_moved_total"]
    assert metrics["microturn_turns_missed_total"] == metrics["microturn_replies_stale_total"] == 0
    for log in logs:
        report = report_call(log)
        assert log.ended_by == "us" and report.gap_ms == 0, report
