"""A real gateway whose webhook endpoint is away while calls come and go, and which is killed meanwhile: afterwards
every event is there, in order, once by id. Ten minutes of it, with time as an argument, are in
tests/gateway/events/test_outbox.py."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import numpy as np
import pytest

from gateway.events.records import Event, decode
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.gateway.events.support import SECRET
from tests.gateway.events.test_courier import Endpoint
from tests.support.webrtc_caller import HZ, calling

pytestmark = [pytest.mark.processes, pytest.mark.long]

SILENCE = np.zeros(HZ, np.int16)
PATIENCE_S = 60.0


class Receiver(Endpoint):
    """Keeps what it got, once by id, as a receiver should."""

    def first_of_each(self) -> list[Event]:
        seen: dict[str, Event] = {}
        for body in self.bodies:
            event = decode(body)
            seen.setdefault(event.id, event)
        return list(seen.values())


async def until(receiver: Receiver, ended: int) -> list[Event]:
    async with asyncio.timeout(PATIENCE_S):
        while sum(event.type == "call.ended" for event in receiver.first_of_each()) < ended:
            await asyncio.sleep(0.1)
    return receiver.first_of_each()


async def call_and_hang_up(url: str) -> None:
    async with calling(url, SILENCE) as caller:
        await caller.message("hello")


async def story(gateway: GatewayUnderTest, receiver: Receiver) -> None:
    async with receiver.up():
        await call_and_hang_up(gateway.http)
        before = await until(receiver, 1)
    async with calling(gateway.http, SILENCE) as caller:  # the endpoint is away from here on
        await caller.message("hello")
        await call_and_hang_up(gateway.http)
        victim = gateway.only("gateway")
        os.kill(victim.pid, signal.SIGKILL)
        await asyncio.to_thread(gateway.successor, victim)
        await asyncio.to_thread(gateway.wait_for, lambda m: m["microturn_state_leases"] == 1, 30.0)
        caller.say(type="text", text="still there")
        await caller.message("caption")
    await call_and_hang_up(gateway.http)
    await asyncio.sleep(3.0)
    async with receiver.up():
        events = await until(receiver, 4)
    assert events[: len(before)] == before
    told: dict[str, list[str]] = {}
    for event in events:
        told.setdefault(event.call, []).append(event.type)
    assert list(told.values()) == [["call.started", "call.ended"]] * 4, told
    assert [event.at_ms for event in events] == sorted(event.at_ms for event in events)
    ended = [event for event in events if event.type == "call.ended"]
    assert all(event.data["reason"] == "over" for event in ended)
    longest = max(ended, key=lambda event: event.data["ended_ms"] - event.data["began_ms"])
    assert longest.data["figures"]["turns"] > 3 and longest.data["cause"] == "caller"
    metrics = await asyncio.to_thread(gateway.metrics)
    assert (
        metrics['microturn_webhook_waiting_bytes{endpoint="crm"}'] == 0
        and metrics["microturn_events_lost_total"] == 0
    )


def test_every_event_is_delivered_after_an_outage_and_a_kill() -> None:
    async def told() -> None:
        receiver = Receiver()
        async with receiver.up() as url:  # for its port
            pass
        hooks = json.dumps({"crm": {"url": url, "secret": SECRET}})
        settings = {"webrtc_calls": "4", "redis": "auto", "webhooks": hooks}
        wish = GatewayWish(calls=1, settings=settings, ready_timeout_s=60.0)
        with GatewayUnderTest.start(wish) as gateway:
            await asyncio.wait_for(story(gateway, receiver), 150)

    asyncio.run(told())
