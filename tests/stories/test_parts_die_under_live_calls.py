"""SIGKILL of each part while people talk, and a part that stands still: who notices, and who does not.

How good it sounds meanwhile is measured by `python -m loadtests faults`; here stand the facts.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest

from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.report import report_call
from gateway.caller.signals import numbered_tones
from loadtests.faults.calls import lag_ms, live_calls
from loadtests.faults.killed import judge_model_server_killed
from loadtests.faults.outcome import Outcome
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish

pytestmark = pytest.mark.processes

CALLS = 4


def still_heard(logs: list[CallLog]) -> int:
    """Calls that ended by our own BYE, answered, with packets to the last second."""
    return sum(log.ended_by == "us" and log.arrivals_ns[-1] > log.listened_until_ns - 10**9 for log in logs)


@pytest.fixture(scope="module")
def whole() -> Iterator[GatewayUnderTest]:
    """One for the stories after which all of it is there again."""
    with GatewayUnderTest.start(GatewayWish(calls=CALLS)) as started:
        yield started


@pytest.fixture
def gateway(whole: GatewayUnderTest) -> GatewayUnderTest:
    """That one, when nobody calls and all of its workers are ready."""
    whole.wait_for(lambda m: m["microturn_calls_live"] == 0 and m["microturn_model_slots_leased"] == 0)
    whole.wait_for(lambda m: m["microturn_workers_ready"] == len(whole.workers()) > 0)
    return whole


@pytest.mark.long
def test_a_worker_that_stood_still_for_a_second_answers_on_time_again(gateway: GatewayUnderTest) -> None:
    stood_ns: list[int] = []

    async def story(gateway: GatewayUnderTest) -> list[CallLog]:
        async with live_calls(gateway) as calls:
            await calls.place(CALLS, 9.0)
            await calls.until(lambda m: m["microturn_turns_cut_total"] > 10 * CALLS)  # 2 s are heard before
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for worker in gateway.workers():
                    os.kill(worker.pid, number)
                stood_ns.append(time.monotonic_ns())
                await asyncio.sleep(1.2)
            return await calls.finish(after_s=3.0)

    logs = asyncio.run(story(gateway))
    assert still_heard(logs) == CALLS
    metrics = gateway.metrics()
    stopped_ns, continued_ns = stood_ns
    for log in logs:
        report = report_call(log)
        before = lag_ms(report, 0, stopped_ns - 10**9)
        after = lag_ms(report, continued_ns + 2 * 10**9, log.listened_until_ns)
        assert before is not None and after is not None, "nothing is heard again"
        assert after < before + 45, "two seconds later the delay is back, but for two frames"
    assert metrics["microturn_turns_late_total"] < 5 * CALLS


def test_the_gateway_dies_and_takes_its_calls_back(gateway: GatewayUnderTest) -> None:
    async def story(gateway: GatewayUnderTest) -> list[CallLog]:
        async with live_calls(gateway) as calls:
            await calls.place(CALLS, 4.0)
            workers = gateway.workers()
            victim = gateway.only("gateway")
            victim.kill()
            await asyncio.to_thread(gateway.successor, victim)
            await calls.until(lambda m: m["microturn_edge_calls_adopted_total"] == CALLS)
            assert gateway.workers() == workers
            return await calls.finish()

    assert still_heard(asyncio.run(story(gateway))) == CALLS
    gateway.wait_for(lambda m: m["microturn_calls_live"] == 0 and m["microturn_model_slots_leased"] == 0)


@pytest.mark.long
def test_the_model_server_dies_and_every_call_goes_on_with_the_next(gateway: GatewayUnderTest) -> None:
    async def story(gateway: GatewayUnderTest) -> list[CallLog]:
        async with live_calls(gateway) as calls:
            await calls.place(CALLS, 4.0)
            victim = gateway.only("model-server")
            victim.kill()
            heir, _ = await asyncio.to_thread(gateway.successor, victim)
            assert heir.pid != victim.pid
            await calls.until(lambda m: m["microturn_model_slots_leased"] == CALLS)
            await calls.until(lambda m: m["microturn_turns_total"] > 0)
            return await calls.finish()

    epochs = len(gateway.epochs())
    logs = asyncio.run(story(gateway))
    assert still_heard(logs) == CALLS
    assert len(gateway.epochs()) == epochs + 1
    gateway.wait_for(lambda m: m["microturn_calls_live"] == 0 and m["microturn_model_slots_leased"] == 0)
    gateway.wait_for(lambda m: m["microturn_model_servers_lost_total"] >= 1)
    assert gateway.metrics()["microturn_calls_lost_total"] == 0


def test_the_spare_model_server_is_heard_within_a_second() -> None:
    killed: dict[str, int] = {}
    turns_before = 10  # 2 s of the 3 s that the calls have been up for

    async def story(gateway: GatewayUnderTest) -> list[CallLog]:
        async with live_calls(gateway) as calls:
            await calls.place(CALLS, 4.0)
            victim = gateway.only("model-server")
            killed["ns"] = victim.kill()
            heir, killed["born_ns"] = await asyncio.to_thread(gateway.successor, victim)
            assert heir.pid == spare.pid
            killed["ready_ns"] = await calls.until(lambda m: m["microturn_model_slots_leased"] == CALLS)
            await calls.until(lambda m: m["microturn_model_turns_rebuilt_total"] >= CALLS * turns_before)
            return await calls.finish()

    with GatewayUnderTest.start(GatewayWish(calls=CALLS, settings={"spare_model_server": "on"})) as gateway:
        spare = gateway.spare("model-server")
        logs = asyncio.run(story(gateway))
        assert gateway.spare("model-server").pid != spare.pid, "and the next one waits"
    outcome = Outcome("story")
    judge_model_server_killed(outcome, logs, killed["ns"], killed["born_ns"], killed["ready_ns"])
    broken = [told for told in outcome.broken if "gaps at other times" not in told]  # for the load test
    assert not broken and outcome.figures["calls"] == CALLS, outcome.line()
    assert outcome.figures["speech_after_kill_s"] < 1.0, outcome.line()


def test_a_worker_dies_with_its_calls_and_no_others() -> None:
    async def story(gateway: GatewayUnderTest) -> list[CallLog]:
        async with live_calls(gateway) as calls:
            await calls.place(CALLS, 4.0)
            workers = gateway.workers()
            assert [len(gateway.rtp_ports(worker)) for worker in workers] == [2, 2]
            workers[0].kill()
            await asyncio.to_thread(gateway.successor, workers[0])
            await calls.until(lambda m: m["microturn_workers_ready"] == 2)
            async with Caller() as caller:
                pcm = numbered_tones(1.0, 8000, seed=9)
                again = await caller.place(CallPlan(gateway.uri, "PCMU", pcm, 8000))
            assert again.answered
            return await calls.finish()

    # six places: two workers of three, with either pjsua2
    with GatewayUnderTest.start(GatewayWish(calls=6, settings={"sip_calls_per_worker": "3"})) as gateway:
        logs = asyncio.run(story(gateway))
        assert gateway.metrics()["microturn_calls_lost_total"] == 2
        struck = [log for log in logs if log.arrivals_ns[-1] < log.listened_until_ns - 10**9]
        assert len(struck) == 2
        assert still_heard([log for log in logs if not any(log is other for other in struck)]) == 2
        gateway.wait_for(lambda m: m["microturn_calls_live"] == 0 and m["microturn_model_slots_leased"] == 0)
