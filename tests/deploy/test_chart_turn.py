"""A browser call through the chart's coturn to the chart's gateway, in a network namespace of its own: coturn
relays to addresses of clusters alone, and never to loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiortc import (
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.contrib.media import MediaPlayer
from aiortc.mediastreams import MediaStreamError

import gateway.recording
from gateway.api.tokens import mint
from loadtests.chart.helm import render
from loadtests.chart.pod import ChartPod
from loadtests.chart.programs import coturn
from loadtests.netem.namespaces import Namespace
from tests.support.helm import needs_helm
from tests.support.netns import needs_namespaces

pytestmark = [
    needs_helm,
    pytest.mark.lab,
    pytest.mark.processes,
    pytest.mark.skipif(not shutil.which("turnserver"), reason="apt-get install coturn"),
]

ADDRESS, TURN_PORT = "10.99.0.2", 3478
VALUES = f"media.mode=turn,coturn.enabled=true,coturn.host={ADDRESS},gateway.settings.disclosure=off"
SPEECH = Path(gateway.recording.__file__).parent / "sounds" / "disclosure-en.wav"
SPOKEN_S = 4.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[ChartPod, Path]]:
    """A pod and coturn, with one address of a cluster; gives the pod and coturn's log."""
    needs_namespaces()
    with contextlib.ExitStack() as stack:
        space = stack.enter_context(contextlib.closing(Namespace()))
        space.ip(f"address add {ADDRESS}/32 dev lo")
        stack.enter_context(space.entered())
        pod = stack.enter_context(ChartPod.start(tmp_path / "pod", "--set", VALUES, address=ADDRESS))
        secret = pod.gateway_environment["MICROTURN_TURN_SECRET"]
        folder = tmp_path / "turn"
        folder.mkdir()
        objects = render("--set", VALUES)
        yield pod, stack.enter_context(coturn(folder, objects, TURN_PORT, secret, ADDRESS))


def servers(pod: ChartPod, token: str) -> list[RTCIceServer]:
    """As the page asks for them."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{pod.http_port}/ice", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        told = json.loads(answer.read())["iceServers"]
    return [RTCIceServer(**each) for each in told]


async def relayed_call(pod: ChartPod, seconds: float) -> tuple[np.ndarray, list[str]]:
    """What was heard (48 kHz), and the types of our candidates."""
    token = mint(pod.secret, "anna", 300)
    relay_only = RTCConfiguration(
        iceServers=await asyncio.to_thread(servers, pod, token),
        iceTransportPolicy=RTCIceTransportPolicy.RELAY,
    )
    peer = RTCPeerConnection(relay_only)
    heard: list[np.ndarray] = []
    listening: list[asyncio.Task[None]] = []

    async def listen(track) -> None:  # type: ignore[no-untyped-def]
        with contextlib.suppress(MediaStreamError):
            while True:
                heard.append((await track.recv()).to_ndarray().reshape(-1))

    peer.on("track", lambda track: listening.append(asyncio.ensure_future(listen(track))))
    peer.addTrack(MediaPlayer(str(SPEECH), loop=True).audio)
    url = f"http://127.0.0.1:{pod.http_port}/whip"
    headers = {"Content-Type": "application/sdp", "Authorization": f"Bearer {token}"}
    try:
        await peer.setLocalDescription(await peer.createOffer())
        offer = peer.localDescription.sdp
        async with aiohttp.ClientSession() as http, http.post(url, data=offer, headers=headers) as answer:
            assert answer.status == 201, await answer.text()
            await peer.setRemoteDescription(RTCSessionDescription(await answer.text(), "answer"))
        await asyncio.sleep(seconds)
    finally:
        await peer.close()
        for task in listening:
            task.cancel()
    types = [
        line.split(" typ ")[1].split()[0] for line in offer.splitlines() if line.startswith("a=candidate")
    ]
    return np.concatenate(heard) if heard else np.zeros(0), types


def test_a_browser_is_heard_through_the_relay(cluster: tuple[ChartPod, Path]) -> None:
    pod, _ = cluster
    heard, types = asyncio.run(relayed_call(pod, SPOKEN_S))
    assert set(types) == {"relay"}, "nothing else was offered"
    sounding = np.abs(heard.astype(np.int32)) > 300
    assert sounding.sum() > 48_000 * 0.3, "the echo of what was said"
    pod.wait_for(lambda: pod.figure("turns_total") >= 5 * (SPOKEN_S - 2), 5.0, "its turns are counted")
    assert pod.figure("turns_missed_total") < pod.figure("turns_total") / 4


def test_it_relays_to_nobody_else(cluster: tuple[ChartPod, Path]) -> None:
    """Loopback of the TURN server's node, and addresses that are no gateway's."""
    pod, _ = cluster
    import aioice.turn

    async def permitted(peer: tuple[str, int]) -> bool:
        server = servers(pod, mint(pod.secret, "eve", 300))[0]
        transport, _ = await aioice.turn.create_turn_endpoint(
            asyncio.DatagramProtocol,
            server_addr=(ADDRESS, TURN_PORT),
            username=server.username,
            password=server.credential,
        )
        try:
            inner = transport._TurnTransport__inner_protocol  # its send hides what the server answers
            await asyncio.wait_for(inner.channel_bind(0x4000, peer), 5.0)
        except aioice.stun.TransactionFailed as refused:
            assert refused.response.attributes["ERROR-CODE"][0] == 403
            return False
        finally:
            transport.close()
        return True

    assert asyncio.run(permitted((ADDRESS, 7600)))
    for host in ("127.0.0.1", "169.254.169.254", "8.8.8.8"):
        assert not asyncio.run(permitted((host, 80))), host
