"""Hostile traffic beside live calls: at the edge, and past it at a worker."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.caller.report import report_call
from loadtests import beside
from loadtests.faults.calls import S, check_all_free, check_new_call, check_untouched, live_calls
from loadtests.faults.outcome import Outcome, Plan
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish, Process
from loadtests.hostile.agent import Agent
from loadtests.hostile.known import crash_messages
from loadtests.hostile.message import Address, Hop
from loadtests.hostile.sender import Datagrams

TORTURE = Path(__file__).parents[3] / "shared/data/sip/rfc4475"
STRIKES_S = 15.0
"""Longer than all strikes take: five, each with a successor that starts in half a second."""
DIES_WITHIN_S = 1.0


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


async def worker_struck(plan: Plan) -> Outcome:
    """The known crash messages past the edge, straight at the SIP port of one worker that has calls.

    Each is sent to whoever has the worker's place by then. The wheel must die of at least one, or nothing is
    shown; our own build must not. Either way the calls of the other workers hear nothing of it.
    """
    outcome = Outcome("worker-struck")
    wish = GatewayWish(calls=12, settings={"sip_calls_per_worker": "4"})
    with GatewayUnderTest.start(wish) as gateway:
        async with live_calls(gateway) as calls:
            await calls.place(9, STRIKES_S)
            first = gateway.workers()[1]
            theirs = len(gateway.rtp_ports(first))
            begin_ns = time.monotonic_ns()
            deaths = await _strike(gateway, first)
            struck_s = (time.monotonic_ns() - begin_ns) / S
            lost_count = gateway.metrics()["microturn_calls_lost_total"]
            logs = await calls.finish()
        await check_new_call(gateway, outcome)
        await check_all_free(gateway, outcome)
    lost = [log for log in logs if not log.arrivals_ns or log.arrivals_ns[-1] < log.listened_until_ns - S]
    outcome.figures |= {
        "calls": len(logs),
        "on_the_struck_worker": theirs,
        "sent": len(deaths),
        "killed_by": "; ".join(name for name, died in deaths.items() if died),
        "attack_s": round(struck_s, 1),
        "lost": len(lost),
        "lost_in_metrics": int(lost_count),
    }
    outcome.expect(theirs == 3, f"9 calls on 3 workers, but {theirs} on {first.name}")
    outcome.expect(struck_s < STRIKES_S, "the calls were over before the last message")
    outcome.expect(not plan.wheel or any(deaths.values()), "no worker died: nothing is shown")
    outcome.expect(plan.wheel or not any(deaths.values()), f"{sum(deaths.values())} workers died of it")
    wanted = theirs if any(deaths.values()) else 0
    outcome.expect(len(lost) == wanted, f"{len(lost)} calls were lost, but {wanted} were the worker's")
    outcome.expect(lost_count == wanted, f"the gateway counts {lost_count:.0f} lost calls")
    check_untouched(outcome, [report_call(log) for log in logs if not any(log is one for one in lost)])
    return outcome


async def _strike(gateway: GatewayUnderTest, first: Process) -> dict[str, bool]:
    """Each crash message at the worker of this name as it is then; whether it died of it, by message."""
    rng = random.Random("strike")
    unused = Hop(Address("127.0.0.1", 0), Address("127.0.0.1", 0))
    names = [message.name for message in crash_messages(rng, unused, unused)]
    deaths: dict[str, bool] = {}
    for index, name in enumerate(dict.fromkeys(names)):
        worker = gateway.only("sip-worker", first.name)
        transport, link = await _link_to(Address("127.0.0.1", gateway.inside_port(worker)), rng)
        path = link.agent.path
        link.send(crash_messages(rng, path, path)[index].data)
        deadline_s = time.monotonic() + DIES_WITHIN_S
        while worker.alive and time.monotonic() < deadline_s:
            await asyncio.sleep(0.02)
        deaths[name] = not worker.alive
        if deaths[name]:
            await asyncio.to_thread(gateway.successor, worker)
            await asyncio.to_thread(
                gateway.wait_for, lambda m: m["microturn_workers_ready"] == len(gateway.workers()) == 3
            )
        else:  # it may have taken the call: let the agent end it
            await asyncio.sleep(DIES_WITHIN_S)
        transport.close()
    return deaths


async def _link_to(target: Address, rng: random.Random) -> tuple[asyncio.DatagramTransport, Datagrams]:
    """A UDP socket with an agent that ends whatever call comes about."""
    codes: Counter[str] = Counter()
    return await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Datagrams(lambda local: Agent(Hop(local, target), rng, codes), target),
        local_addr=("127.0.0.1", 0),
    )


async def _attack(plan: Plan, gateway: GatewayUnderTest, targets: Sequence[str]) -> dict[str, Any]:
    """`loadtests.hostile` in a process of its own; its JSON."""
    arguments = ["--target", gateway.uri.removeprefix("sip:"), "--rtp-targets", ",".join(targets)]
    arguments += ["--sip", str(plan.hostile_sip), "--rtp", str(plan.hostile_rtp), "--seed", "1"]
    if TORTURE.is_dir():
        arguments += ["--torture", str(TORTURE)]
    _, told = await beside.run("loadtests.hostile", *arguments)
    return told
