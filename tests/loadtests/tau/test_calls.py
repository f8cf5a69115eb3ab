"""Ticks against a live call; and tau2-bench's own agent, from the folder that MICROTURN_TAU2 names."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.priority import keeping_time
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from loadtests.tau.adapter import adapter_of
from loadtests.tau.call import TickCall
from loadtests.tau.command import Plan, exchanged, lag_ms, main, ticks_of
from loadtests.tau.line import SILENCE, TICK_BYTES

pytestmark = pytest.mark.processes
CHECKOUT = os.environ.get("MICROTURN_TAU2", "")
SECONDS = 4.0


def plan(through: str, stall_ms: int = 0) -> Plan:
    return Plan(SECONDS, "echo", through, None, "", stall_ms, {})


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayUnderTest]:
    with GatewayUnderTest.start(GatewayWish(calls=2, ready_timeout_s=60.0)) as started:
        yield started


def test_ticks_come_back_one_turn_later_on_the_calls_clock(gateway):
    ticks = ticks_of(plan("ticks"))
    exchange = exchanged(gateway.uri, ticks, plan("ticks"))
    assert len(exchange.heard) == len(ticks) == 20
    assert all(len(tick) == TICK_BYTES for tick in exchange.heard)
    lag = lag_ms(exchange)
    assert lag is not None and 200 < lag < 400  # a turn, the floor, and what ticks need: 40 ms each way
    assert sum(exchange.took_ms) == pytest.approx(20 * 200, abs=120)


def test_a_user_who_thinks_too_long_is_heard_later_and_nothing_is_lost_unseen(gateway):
    ticks = ticks_of(plan("ticks", stall_ms=500))
    exchange = exchanged(gateway.uri, ticks, plan("ticks", stall_ms=500))
    assert exchange.counted["late_ticks"] == 2
    assert exchange.counted["silent_packets"] >= 2 * 20
    assert len(exchange.heard) == 20 and exchange.counted["dropped_bytes"] == 0


def test_a_call_that_is_refused_says_so(gateway):
    async def one_too_many() -> None:
        async with TickCall(gateway.uri), TickCall(gateway.uri), TickCall(gateway.uri):
            raise AssertionError("there is room for two")

    with keeping_time(), pytest.raises(ConnectionError, match="was not answered: 503"):
        asyncio.run(one_too_many())


def test_a_call_that_lasts_no_longer_says_so(gateway):
    async def too_long() -> None:
        async with TickCall(gateway.uri, 1.0) as call:
            for _ in range(6):
                await call.tick(SILENCE * TICK_BYTES)

    with keeping_time(), pytest.raises((EOFError, ConnectionError), match="over"):
        asyncio.run(too_long())


def test_what_cannot_be_run_is_refused(capsys):
    assert main(["--seconds", "0"]) == 2
    assert main(["--play", "/nowhere.wav"]) == 2
    assert "/nowhere.wav: no such file" in capsys.readouterr().err


@pytest.mark.skipif(bool(CHECKOUT), reason="MICROTURN_TAU2 names a tau2")
def test_without_tau2_it_is_said_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "tau2", None)
    with pytest.raises(ImportError, match="put the folder src of sierra-research/tau2-bench into PYTHONPATH"):
        adapter_of("sip:127.0.0.1")


@pytest.mark.skipif(not CHECKOUT, reason="MICROTURN_TAU2 names no folder src of sierra-research/tau2-bench")
def test_the_agent_of_tau2_holds_a_call(gateway, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(CHECKOUT)))
    ticks = ticks_of(plan("tau2"))
    exchange = exchanged(gateway.uri, ticks, plan("tau2"))
    assert len(exchange.heard) == 20 and all(len(tick) == TICK_BYTES for tick in exchange.heard)
    lag = lag_ms(exchange)
    assert lag is not None and 200 < lag < 400
    assert exchange.counted["late_ticks"] <= 1


@pytest.mark.skipif(not CHECKOUT, reason="MICROTURN_TAU2 names no folder src of sierra-research/tau2-bench")
def test_tool_results_are_refused_and_counted(gateway, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(CHECKOUT)))
    adapter: Any = adapter_of(gateway.uri)
    adapter.connect("You are a clerk.", [], None)
    try:
        adapter.send_tool_result("call-1", "{}")
        result = adapter.run_tick(SILENCE * TICK_BYTES, 1)
        assert (adapter.refused_tool_results, result.tool_calls, result.agent_audio_chunks) == (1, [], [])
        assert len(result.get_played_agent_audio()) == TICK_BYTES
    finally:
        adapter.disconnect()
    assert not adapter.is_connected
