"""Browser calls through real processes: the main process and a worker die, and what the HTTP side says of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import aiohttp
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, MediaStreamTrack

from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish

pytestmark = pytest.mark.processes


@dataclass(eq=False)
class Browser:
    """A caller that is no browser: aiortc."""

    peer: RTCPeerConnection
    url: str
    path: str
    frames: int = 0

    async def listen(self, track: MediaStreamTrack) -> None:
        """Count the frames that are heard."""
        with contextlib.suppress(Exception):  # the track ends
            while True:
                await track.recv()
                self.frames += 1

    async def hears_more(self, frames: int) -> None:
        """Wait for so many frames from now on."""
        goal = self.frames + frames
        async with asyncio.timeout(10):
            while self.frames < goal:
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def calling(url: str) -> AsyncIterator[Browser]:
    """A call that is heard."""
    peer = RTCPeerConnection()
    peer.addTrack(AudioStreamTrack())
    await peer.setLocalDescription(await peer.createOffer())
    headers = {"Content-Type": "application/sdp"}
    offer = peer.localDescription.sdp
    async with aiohttp.ClientSession(url) as http, http.post("/whip", data=offer, headers=headers) as made:
        assert made.status == 201, await made.text()
        browser = Browser(peer, url, made.headers["Location"])
        answer = RTCSessionDescription(await made.text(), "answer")
    tracks: list[MediaStreamTrack] = []
    peer.on("track", tracks.append)
    await peer.setRemoteDescription(answer)
    listening = asyncio.create_task(browser.listen(tracks[0]))
    try:
        await browser.hears_more(10)
        yield browser
    finally:
        listening.cancel()
        await peer.close()


async def delete(browser: Browser) -> int:
    async with aiohttp.ClientSession(browser.url) as http, http.delete(browser.path) as ended:
        return ended.status


@contextlib.contextmanager
def gateway() -> Iterator[GatewayUnderTest]:
    settings = {"webrtc_calls": "4", "webrtc_udp_port": "0", "webrtc_tcp_port": "0"}
    with GatewayUnderTest.start(GatewayWish(calls=2, settings=settings)) as started:
        yield started


def test_the_main_process_dies_and_browser_calls_go_on() -> None:
    async def story(under_test: GatewayUnderTest) -> None:
        async with calling(under_test.http) as browser:
            worker, victim = under_test.only("webrtc-worker"), under_test.only("gateway")
            victim.kill()
            await browser.hears_more(100)  # two seconds of sound without it
            await asyncio.to_thread(under_test.successor, victim)
            await asyncio.to_thread(
                under_test.wait_for, lambda m: m["microturn_webrtc_calls_adopted_total"] == 1
            )
            assert under_test.only("webrtc-worker") == worker
            await browser.hears_more(25)
            assert await delete(browser) == 200
            assert await delete(browser) == 404

    with gateway() as under_test:
        asyncio.run(story(under_test))
        under_test.wait_for(lambda m: m["microturn_model_slots_leased"] == 0)
        assert under_test.metrics()["microturn_calls_lost_total"] == 0


def test_a_worker_dies_and_its_successor_takes_calls() -> None:
    async def story(under_test: GatewayUnderTest) -> None:
        async with calling(under_test.http) as browser:
            victim = under_test.only("webrtc-worker")
            victim.kill()
            await asyncio.to_thread(under_test.successor, victim)
            await asyncio.to_thread(
                under_test.wait_for,
                lambda m: m["microturn_ready"] == 1 and m["microturn_calls_lost_total"] == 1,
            )
            assert await delete(browser) == 404
            async with calling(under_test.http) as again:
                assert await delete(again) == 200

    with gateway() as under_test:
        asyncio.run(story(under_test))
        under_test.wait_for(lambda m: m["microturn_model_slots_leased"] == 0)
