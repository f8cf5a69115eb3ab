"""Scanners at the SIP port: sipp in their clothes, beside calls that live and hear nothing of it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from gateway.caller.report import report_call
from loadtests.faults.calls import check_new_call, check_untouched, live_calls
from loadtests.faults.outcome import Outcome
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish

pytestmark = [pytest.mark.processes, pytest.mark.sip]

SCENARIO = """<?xml version="1.0"?>
<scenario name="scanner"><send><![CDATA[
{method} sip:[call_number]@[remote_ip] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: "sipvicious" <sip:100@1.1.1.1>;tag=[call_number]
To: "sipvicious" <sip:100@1.1.1.1>
Call-ID: [call_id]
CSeq: 1 {method}
Contact: <sip:100@[local_ip]:[local_port]>
Max-Forwards: 70
User-Agent: {agent}
Content-Length: 0

]]></send></scenario>
"""
REQUESTS = 1000
SETTINGS = {"sip_unlimited": "127.0.0.1/32", "sip_allow": "127.0.0.0/23"}


async def scan(folder: Path, gateway: GatewayUnderTest, source: str, method: str, agent: str) -> None:
    """`REQUESTS` of sipp from an address, none of which waits for an answer."""
    file = folder / f"{method}-{source}.xml"
    file.write_text(SCENARIO.format(method=method, agent=agent))
    target = gateway.uri.removeprefix("sip:")
    process = await asyncio.create_subprocess_exec(
        "sipp", "-sf", str(file), target, "-i", source, "-m", str(REQUESTS), "-r", "500", "-timeout", "30",
        cwd=folder, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    await process.wait()


@pytest.mark.skipif(not shutil.which("sipp"), reason="sipp is not installed: apt-get install sip-tester")
def test_four_calls_hear_nothing_of_three_scanners(tmp_path: Path) -> None:
    outcome = Outcome("scanners")

    async def story(gateway: GatewayUnderTest) -> None:
        async with live_calls(gateway) as calls:
            await calls.place(4, 12.0)
            await asyncio.gather(
                scan(tmp_path, gateway, "127.0.1.1", "REGISTER", "friendly-scanner"),
                scan(tmp_path, gateway, "127.0.1.2", "OPTIONS", "something else"),
                scan(tmp_path, gateway, "127.0.2.1", "REGISTER", "a stranger's"),
            )
            check_untouched(outcome, [report_call(log) for log in await calls.finish(after_s=1.0)])
        await check_new_call(gateway, outcome)

    with GatewayUnderTest.start(GatewayWish(calls=8, settings=SETTINGS)) as gateway:
        asyncio.run(story(gateway))
        metrics = gateway.wait_for(lambda m: m["microturn_calls_live"] == 0) and gateway.metrics()
        lines = [line for line in gateway.lines if " not heard " in line]
    counted = {
        name: metrics[f"microturn_guard_{name}_total"] for name in ("scanners", "strangers", "limited")
    }
    assert counted["scanners"] == counted["strangers"] == REQUESTS
    beyond = counted["limited"] + metrics["microturn_guard_silenced_total"]
    assert 800 <= beyond <= 900  # of 25 a second, with 100 at once
    assert metrics["microturn_guard_silences_total"] == 1
    assert metrics["microturn_turns_missed_total"] == 0
    assert len(lines) == 3, "one line a source and minute"
    assert not outcome.broken
