"""A WebRTC caller made of aiortc as it comes, over WHIP: another implementation at the far end of the line.

aioice leaves loopback addresses out on purpose; in tests they are all there is, so they are put in.
"""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import aioice.ice
import av
import numpy as np
import numpy.typing as npt
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError

HZ = 48_000
FRAME = 960


def _loopback(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    return ["127.0.0.1"]


aioice.ice.get_host_addresses = _loopback


class Spoken(MediaStreamTrack):
    """int16 [n] at 48 kHz, then silence, paced by the clock."""

    kind = "audio"

    def __init__(self, pcm: npt.NDArray[np.int16]) -> None:
        super().__init__()
        self._pcm = pcm
        self._sent = 0
        self._began = 0.0

    async def recv(self) -> av.AudioFrame:
        self._began = self._began or time.monotonic()
        due = self._began + self._sent / HZ
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        samples = np.zeros(FRAME, np.int16)
        part = self._pcm[self._sent : self._sent + FRAME]
        samples[: len(part)] = part
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
        frame.sample_rate, frame.pts = HZ, self._sent
        frame.time_base = fractions.Fraction(1, HZ)
        self._sent += FRAME
        return frame


class Filmed(MediaStreamTrack):
    """Pictures at 15 a second, paced by the clock, again and again; none while `is_on` is false."""

    kind = "video"

    def __init__(self, scenes: Sequence[av.VideoFrame]) -> None:
        super().__init__()
        self.is_on = True
        self.shot = 0
        self._scenes = scenes

    async def recv(self) -> av.VideoFrame:
        await asyncio.sleep(1 / 15)
        while not self.is_on:
            await asyncio.sleep(0.05)
        frame = self._scenes[self.shot % len(self._scenes)].reformat(format="yuv420p")
        frame.pts, frame.time_base = self.shot * 6_000, fractions.Fraction(1, 90_000)
        self.shot += 1
        return frame


@dataclass
class WebrtcCaller:
    """One connection; `heard` grows while it lives."""

    peer: RTCPeerConnection
    channel: RTCDataChannel
    messages: list[dict[str, Any]] = field(default_factory=list)
    heard: list[npt.NDArray[np.int16]] = field(default_factory=list)
    url: str = ""
    resume: str = ""
    etag: str = ""

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """Messages of the data channel so far."""
        return [m for m in self.messages if m["type"] == kind]

    async def message(self, kind: str, timeout_s: float = 5.0, after: int = 0) -> dict[str, Any]:
        """The message of that kind with index `after`, waited for."""
        async with asyncio.timeout(timeout_s):
            while len(self.of_type(kind)) <= after:
                await asyncio.sleep(0.01)
        return self.of_type(kind)[after]

    def say(self, **message: Any) -> None:
        """On the data channel."""
        self.channel.send(json.dumps(message))

    def pcm(self) -> npt.NDArray[np.int16]:
        """Everything heard so far, int16 [n] mono at 48 kHz."""
        return np.concatenate(self.heard) if self.heard else np.zeros(0, np.int16)

    def vanish(self) -> None:
        """As a machine that is switched off: nothing is sent any more, not even a goodbye."""
        for transport in {t.receiver.transport.transport for t in self.peer.getTransceivers()}:
            for protocol in transport._connection._protocols:
                protocol.transport.abort()


async def _record(caller: WebrtcCaller, track: MediaStreamTrack) -> None:
    with contextlib.suppress(MediaStreamError):
        while True:
            frame = await track.recv()
            samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels))
            caller.heard.append(samples[:, 0].astype(np.int16))


async def dial(
    http: aiohttp.ClientSession,
    base: str,
    pcm: npt.NDArray[np.int16],
    *,
    resume: str = "",
    headers: dict[str, str] | None = None,
    camera: Filmed | None = None,
    called: str = "",
) -> WebrtcCaller:
    """Offer, answer; `aiohttp.ClientResponseError` when the gateway refuses. `called` is a number, "" anybody."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.addTransceiver(Spoken(pcm), "sendrecv")
    if camera is not None:
        peer.addTransceiver(camera, "sendonly")
    channel = peer.createDataChannel("microturn", protocol="microturn.v1")
    caller = WebrtcCaller(peer, channel)
    channel.on("message", lambda text: caller.messages.append(json.loads(text)))
    recording: set[asyncio.Task[None]] = set()
    peer.on("track", lambda track: recording.add(asyncio.ensure_future(_record(caller, track))))
    await peer.setLocalDescription(await peer.createOffer())
    asked = {"Content-Type": "application/sdp", **(headers or {})}
    if resume:
        asked["Microturn-Resume"] = resume
    whip = f"{base}/whip?to={called}" if called else f"{base}/whip"
    async with http.post(whip, data=peer.localDescription.sdp, headers=asked) as answer:
        if answer.status != 201:
            await peer.close()
        answer.raise_for_status()
        text = await answer.text()
        caller.url = base + answer.headers["Location"]
        caller.resume, caller.etag = answer.headers["Microturn-Resume"], answer.headers["ETag"]
    await peer.setRemoteDescription(RTCSessionDescription(text, "answer"))
    return caller


@contextlib.asynccontextmanager
async def calling(
    base: str,
    pcm: npt.NDArray[np.int16],
    camera: Filmed | None = None,
    called: str = "",
    token: str = "",
    headers: dict[str, str] | None = None,
) -> AsyncIterator[WebrtcCaller]:
    """One call, deleted at the end."""
    told = (headers or {}) | ({"Authorization": f"Bearer {token}"} if token else {})
    async with aiohttp.ClientSession(headers=told) as http:
        caller = await dial(http, base, pcm, camera=camera, called=called)
        try:
            yield caller
        finally:
            async with http.delete(caller.url):
                pass
            await caller.peer.close()
