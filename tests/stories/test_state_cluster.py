"""Real gateways that share a real Redis: a part of them goes away, and calls and their state do not.

The first three are the load tests (`python -m loadtests state`), small.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import numpy as np
import pytest

from gateway.api.tokens import mint
from gateway.cluster.parties import pseudonym
from gateway.state.records import Line, Session, decode
from loadtests import machine, report
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from loadtests.state_cases import Plan, away, callers, drain
from loadtests.state_killed import killed
from tests.gateway.state.conftest import folder, server  # noqa: F401
from tests.gateway.state.server import StateServer, first_program
from tests.support.webrtc_caller import HZ, WebrtcCaller, dial

pytestmark = [pytest.mark.redis, pytest.mark.processes]


@pytest.fixture
def program() -> str:
    return first_program()


SILENCE = np.zeros(HZ, np.int16)
ONE_TURN_FRAMES = 10


def run(story: Any, seconds: float = 150.0) -> Any:
    return asyncio.run(asyncio.wait_for(story, seconds))


def measured(story: Any) -> tuple[Any, bool]:
    """What it found, and whether every gap in its calls lies where the machine stood still."""
    begun_ns = time.monotonic_ns()
    with machine.witnessed() as stalls:
        found = run(story)
    seen = stalls.figures((begun_ns, time.monotonic_ns()), report.gap_starts(found.reports))
    assert seen is not None, stalls.refused
    return found, seen["gaps"] == seen["gaps_at_stalls"]


@pytest.mark.long
def test_redis_is_away_under_live_calls_and_nobody_hears_it() -> None:
    found, not_ours = measured(away(Plan("away", calls=4, seconds=2.0, outage=4.0, seed=1, engine="echo")))
    figures = found.figures
    assert figures["answered"] == figures["calls"] == 4 + figures["begun_in_outage"]
    assert figures["begun_in_outage"] >= 1 and figures["ended_early"] == 0
    assert figures["sessions_complete"] == figures["cdrs_complete"] == figures["calls"]
    assert figures["writes_dropped"] == 0 and figures["said_away"] == figures["said_back"] == 1
    assert figures["in_outage"]["missing_frames"] <= ONE_TURN_FRAMES or not_ours


@pytest.mark.long
def test_a_gateway_that_is_told_to_stop_lets_its_calls_end() -> None:
    found, not_ours = measured(drain(Plan("drain", calls=4, seconds=3.0, outage=1.0, seed=1, engine="echo")))
    figures = found.figures
    assert figures["live_at_sigterm"] == figures["ended_by_caller"] == figures["cdrs_over"] == 4
    assert figures["dropped"] == figures["cdrs_stopped"] == 0
    assert figures["refused_while_draining"] == [503] and figures["ready_status"] == 503
    assert figures["missing_frames"] <= ONE_TURN_FRAMES or not_ours


@pytest.mark.long
def test_one_of_two_gateways_dies_and_what_was_its_is_free() -> None:
    plan = Plan("killed", calls=6, seconds=2.0, outage=8.0, seed=1, engine="echo", sessions_s=(4.0, 8.0))
    found = run(killed(plan))
    figures = found.figures
    assert figures["owned_twice"] == figures["charged_twice"] == figures["permits_unchecked"] == 0
    assert {"leases_expired_s", "node_gone_s", "next_taken_s"} <= set(figures)
    assert figures["over_the_cap_before"] == 480 and figures["answered_after_kill"] > 0
    assert figures["nodes_at_end"] == ["left"]


@pytest.mark.long
def test_who_talks_on_beyond_the_drain_budget_is_told_goodbye() -> None:
    async def story(gateway: GatewayUnderTest) -> None:
        async with callers() as calls, aiohttp.ClientSession() as http:
            browser = await dial(http, gateway.http, SILENCE)
            await calls.place(gateway.uri, [30.0], 1)
            await browser.message("hello")
            await asyncio.to_thread(gateway.wait_for, lambda m: m["microturn_calls_live"] == 2)
            os.kill(gateway.only("up").pid, signal.SIGTERM)
            assert (await browser.message("bye", timeout_s=15.0))["reason"] == "drain"
            log = await calls.tasks[0]
            assert log.answered and log.ended_by == "peer"
            await browser.peer.close()

    wish = GatewayWish(calls=2, settings={"webrtc_calls": "2", "drain_s": "1"}, ready_timeout_s=60.0)
    with GatewayUnderTest.start(wish) as gateway:
        run(story(gateway), 60.0)
    assert not gateway.left_behind


@contextlib.contextmanager
def gateway_of(server: StateServer, name: str, rtp_port: int, **more: str) -> Iterator[GatewayUnderTest]:  # noqa: F811
    settings = {"webrtc_calls": "3", "redis": server.url, "node": name, **more}
    with GatewayUnderTest.start(
        GatewayWish(calls=2, rtp_port=rtp_port, settings=settings, ready_timeout_s=60.0)
    ) as gateway:
        yield gateway


def kill_all(gateway: GatewayUnderTest) -> None:
    """As when its machine loses power."""
    for process in sorted(gateway.processes(), key=lambda process: process.kind != "up"):
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def written(server: StateServer, call: str, words: str) -> str:  # noqa: F811
    """The newest line of the call's transcript that has these words, waited for."""
    async with asyncio.timeout(20):
        while True:
            with server.look() as look:
                rows: Any = look.xrevrange(f"microturn:{{{call}}}:transcript")
            for _, fields in rows:
                line = decode(Line, fields[b"line"])
                if words in line.text:
                    return line.text
            await asyncio.sleep(0.2)


