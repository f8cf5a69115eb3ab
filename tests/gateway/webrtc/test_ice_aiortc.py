"""aiortc's own peer connections over our ICE: DTLS, a data channel and audio, by UDP and by TCP only."""

from __future__ import annotations

import asyncio

import aiortc.rtcicetransport
import pytest
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack
from aiortc.rtcicetransport import RTCIceGatherer, RTCIceParameters

from gateway.webrtc.ice import IceServer, IceSettings, LiteConnection
from tests.support.ice_peer import PATIENCE_S, Bridge, Clock, running


@pytest.fixture(autouse=True)
def _lite(loopback: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gatherers of ours say in SDP what they are."""

    def parameters(self: RTCIceGatherer) -> RTCIceParameters:
        ours = self._connection
        return RTCIceParameters(
            ours.local_username, ours.local_password, iceLite=isinstance(ours, LiteConnection)
        )

    monkeypatch.setattr(RTCIceGatherer, "getLocalParameters", parameters)


async def answered(
    server: IceServer,
    offerer: RTCPeerConnection,
    answerer: RTCPeerConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """The SDP of `answerer`, whose transport is ours, to the offer of `offerer`, which uses aioice."""
    await offerer.setLocalDescription(await offerer.createOffer())
    with monkeypatch.context() as patch:
        patch.setattr(aiortc.rtcicetransport, "Connection", server.new_connection)
        await answerer.setRemoteDescription(offerer.localDescription)
    await answerer.setLocalDescription(await answerer.createAnswer())
    return answerer.localDescription.sdp


def over_bridge(sdp: str, bridge: Bridge) -> str:
    """The one TCP candidate becomes the UDP end of the bridge."""
    lines = []
    for line in sdp.splitlines():
        if line.startswith("a=candidate:"):
            assert " tcp " in line and line.endswith("tcptype passive")
            line = f"a=candidate:1 1 udp 2130706431 127.0.0.1 {bridge.port} typ host"
        lines.append(line)
    return "\r\n".join(lines) + "\r\n"


async def talk(channel: RTCDataChannel, answerer: RTCPeerConnection, connection: LiteConnection) -> None:
    """A message there and back over the data channel, and 5 packets of SRTP to us."""
    echoed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    packets: asyncio.Queue[bytes] = asyncio.Queue(1_000)
    connection.on_rtp = lambda data, arrival_ns: packets.put_nowait(data)

    @answerer.on("datachannel")
    def opened(opened: RTCDataChannel) -> None:
        opened.on("message", lambda text: opened.send(text + " back"))

    channel.on("open", lambda: channel.send("there and"))
    channel.on("message", echoed.set_result)
    async with asyncio.timeout(2 * PATIENCE_S):
        assert await echoed == "there and back"
        assert all([127 < (await packets.get())[0] < 192 for _ in range(5)])


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_dtls_and_a_data_channel_and_audio(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        settings = IceSettings(tcp_port=0, tcp_only=transport == "tcp")
        offerer, answerer = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
        offerer.addTrack(AudioStreamTrack())
        channel = offerer.createDataChannel("microturn")
        async with running(settings) as server, Bridge.to("127.0.0.1", server.tcp_port) as bridge:
            sdp = await answered(server, offerer, answerer, monkeypatch)
            assert "a=ice-lite" in sdp and server.connections == 1
            assert answerer.sctp is not None
            connection = answerer.sctp.transport.transport._connection
            assert isinstance(connection, LiteConnection)
            if transport == "tcp":
                sdp = over_bridge(sdp, bridge)
            await offerer.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
            await talk(channel, answerer, connection)
            assert answerer.connectionState == "connected" and connection.alive
            assert (server.counters.datagrams == 0) == (transport == "tcp") == (bridge.frames > 0)
            await asyncio.gather(offerer.close(), answerer.close())
            assert server.connections == 0 and server.counters.errors == 0

    asyncio.run(story())


def test_a_browser_that_never_comes_fails_the_call_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        clock = Clock()
        offerer, answerer = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
        offerer.createDataChannel("microturn")
        async with running(IceSettings(connect_s=10), clock) as server:
            await answered(server, offerer, answerer, monkeypatch)
            failed = asyncio.Event()
            answerer.on("connectionstatechange", failed.set)
            while answerer.connectionState != "connecting":
                await asyncio.sleep(0)
            failed.clear()
            clock.pass_s(11)
            server.check_time()
            async with asyncio.timeout(PATIENCE_S):
                await failed.wait()
            assert answerer.connectionState == "failed" and server.counters.connects_timed_out == 1
            await asyncio.gather(offerer.close(), answerer.close())
            assert server.connections == 0

    asyncio.run(story())
