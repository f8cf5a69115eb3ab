"""A program pauses and resumes the recording of a live call by `/v1`, and hears of it in the stream of events."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.stories.test_recordings import settings
from tests.support.webrtc_caller import HZ, calling

pytestmark = [pytest.mark.processes, pytest.mark.long]


def test_a_recording_is_paused_and_resumed(tmp_path: Path) -> None:
    wish = GatewayWish(
        calls=1,
        settings=settings(tmp_path)
        | {"webrtc_calls": "2", "recording_encryption": "off", "redis": "auto", "disclosure": "off"},
    )

    async def story(base: str) -> None:
        async with (
            calling(base, np.zeros(HZ, np.int16), called="100") as caller,
            aiohttp.ClientSession(base) as http,
        ):
            path = f"/v1/calls/{caller.url.rpartition('/')[2]}/recording"

            async def state() -> dict[str, Any]:
                async with http.get(path) as answer:
                    return dict(await answer.json())

            async def act(action: str, status: int = 200) -> dict[str, Any]:
                async with http.post(path, json={"action": action}) as answer:
                    assert answer.status == status, await answer.text()
                    return dict(await answer.json(content_type=None))

            async with asyncio.timeout(20):
                while (await state())["state"] != "on":
                    await asyncio.sleep(0.1)
            assert (await act("resume", 409))["code"] == "not-recorded"
            assert (await act("pause"))["allowed"]
            async with asyncio.timeout(5):
                while (await state())["state"] != "paused":
                    await asyncio.sleep(0.05)
            await act("resume")
            await act("stop")
            kinds: list[str] = []
            async with http.get("/v1/events?after=0-0&types=recording.*") as stream, asyncio.timeout(10):
                while len(kinds) < 4:
                    line = (await stream.content.readline()).decode()
                    kinds += [line[7:].strip()] if line.startswith("event: ") else []
            assert kinds == [f"recording.{what}" for what in ("began", "paused", "resumed", "ended")]

    with GatewayUnderTest.start(wish) as gateway:
        asyncio.run(story(gateway.http))