async def dial_again(http: aiohttp.ClientSession, base: str, token: str) -> WebrtcCaller:
    """As the page does: until it is answered, or the call is gone."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await dial(http, base, SILENCE, resume=token)
            except aiohttp.ClientResponseError as refused:
                assert refused.status == 503, refused
                await asyncio.sleep(0.3)


def test_a_browsers_call_is_found_at_its_gateway_and_goes_on_elsewhere_when_that_is_dead(
    server: StateServer,  # noqa: F811
) -> None:
    async def story(left: GatewayUnderTest, right: GatewayUnderTest) -> None:
        await asyncio.to_thread(right.wait_for, lambda m: m["microturn_cluster_nodes"] == 2)
        async with aiohttp.ClientSession() as http:
            first = await dial(http, left.http, SILENCE)
            hello = await first.message("hello")
            first.say(type="text", text="remember the blue door")
            await first.message("caption")
            await asyncio.to_thread(left.wait_for, lambda m: m["microturn_state_leases"] == 1)
            second = await dial(http, right.http, SILENCE, resume=first.resume)  # by way of the other one
            there = await second.message("hello")
            assert there["call"] == hello["call"] and there["resumed"]
            assert (await asyncio.to_thread(right.metrics))["microturn_webrtc_calls_live"] == 0
            second.say(type="text", text="and the red one")
            await second.message("caption")
            await written(server, hello["call"], "red one")
            await asyncio.to_thread(kill_all, left)
            third = await dial_again(http, right.http, second.resume)
            here = await third.message("hello")
            assert here["call"] == hello["call"] and not here["resumed"]  # another sequence of the model
            told = await written(server, hello["call"], "earlier ")  # echo says back what it is told
            assert "blue door" in told and "red one" in told
            assert (await asyncio.to_thread(right.metrics))["microturn_webrtc_calls_live"] == 1
            for caller in (first, second, third):
                await caller.peer.close()

    with gateway_of(server, "left", 30_000) as left, gateway_of(server, "right", 40_000) as right:
        run(story(left, right))


def test_nothing_of_a_caller_is_in_logs_and_metrics(server: StateServer) -> None:  # noqa: F811
    secret, name, words = secrets.token_hex(32), "anna.private", "my card is 49291234"
    bearer = {"Authorization": f"Bearer {mint(secret, name, 600, tenant='acme')}"}
    hidden = [name, "49291234", "card is", "private", bearer["Authorization"][-40:], "key-of-callers"]

    async def story(gateway: GatewayUnderTest) -> str:
        async with aiohttp.ClientSession() as http, callers() as calls:
            await calls.place(gateway.uri, [2.0], 1)
            caller = await dial(http, gateway.http, SILENCE, headers=bearer)
            hidden.extend([caller.resume, caller.resume.rpartition(".")[2]])
            await caller.message("hello")
            caller.say(type="text", text=words)
            assert words in (await caller.message("caption"))["text"]
            log = await calls.tasks[0]
            assert log.answered
            metrics = str(await (await http.get(f"{gateway.http}/metrics")).text())
            nodes = await (await http.get(f"{gateway.http}/nodes")).text()
            await (await http.delete(caller.url, headers=bearer)).read()
            await caller.peer.close()
        await asyncio.to_thread(gateway.wait_for, lambda m: m["microturn_state_leases"] == 0)
        await asyncio.to_thread(gateway.wait_for, lambda m: m["microturn_state_buffered"] == 0)
        return metrics + nodes

    given = {"jwt_secret": secret, "caller_secret": "key-of-callers", "tenants": '{"acme": {"calls": 2}}'}
    with gateway_of(server, "left", 30_000, **given) as gateway:
        shown = run(story(gateway))
    shown += "".join(gateway.lines)
    assert (
        "call over" in shown and "microturn_state_writes_total" in shown
    )  # it was looked for where it would be
    assert [secret for secret in hidden if secret in shown] == []
    with server.look() as look:
        records = [look.get(name) for name in look.scan_iter("microturn:*:session")]
    sessions = [decode(Session, record) for record in records if record is not None]
    assert {s.caller for s in sessions if s.door == "webrtc"} == {pseudonym(name, "key-of-callers")}
    assert all(name not in str(record) for record in records)
