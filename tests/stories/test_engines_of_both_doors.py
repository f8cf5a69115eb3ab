"""The trained model beside the echo, each as the usual one and as the further one: telephones and browsers on both
at once, and a third engine whose server is away.
"""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from gateway.caller.calls import Caller, CallLog
from gateway.caller.report import report_call
from gateway.engines import choose
from gateway.priority import keeping_time
from gateway.sip.header import find
from gateway.sip.message import Response, parse
from loadtests.faults.calls import tones
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish, Process
from tests.support.sip_router import request
from tests.support.webrtc_caller import HZ, WebrtcCaller, calling

pytestmark = pytest.mark.processes

OFFER = Path(__file__).parents[1] / "gateway/webrtc/chromium-156.sdp"
LEASED, LAB = "microturn_model_slots_leased", '{engine="lab"}'
CALL_S = 90.0
"""At most: they are hung up when everything was seen."""
AWAY = "engine away has no model server"


def wish(usual: str, further: str) -> GatewayWish:
    engines = {"lab": {"engine": further, "slots": 4}, "away": {"socket": "/nowhere/at.all/model.sock"}}
    rules = [{"called": name, "engine": name} for name in engines]
    settings = {"engines": json.dumps(engines), "rules": json.dumps(rules), "webrtc_calls": "4", "slots": "4"}
    return GatewayWish(calls=4, engine=usual, settings=settings, ready_timeout_s=120.0)


def server_of(gateway: GatewayUnderTest, name: str) -> Process:
    (found,) = [p for p in gateway.processes() if (p.kind, p.name) == ("model-server", name)]
    return found


async def until(gateway: GatewayUnderTest, usual: int, lab: int) -> None:
    await asyncio.to_thread(gateway.wait_for, lambda m: (m[LEASED], m[LEASED + LAB]) == (usual, lab), 60.0)


def refusal(gateway: GatewayUnderTest) -> Response:
    """The final answer to an INVITE for the engine that is away."""
    host, _, port = gateway.uri.removeprefix("sip:").partition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.settimeout(5.0)
        line.connect((host, int(port)))
        via = f"127.0.0.1:{line.getsockname()[1]}"
        invite = request(via=via, extra=f"Contact: <sip:alice@{via}>\r\n".encode())
        line.send(invite.replace(b"sip:bot@198.51.100.1 ", f"sip:away@{host}:{port} ".encode()))
        while True:
            answer = parse(line.recv(65_535))
            assert isinstance(answer, Response)
            if answer.status >= 200:
                return answer


async def refused_both_ways(gateway: GatewayUnderTest) -> None:
    """With the true reason."""
    answer = await asyncio.to_thread(refusal, gateway)
    assert answer.status == 503 and AWAY.encode() in (find(list(answer.headers), b"warning") or b"")
    async with (
        aiohttp.ClientSession() as http,
        http.post(
            f"{gateway.http}/whip?to=away",
            data=OFFER.read_bytes(),
            headers={"Content-Type": "application/sdp"},
        ) as told,
    ):
        assert told.status == 503 and "engine away" in (await told.json(content_type=None))["detail"]


async def told_apart(gateway: GatewayUnderTest) -> None:
    """While each of two engines has two calls, and the third has no model server."""
    async with aiohttp.ClientSession() as http, http.get(f"{gateway.http}/readyz") as ready:
        assert ready.status == 200
        assert (await ready.text()).splitlines() == [
            "ready", "engine lab: ready", "engine away: no model server: its calls are refused",
        ]  # fmt: skip
    calls = "microturn_engine_calls"
    await asyncio.to_thread(gateway.wait_for, lambda m: (m[calls], m[calls + LAB]) == (2, 2))
    metrics = await asyncio.to_thread(gateway.metrics)
    free, away = "microturn_predicted_free_calls", '{engine="away"}'
    assert metrics[free + LAB] <= 2 and metrics[free + away] == metrics["microturn_model_up" + away] == 0


@pytest.mark.parametrize(
    ("usual", "further"), [("echo", "digits"), pytest.param("digits", "echo", marks=pytest.mark.long)]
)
def test_telephones_and_browsers_on_two_engines_at_once(usual: str, further: str) -> None:
    if choose("auto")[0] != "digits":
        pytest.skip(f"no trained model here: {choose('auto')[1]}")

    async def story(gateway: GatewayUnderTest) -> tuple[list[CallLog], dict[str, WebrtcCaller]]:
        silence = np.zeros(HZ, np.int16)
        to_lab = gateway.uri.replace("sip:", "sip:lab@")
        with keeping_time():
            async with (
                Caller() as caller,
                calling(gateway.http, silence) as page,
                calling(gateway.http, silence, called="lab") as lab_page,
            ):
                plans = [tones(uri, CALL_S, seed) for seed, uri in enumerate((gateway.uri, to_lab))]
                calls = [asyncio.create_task(caller.place(plan)) for plan in plans]
                await until(gateway, 2, 2)
                hellos = [await each.message("hello") for each in (page, lab_page)]
                assert [(hello["engine"], hello.get("engine_name")) for hello in hellos] == [
                    (usual, None), (further, "lab"),
                ]  # fmt: skip
                await refused_both_ways(gateway)
                await told_apart(gateway)
                kept, lost = server_of(gateway, ""), server_of(gateway, "lab")
                lost.kill()
                await asyncio.to_thread(gateway.successor, lost, 90.0)
                await until(gateway, 2, 2)
                assert server_of(gateway, "") == kept
                browsers = {usual: page, further: lab_page}
                for each in browsers.values():
                    each.say(type="text", text="Zwölf Boxkämpfer")
                assert (await browsers["echo"].message("caption"))["text"] == "Zwölf Boxkämpfer"
                for each in browsers.values():
                    each.say(type="subscribe", every_turns=5)
                    await each.message("turns")
                await asyncio.sleep(3.0)
                caller.wind_up()
                return list(await asyncio.gather(*calls)), browsers

    with GatewayUnderTest.start(wish(usual, further)) as gateway:
        workers = len(gateway.workers()) + 1  # and the one of browsers
        name = "microturn_model_workers_attached_total"
        gateway.wait_for(lambda m: min(m[name], m[name + LAB]) >= workers, 120.0)
        logs, _ = asyncio.run(story(gateway))
        metrics = gateway.metrics()
    assert metrics["microturn_calls_lost_total"] == 0
    assert metrics["microturn_model_servers_lost_total"] == workers, "each lost the one that was killed"
    assert all(log.ended_by == "us" and log.arrivals_ns[-1] > log.listened_until_ns - 10**9 for log in logs)
    echoed = [report_call(log).media_came_back for log in logs]
    assert echoed == [usual == "echo", further == "echo"]
