"""Browser calls as another implementation (aiortc as it comes) lives through them."""

from __future__ import annotations

import asyncio

import aiohttp
import numpy as np
import numpy.typing as npt
import pytest

from gateway.priority import keeping_time
from loadtests.gateway_under_test import GatewayUnderTest
from tests.support.webrtc_caller import HZ, WebrtcCaller, calling, dial

pytestmark = pytest.mark.processes


def chirps(seconds: float) -> npt.NDArray[np.int16]:
    """A rising tone each second, another pitch each time: no two seconds look alike."""
    t = np.arange(int(seconds * HZ)) / HZ
    within = t % 1.0
    pitch = 300 + 150 * (np.floor(t) % 7)
    sound = 9000 * np.sin(2 * np.pi * (pitch * within + 200 * within**2)) * (within < 0.6)
    return sound.astype(np.int16)


def lags_ms(sent: npt.NDArray[np.int16], heard: npt.NDArray[np.int16], seconds: range) -> list[float]:
    """How much later than sent each second's tone is heard, ms, by correlation."""
    lags = []
    for second in seconds:
        tone = sent[second * HZ : second * HZ + HZ * 6 // 10].astype(np.float32)
        begin = second * HZ
        window = heard[begin : begin + 2 * HZ].astype(np.float32)
        score = np.correlate(window[::4], tone[::4], "valid")
        lags.append(4000 * float(np.argmax(score)) / HZ)
    return lags


def test_the_echo_comes_back_with_a_constant_lag_and_no_gap(gateway: GatewayUnderTest) -> None:
    sent = chirps(7)

    async def story() -> WebrtcCaller:
        async with calling(gateway.http, sent) as caller:
            await asyncio.sleep(7.5)
            return caller

    with keeping_time():  # a caller that other programs hold up says everything later
        caller = asyncio.run(story())
    heard = caller.pcm()
    lags = lags_ms(sent, heard, range(1, 6))
    assert max(lags) - min(lags) < 5, lags
    assert 200 < lags[0] < 700, lags  # the turn, both jitter buffers (aiortc's own is 80 ms), loop and codec
    begin = int((1 + lags[0] / 1000) * HZ)
    for second in range(4):  # every tone is loud all the way through
        tone = heard[begin + second * HZ : begin + second * HZ + HZ // 2].astype(np.float64)
        level = np.sqrt((tone.reshape(25, -1) ** 2).mean(axis=1))
        assert level.min() > 3000, (second, level)


def test_typed_text_goes_in_and_its_caption_comes_out(gateway: GatewayUnderTest) -> None:
    async def story() -> None:
        async with calling(gateway.http, chirps(1)) as caller:
            hello = await caller.message("hello")
            assert (hello["version"], hello["engine"], hello["resumed"]) == (1, "echo", False)
            assert caller.url.endswith(hello["call"])
            caller.say(type="text", text="Zwölf Boxkämpfer")
            caption = await caller.message("caption")
            assert caption["text"] == "Zwölf Boxkämpfer"
            caller.say(type="subscribe", every_turns=5)
            turns = await caller.message("turns")
            assert len(turns["turns"]) == 5 and all(len(row) == 7 for row in turns["turns"])
            caller.say(type="nonsense")
            assert (await caller.message("error"))["code"] == "unknown-type"

    asyncio.run(story())


def test_a_dropped_connection_is_resumed_with_its_sequence(gateway: GatewayUnderTest) -> None:
    async def story() -> None:
        async with aiohttp.ClientSession() as http:
            first = await dial(http, gateway.http, chirps(60))
            name = (await first.message("hello"))["call"]
            first.say(type="subscribe", every_turns=5)
            before = (await first.message("turns"))["first"]
            first.vanish()
            second = await dial(http, gateway.http, chirps(60), resume=first.resume)
            hello = await second.message("hello")
            assert (hello["call"], hello["resumed"]) == (name, True)
            second.say(type="subscribe", every_turns=5)
            assert (await second.message("turns"))["first"] >= before + 5  # they went on, none began anew
            assert gateway.metrics()["microturn_calls_live"] == 1
            async with http.delete(second.url) as answer:
                assert answer.status == 200
            await second.peer.close()
            await first.peer.close()

    gateway.wait_for(lambda m: m["microturn_calls_live"] == 0)
    asyncio.run(story())
    gateway.wait_for(lambda m: m["microturn_calls_live"] == 0)


def test_a_forged_resume_token_gets_nothing(gateway: GatewayUnderTest) -> None:
    async def story() -> list[int]:
        statuses = []
        async with aiohttp.ClientSession() as http:
            caller = await dial(http, gateway.http, chirps(1))
            await caller.message("hello")
            worker, call, secret = caller.resume.split(".")
            wrong = secret[:-1] + ("A" if secret[-1] != "A" else "B")
            for token in (f"{worker}.{call}.{wrong}", f"{worker}.b-{'0' * 16}.{secret}", "rubbish"):
                with pytest.raises(aiohttp.ClientResponseError) as refused:
                    await dial(http, gateway.http, chirps(1), resume=token)
                statuses.append(refused.value.status)
            async with http.delete(caller.url):
                await caller.peer.close()
        return statuses

    statuses = asyncio.run(story())
    assert statuses[:2] == [404, 404] and statuses[2] in (400, 404)


@pytest.mark.long
def test_who_vanishes_is_noticed_and_hangs_on_until_the_time_is_over(gateway: GatewayUnderTest) -> None:
    async def story() -> None:
        async with aiohttp.ClientSession() as http:
            caller = await dial(http, gateway.http, chirps(60))
            await caller.message("hello")
            caller.vanish()
            loop = asyncio.get_running_loop()
            began = loop.time()
            await asyncio.to_thread(gateway.wait_for, lambda m: m["microturn_browsers_away"] == 1, 12.0)
            assert loop.time() - began < 10.5
            assert gateway.metrics()["microturn_calls_live"] == 1
            async with http.delete(caller.url) as answer:
                assert answer.status == 200
            await caller.peer.close()

    gateway.wait_for(lambda m: m["microturn_calls_live"] == 0)
    asyncio.run(story())
    gateway.wait_for(lambda m: m["microturn_calls_live"] == 0)


@pytest.mark.parametrize("status", [200, 404])
def test_delete_ends_the_call_once(gateway: GatewayUnderTest, status: int) -> None:
    async def story() -> int:
        async with aiohttp.ClientSession() as http:
            caller = await dial(http, gateway.http, chirps(1))
            await caller.message("hello")
            for _ in range(1 if status == 200 else 2):
                async with http.delete(caller.url) as answer:
                    last = answer.status
            assert (await caller.message("bye"))["reason"] == "hangup"
            await caller.peer.close()
            return last

    assert asyncio.run(story()) == status
