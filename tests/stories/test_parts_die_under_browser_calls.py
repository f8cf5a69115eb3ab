"""The model server dies under a browser call; a browser never comes back: each in a gateway of its own."""

from __future__ import annotations

import asyncio

import aiohttp
import numpy as np
import pytest

from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.support.webrtc_caller import HZ, calling, dial

pytestmark = pytest.mark.processes

SILENCE = np.zeros(HZ, np.int16)


def test_the_model_server_dies_and_the_call_goes_on_with_the_next() -> None:
    async def story(gateway: GatewayUnderTest) -> None:
        async with calling(gateway.http, SILENCE) as caller:
            await caller.message("hello")
            caller.say(type="text", text="before")
            assert (await caller.message("caption"))["text"] == "before"
            victim = gateway.only("model-server")
            victim.kill()
            await asyncio.to_thread(gateway.successor, victim)
            await asyncio.to_thread(gateway.wait_for, lambda m: m["microturn_turns_total"] > 0)
            caller.say(type="text", text="after")
            assert (await caller.message("caption", after=1))["text"] == "after"
            assert not caller.of_type("bye")

    wish = GatewayWish(calls=4, settings={"webrtc_calls": "4"})
    with GatewayUnderTest.start(wish) as gateway:
        asyncio.run(story(gateway))
        assert len(gateway.epochs()) == 2
        gateway.wait_for(lambda m: m["microturn_model_slots_leased"] == 0)


def test_a_browser_that_stays_away_loses_its_call_and_its_token() -> None:
    async def story(gateway: GatewayUnderTest) -> int:
        async with aiohttp.ClientSession() as http:
            caller = await dial(http, gateway.http, SILENCE)
            await caller.message("hello")
            await caller.peer.close()  # a goodbye of DTLS, as a reload says it: the call waits
            await asyncio.to_thread(gateway.wait_for, lambda m: m["microturn_browsers_away"] == 1)
            await asyncio.to_thread(gateway.wait_for, lambda m: m["microturn_calls_timed_out_total"] == 1)
            with pytest.raises(aiohttp.ClientResponseError) as refused:
                await dial(http, gateway.http, SILENCE, resume=caller.resume)
            return refused.value.status

    wish = GatewayWish(calls=4, settings={"webrtc_calls": "4", "resume_s": "2"})
    with GatewayUnderTest.start(wish) as gateway:
        assert asyncio.run(story(gateway)) == 404
        gateway.wait_for(lambda m: m["microturn_model_slots_leased"] == 0 and m["microturn_calls_live"] == 0)
