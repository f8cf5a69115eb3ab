"""Whoever is killed while calls move from one model server to another: calls go on, and nothing is left behind."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from gateway.caller.calls import Caller, CallLog
from loadtests.faults.calls import LiveCalls, live_calls, tones
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish, Process
from tests.support.upgrades import UPGRADE_S, assert_goes_on, upgrade

pytestmark = pytest.mark.processes

CALLS = 4
CALL_S = 16.0
GONE_S = 15.0
"""After the last call; `up` is told of by nobody but the kernel."""


@dataclass(frozen=True, slots=True)
class Midway:
    """Some calls have moved, others have not."""

    gateway: GatewayUnderTest
    calls: LiveCalls
    old: Process
    new: Process
    upgrading: asyncio.Task[subprocess.CompletedProcess[str]]


@asynccontextmanager
async def midway(gateway: GatewayUnderTest, seconds: float = CALL_S) -> AsyncIterator[Midway]:
    old = gateway.only("model-server")
    async with live_calls(gateway) as calls:
        await calls.place(CALLS, seconds)
        upgrading = asyncio.create_task(asyncio.to_thread(upgrade, gateway))
        async with asyncio.timeout(UPGRADE_S):
            while not (moved := sum("call moves" in line for line in list(gateway.lines))):
                await asyncio.sleep(0.01)
        assert moved < CALLS
        (new,) = (p for p in gateway.processes() if p.kind == "model-server" and p.pid != old.pid)
        yield Midway(gateway, calls, old, new, upgrading)


async def all_at(at: Midway, server: Process) -> None:
    """That one serves alone, and every call has a slot there."""
    await at.calls.until(lambda m: m["microturn_model_slots_leased"] == CALLS)
    assert at.gateway.only("model-server").pid == server.pid


@pytest.mark.long
def test_the_new_one_is_killed_and_every_call_goes_on_with_the_old_one() -> None:
    async def story(gateway: GatewayUnderTest) -> list[CallLog]:
        async with midway(gateway) as at:
            at.new.kill()
            done = await at.upgrading
            assert done.returncode == 1 and "died (signal 9) while calls moved" in done.stderr, done
            await all_at(at, at.old)
            return await at.calls.finish()

    with GatewayUnderTest.start(GatewayWish(calls=CALLS)) as gateway:
        assert_goes_on(asyncio.run(story(gateway)))
        assert gateway.metrics()["microturn_calls_lost_total"] == 0
        gateway.wait_for(lambda m: m["microturn_model_slots_leased"] == 0)


@pytest.mark.long
def test_the_old_one_is_killed_and_every_call_goes_on_with_the_new_one() -> None:
    async def story(gateway: GatewayUnderTest) -> list[CallLog]:
        async with midway(gateway) as at:
            at.old.kill()
            done = await at.upgrading
            assert done.returncode == 0 and "the old one died, and the new one serves" in done.stdout, done
            await all_at(at, at.new)
            return await at.calls.finish()

    with GatewayUnderTest.start(GatewayWish(calls=CALLS)) as gateway:
        assert_goes_on(asyncio.run(story(gateway)))
        assert gateway.metrics()["microturn_calls_lost_total"] == 0
        gateway.wait_for(lambda m: m["microturn_model_slots_leased"] == 0)


@pytest.mark.long
def test_the_gateway_is_killed_and_the_upgrade_goes_on_without_it() -> None:
    async def story(gateway: GatewayUnderTest) -> list[CallLog]:
        async with midway(gateway) as at:
            gateway.only("gateway").kill()
            done = await at.upgrading
            assert done.returncode == 0, done
            await all_at(at, at.new)
            await at.calls.until(lambda m: m["microturn_calls_live"] == CALLS)
            return await at.calls.finish()

    with GatewayUnderTest.start(GatewayWish(calls=CALLS)) as gateway:
        assert_goes_on(asyncio.run(story(gateway)))
        gateway.wait_for(lambda m: m["microturn_calls_live"] == 0 and m["microturn_model_slots_leased"] == 0)


@pytest.mark.long
def test_up_is_killed_and_calls_end_as_they_wish_and_then_everything_is_gone() -> None:
    async def story(gateway: GatewayUnderTest) -> list[CallLog]:
        async with midway(gateway) as at:
            gateway.only("up").kill()
            done = await at.upgrading
            assert done.returncode == 1 and "microturn up ended meanwhile" in done.stderr, done
            await at.calls.until(lambda m: m["microturn_calls_moved_total"] == CALLS)
            assert await refused(gateway), "nobody would start again what dies now"
            await until_gone(at.old)
            return await at.calls.finish()

    wish = GatewayWish(calls=CALLS, settings={"drain_s": "40", "spare_model_server": "on"})
    with GatewayUnderTest.start(wish) as gateway:
        assert_goes_on(asyncio.run(story(gateway)))
        asyncio.run(until_gone(*gateway.processes()))


@pytest.mark.long
def test_up_is_killed_while_the_new_one_loads_and_the_old_one_serves_to_the_end() -> None:
    async def story(gateway: GatewayUnderTest) -> list[CallLog]:
        async with live_calls(gateway) as calls:
            await calls.place(CALLS, 4.0)
            upgrading = asyncio.create_task(asyncio.to_thread(upgrade, gateway))
            while not any(process.kind == "loading" for process in gateway.processes()):
                await asyncio.sleep(0.01)
            gateway.only("up").kill()
            assert (await upgrading).returncode == 1
            return await calls.finish()

    wish = GatewayWish(calls=CALLS, settings={"drain_s": "40"})
    with GatewayUnderTest.start(wish) as gateway:
        assert_goes_on(asyncio.run(story(gateway)))
        asyncio.run(until_gone(*gateway.processes()))


async def refused(gateway: GatewayUnderTest) -> bool:
    """Whether a new call is, at once."""
    async with Caller() as caller:
        log = await caller.place(tones(gateway.uri, 1.0, 50))
    return log.status == 503


async def until_gone(*processes: Process) -> None:
    """They end by themselves."""
    until_s = time.monotonic() + GONE_S
    while left := [process for process in processes if process.alive]:
        assert time.monotonic() < until_s, left
        await asyncio.sleep(0.05)
