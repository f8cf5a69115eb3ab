"""OpenAI's own client, as it comes, talks to a gateway: nothing of it knows that the other side is ours."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import ssl
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from gateway.api.tokens import mint
from gateway.state import embedded
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from model_server.training import voice_judge
from model_server.training.reading import Spoken, Stranger
from tests.stories.test_the_shipped_model_asks_for_help import WORDS, questions
from tests.support.certificate import certificate
from tests.support.digits_gateway import digits_gateway
from tests.support.realtime_client import HZ, RealtimeCaller, calling

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        importlib.util.find_spec("websockets") is None,
        reason="the package openai speaks by the package websockets: pip install 'openai[realtime]'",
    ),
]

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SECRET = "a secret of the tests, at least 32 bytes long"
TRIES = 4


@pytest.fixture(scope="module")
def echo() -> Iterator[GatewayUnderTest]:
    if embedded.find_server() is None:
        pytest.skip(embedded.MISSING)
    settings = {"webrtc_calls": "2", "redis": "auto"}
    with GatewayUnderTest.start(GatewayWish(1, settings=settings, ready_timeout_s=60.0)) as started:
        yield started


@pytest.fixture(scope="module")
def digits() -> Iterator[GatewayUnderTest]:
    with digits_gateway(DATA, 1) as started:
        yield started


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


def beep(seconds: float = 0.2) -> np.ndarray[Any, np.dtype[np.int16]]:
    return (9_000 * np.sin(2 * np.pi * 700 * np.arange(int(HZ * seconds)) / HZ)).astype(np.int16)


@pytest.mark.long
def test_sound_comes_back_one_turn_later(echo: GatewayUnderTest) -> None:
    """By the echo engine: beeps a second apart, each in silence, and what the whole path adds to a turn or two."""

    async def story() -> tuple[list[float], RealtimeCaller]:
        async with calling(echo.http) as caller:
            silence = np.zeros(HZ, np.int16)
            delays = []
            await caller.say(silence)
            for _ in range(5):
                sent_s, before = time.monotonic() + 0.1, len(caller.sound)  # a piece leaves when it is over
                await caller.say(np.concatenate((beep(), silence, silence[: HZ // 2])))
                delays.append(caller.sound[before][0] - sent_s)
            return delays, caller

    delays, caller = asyncio.run(story())
    told = [round(1_000 * delay) for delay in delays]
    print("from the end of a beep's first piece to its first delta, ms:", told)
    assert len(caller.of_type("response.done")) >= 4
    assert sorted(delays)[2] < 0.7, told
    assert not caller.of_type("error")


def test_a_file_sent_at_once_is_heard_whole(echo: GatewayUnderTest) -> None:
    async def story() -> RealtimeCaller:
        async with calling(echo.http) as caller:
            said = np.tile(beep(0.5), 6)
            data = base64.b64encode(said.tobytes()).decode()
            await caller.connection.input_audio_buffer.append(audio=data)
            await caller.until(lambda: bool(caller.of_type("response.done")), 15)
            return caller

    caller = asyncio.run(story())
    seconds = caller.sound[-1][0] - caller.sound[0][0]
    loud = np.abs(caller.heard().reshape(-1, 480)).max(1) > 4_000
    assert 2.9 <= loud.sum() * 0.02 <= 3.1 and 2.8 < seconds < 5.0


def test_a_call_is_one_like_any_other(echo: GatewayUnderTest) -> None:
    """It is listed, hung up by the API, and has a record."""

    async def story() -> tuple[Any, RealtimeCaller]:
        async with calling(echo.http) as caller:
            call = get(f"{echo.http}/v1/calls")["calls"][0]
            request = urllib.request.Request(f"{echo.http}/v1/calls/{call['id']}", method="DELETE")
            await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=5).close())
            async with asyncio.timeout(5):
                while not caller.connection._connection.close_code:
                    await asyncio.sleep(0.02)
            return call, caller

    call, _ = asyncio.run(story())
    assert call["door"] == "realtime" and call["state"] == "live"
    assert record_of(echo, call["id"]).items() >= {"door": "realtime", "cause": "api"}.items()


def record_of(gateway: GatewayUnderTest, call: str) -> dict[str, Any]:
    """Once it is over."""
    for _ in range(200):
        for cdr in get(f"{gateway.http}/v1/cdrs")["cdrs"]:
            if cdr["call"] == call and cdr.get("ended_ms"):
                return dict(cdr)
        time.sleep(0.05)
    raise AssertionError("no record")


def test_the_main_process_dies_and_the_call_goes_on(echo: GatewayUnderTest) -> None:
    """No sound crosses it; the next one knows the call again, and writes its record."""

    async def story() -> str:
        async with calling(echo.http) as caller:
            name = str(get(f"{echo.http}/v1/calls")["calls"][0]["id"])
            victim = echo.only("gateway")
            victim.kill()
            await asyncio.to_thread(echo.successor, victim)
            before = len(caller.sound)
            await caller.say(np.concatenate((np.zeros(HZ // 2, np.int16), beep(0.5), np.zeros(HZ, np.int16))))
            assert len(caller.sound) > before + 20
            await asyncio.to_thread(echo.wait_for, lambda m: m["microturn_webrtc_calls_live"] == 1, 20.0)
            return name

    name = asyncio.run(story())
    assert record_of(echo, name).items() >= {"door": "realtime", "cause": "caller"}.items()


def test_over_tls_that_the_gateway_ends(tmp_path: Path) -> None:
    """The main process pumps: sound goes both ways, and the call ends with the connection."""
    files = certificate(tmp_path)
    settings = {"webrtc_calls": "1", **files}
    with GatewayUnderTest.start(GatewayWish(1, settings=settings, ready_timeout_s=60.0)) as gateway:
        assert gateway.http.startswith("https://")
        trust = ssl.create_default_context(cafile=files["http_tls_cert"])

        async def story() -> RealtimeCaller:
            async with calling(gateway.http, trust=trust) as caller:
                await caller.say(np.concatenate((beep(0.5), np.zeros(3 * HZ // 2, np.int16))))
                return caller

        caller = asyncio.run(story())
        loud = np.abs(caller.heard().reshape(-1, 480)).max(1) > 4_000
        assert 0.45 <= loud.sum() * 0.02 <= 0.55 and not caller.of_type("error")
        gateway.wait_for(lambda m: m["microturn_webrtc_calls_live"] == 0)
        metrics = gateway.metrics()
        assert metrics["microturn_realtime_http_pumped_total"] == 1
        assert metrics["microturn_realtime_http_pumped_bytes_total"] > 2 * 2 * HZ  # 2 s came in, in base64


def test_digits_are_said_back_and_understood(digits: GatewayUnderTest) -> None:
    """Real speech in, and pocketsphinx hears the digits that the model writes down."""
    if not voice_judge.is_here():
        pytest.skip("pocketsphinx is not installed")
    strings = []
    for name in ("sample_001", "sample_002"):
        pcm, hz = soundfile.read(DATA / f"speech/connected_digits/{name}.flac", dtype="int16")
        strings.append(soxr.resample(pcm, hz, HZ))

    async def story() -> RealtimeCaller:
        async with calling(digits.http, audio={"input": {"transcription": {"model": "any"}}}) as caller:
            for pcm in strings:
                begun_s = time.monotonic()
                await caller.say(np.concatenate((pcm, np.zeros(2 * HZ, np.int16))))
                for _ in range(24):
                    if caller.is_done(begun_s, 1.5):
                        break
                    await caller.say(np.zeros(HZ // 2, np.int16))
                assert caller.is_done(begun_s, 1.5), caller.words()
            return caller

    caller = asyncio.run(story())
    stranger, sound = Stranger(), soxr.resample(caller.heard(), HZ, 16_000)
    ends = [at for _, at in caller.said[1:]] + [len(caller.heard())]
    words = [
        Spoken(str(WORDS.index(word)), at / HZ, min(end / HZ, at / HZ + 0.7))
        for (word, at), end in zip(caller.said, ends, strict=True)
        if word in WORDS[:10]
    ]
    understood = [word.word for word in words if stranger.understands(sound, word, telephone=False)]
    print("said:", [word.word for word in words], "understood:", understood)
    assert len(words) >= 6
    assert len(understood) >= 0.6 * len(words)


def test_a_sum_is_a_function_call_and_its_output_is_said(digits: GatewayUnderTest) -> None:
    """The client's function adds; the model says the sum."""
    tool = {
        "type": "function", "name": "work_out", "description": "adds",
        "parameters": {"type": "object", "properties": {"question": {"type": "string"}}},
    }  # fmt: skip
    asked = [soxr.resample(question, 16_000, HZ) for question in questions()]

    async def story() -> tuple[RealtimeCaller, int]:
        async with calling(digits.http, tools=[tool]) as caller:
            for question in asked:
                await caller.say(np.concatenate((question, np.zeros(3 * HZ, np.int16))))
                called = caller.of_type("response.function_call_arguments.done")
                if not called:
                    continue
                words = json.loads(called[-1].arguments)["question"].split()
                numbers = [int(word) for word in words if word.isdecimal()]
                total = sum(numbers[-2:])
                item = {"type": "function_call_output", "call_id": called[-1].call_id, "output": str(total)}
                before = len(caller.words())
                await caller.connection.conversation.item.create(item=item)
                await caller.connection.response.create()
                await caller.say(np.zeros(6 * HZ, np.int16))
                if WORDS[total] in caller.words()[before:]:
                    return caller, total
            return caller, -1

    caller, total = asyncio.run(story())
    called = caller.of_type("response.function_call_arguments.done")
    assert called and called[0].name == "work_out", caller.words()
    assert total >= 0, ([each.arguments for each in called], caller.words())
    assert not caller.of_type("error")


def test_who_may_not_come_is_told_by_status() -> None:
    """Tokens as for browsers, in the header and in the subprotocol that browsers use; room as for all."""
    import websockets

    settings = {"webrtc_calls": "1", "jwt_secret": SECRET}
    with GatewayUnderTest.start(GatewayWish(1, settings=settings, ready_timeout_s=60.0)) as gateway:

        async def story() -> None:
            with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
                async with calling(gateway.http):
                    pass
            assert refused.value.response.status_code == 401
            token = mint(SECRET, "somebody", 60)
            url = gateway.http.replace("http", "ws", 1) + "/v1/realtime?model=x"
            async with calling(gateway.http, key=token):
                with pytest.raises(websockets.exceptions.InvalidStatus) as full:
                    async with calling(gateway.http, key=token):
                        pass
                assert full.value.response.status_code == 503
                assert full.value.response.headers["Retry-After"]
            await asyncio.sleep(0.3)
            protocols = ["realtime", f"openai-insecure-api-key.{token}", "openai-beta.realtime-v1"]
            async with websockets.connect(url, subprotocols=protocols) as browser:
                assert browser.subprotocol == "realtime"
                assert json.loads(await browser.recv())["type"] == "session.created"

        asyncio.run(story())
