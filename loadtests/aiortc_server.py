"""The same work on aiortc as it comes, to be compared with: WHIP by aiohttp, everything else by its usual API.

    track.recv -> AudioResampler -> 200 ms chunk -> echo one chunk later -> MediaStreamTrack

    python -m loadtests.aiortc_server --port 0      prints "ready http://127.0.0.1:PORT"

Nothing here is tuned: this is what its examples do, with 16 kHz chunks in the middle. Of video every frame is
decoded, as aiortc does, and two a chunk are scaled as our chunks want them. Loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
import uuid
from collections import deque
from fractions import Fraction
from typing import Any

import av
import numpy as np
from aiohttp import web
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from numpy.typing import NDArray
from setproctitle import setproctitle

from gateway.priority import ask_for_realtime
from loadtests.aiortc_taps import allow_loopback

RATE_HZ, CHUNK_SAMPLES, FRAME_SAMPLES = 16_000, 3_200, 320
QUEUED_CHUNKS = 50  # beyond it the oldest go: 10 s of delay are broken anyway, and memory is bounded
VIDEO_EVERY_S = 0.1


class Counters:
    """Turns of all calls, as a gateway would count them."""

    def __init__(self) -> None:
        self.turns = self.missed = self.dropped = self.frames = 0

    def exposition(self) -> str:
        """Prometheus text, under the gateway's names."""
        return (
            f"microturn_turns_total {self.turns}\nmicroturn_turns_missed_total {self.missed}\n"
            f"aiortc_chunks_dropped_total {self.dropped}\naiortc_video_frames_total {self.frames}\n"
        )


class EchoTrack(MediaStreamTrack):
    """Plays chunks, and silence while there is none; a chunk that begins after silence was missed in its turn."""

    kind = "audio"

    def __init__(self, counters: Counters) -> None:
        super().__init__()
        self._counters = counters
        self._chunks: deque[NDArray[np.int16]] = deque(maxlen=QUEUED_CHUNKS)
        self._playing = np.zeros(0, dtype=np.int16)
        self._frames = 0
        self._began_s = 0.0
        self._heard = self._starved = False

    def push(self, chunk: NDArray[np.int16]) -> None:
        self._counters.turns += 1
        self._counters.dropped += len(self._chunks) == QUEUED_CHUNKS
        self._chunks.append(chunk)

    async def recv(self) -> av.AudioFrame:
        """20 ms, when they are due."""
        if not self._began_s:
            self._began_s = time.monotonic()
        due_s = self._began_s + self._frames * FRAME_SAMPLES / RATE_HZ
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        frame: Any = av.AudioFrame.from_ndarray(self._next()[None, :], format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE_HZ, self._frames * FRAME_SAMPLES
        frame.time_base = Fraction(1, RATE_HZ)
        self._frames += 1
        return frame

    def _next(self) -> NDArray[np.int16]:
        if not self._playing.size:
            if not self._chunks:
                self._starved = self._heard
                return np.zeros(FRAME_SAMPLES, dtype=np.int16)
            self._counters.missed += self._starved
            self._playing, self._heard, self._starved = self._chunks.popleft(), True, False
        frame, self._playing = self._playing[:FRAME_SAMPLES], self._playing[FRAME_SAMPLES:]
        return frame


async def echo_audio(track: Any, echo: EchoTrack) -> None:
    """Until the track ends."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    waiting = np.zeros(0, dtype=np.int16)
    with contextlib.suppress(MediaStreamError):
        while True:
            for frame in resampler.resample(await track.recv()):
                waiting = np.concatenate([waiting, frame.to_ndarray()[0]])
            while waiting.size >= CHUNK_SAMPLES:
                echo.push(waiting[:CHUNK_SAMPLES])
                waiting = waiting[CHUNK_SAMPLES:]


async def watch_video(track: Any, counters: Counters) -> None:
    """Two frames a chunk as RGB of 320 x 240, until the track ends."""
    last_s = 0.0
    with contextlib.suppress(MediaStreamError):
        while True:
            frame = await track.recv()
            if time.monotonic() - last_s >= VIDEO_EVERY_S:
                last_s = time.monotonic()
                frame.reformat(320, 240, "rgb24").to_ndarray()
                counters.frames += 1


class WhipServer:
    """POST /whip, DELETE of what it made, GET /metrics."""

    def __init__(self) -> None:
        self.counters = Counters()
        self._calls: dict[str, RTCPeerConnection] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_post("/whip", self.post)
        application.router.add_delete("/whip/{call}", self.delete)
        application.router.add_get("/metrics", self.metrics)
        application.on_shutdown.append(self.close)
        return application

    async def post(self, request: web.Request) -> web.Response:
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        echo = EchoTrack(self.counters)

        @connection.on("track")
        def came(track: MediaStreamTrack) -> None:
            if track.kind == "audio":
                self._start(echo_audio(track, echo))
            else:
                self._start(watch_video(track, self.counters))

        try:
            await connection.setRemoteDescription(RTCSessionDescription(await request.text(), "offer"))
        except ValueError as error:
            await connection.close()
            raise web.HTTPBadRequest(text=str(error)) from None
        connection.addTrack(echo)
        await connection.setLocalDescription(await connection.createAnswer())
        name = uuid.uuid4().hex
        self._calls[name] = connection
        return web.Response(
            status=201,
            text=connection.localDescription.sdp,
            content_type="application/sdp",
            headers={"Location": f"/whip/{name}"},
        )

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def delete(self, request: web.Request) -> web.Response:
        connection = self._calls.pop(request.match_info["call"], None)
        if connection is None:
            raise web.HTTPNotFound()
        await connection.close()
        return web.Response()

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=self.counters.exposition())

    async def close(self, application: web.Application) -> None:
        for connection in self._calls.values():
            await connection.close()
        for task in self._tasks:
            task.cancel()


async def serve(port: int) -> None:
    """Until it is cancelled. Raises OSError when the port is taken."""
    runner = web.AppRunner(WhipServer().application(), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        print(f"ready http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtests.aiortc_server")
    parser.add_argument("--port", type=int, default=8100)
    arguments = parser.parse_args()
    setproctitle("microturn: aiortc-baseline")
    ask_for_realtime()  # as the gateway's workers do: the same chance for both
    allow_loopback()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(arguments.port))


if __name__ == "__main__":
    main()
