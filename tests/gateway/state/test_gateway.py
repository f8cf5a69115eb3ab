"""A real gateway with a real Redis: what is there of its calls, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import numpy as np
import pytest

from gateway.state.records import Cdr, Session, decode
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.gateway.state.server import StateServer
from tests.support.webrtc_caller import HZ, calling

pytestmark = [pytest.mark.redis, pytest.mark.processes]

SILENCE = np.zeros(HZ, np.int16)


def sessions(server: StateServer) -> dict[str, Session]:
    with server.look() as look:
        found = {name: look.get(name) for name in look.scan_iter("microturn:*:session")}
    return {name.decode(): decode(Session, value) for name, value in found.items() if value is not None}


def cdrs(server: StateServer) -> list[Cdr]:
    with server.look() as look:
        rows: Any = [look.hvals(name) for name in look.scan_iter("microturn:*:cdr")]
    return [decode(Cdr, value) for values in rows for value in values]


def test_a_call_outlives_redis_and_the_main_process_and_is_charged_once(server: StateServer) -> None:
    async def story(gateway: GatewayUnderTest) -> None:
        async def see(name: str, wanted: float) -> None:
            await asyncio.to_thread(gateway.wait_for, lambda m: m[f"microturn_state_{name}"] == wanted, 30.0)

        async with calling(gateway.http, SILENCE) as caller:
            await caller.message("hello")
            await see("leases", 1)
            (begun,) = sessions(server).values()
            assert begun.door == "webrtc" and not begun.ended_ms
            server.kill()
            await see("connected", 0)
            async with calling(gateway.http, SILENCE) as other:  # a new one, which nobody can write down
                await other.message("hello")
                caller.say(type="text", text="still there")
                assert (await caller.message("caption"))["text"] == "still there"
            await asyncio.to_thread(gateway.wait_for, lambda m: m["microturn_state_buffered"] > 0)
            server.start()
            await see("buffered", 0)
            await see("leases", 1)
            assert len(sessions(server)) == 2 and sum(1 for cdr in cdrs(server) if cdr.ended_ms) == 1
            victim = gateway.only("gateway")
            os.kill(victim.pid, signal.SIGKILL)
            await asyncio.to_thread(gateway.successor, victim)
            await see("leases", 1)
            caller.say(type="text", text="and on")
            assert (await caller.message("caption", after=1))["text"] == "and on"
        await see("leases", 0)
        await see("buffered", 0)
        ended = [cdr for cdr in cdrs(server) if cdr.call == begun.call]
        assert len(ended) == 1 and ended[0].began_ms == begun.began_ms and not ended[0].adopted
        assert ended[0].ended_ms > begun.began_ms and ended[0].reason == "over"
        figures = ended[0].figures
        assert ended[0].cause == "caller" and figures.codec == "OPUS" and 1 <= figures.mos <= 4.5
        turns = (ended[0].ended_ms - begun.began_ms) // 200
        assert turns // 2 <= figures.turns <= turns + 1, "in the first of them it was connected"
        assert figures.packets > 5 * figures.turns and figures.played_ms > 100 * turns
        assert ended[0].cost > 0 and not figures.tasks

    wish = GatewayWish(
        calls=2,
        settings={"webrtc_calls": "4", "redis": server.url, "price_minute": "0.6"},
        ready_timeout_s=60.0,
    )
    with GatewayUnderTest.start(wish) as gateway:
        asyncio.run(asyncio.wait_for(story(gateway), 120))
