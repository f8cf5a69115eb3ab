"""Pipecat's WebRTC transport with its input piped to its output, behind WHIP; run by an environment of its own.

`python pipecat_echo.py` prints `ready URL`. A frame processor in between makes output frames of input frames, which
is how Pipecat's documents echo. Loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid

from aiohttp import web
from loguru import logger
from pipecat.frames.frames import Frame, InputAudioRawFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport

RATE_HZ = 16_000
CALLS: dict[str, SmallWebRTCConnection] = {}
TASKS: set[asyncio.Task[None]] = set()


class Echo(FrameProcessor):
    """What is heard is said."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """One frame."""
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            said = OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels)
            await self.push_frame(said)
        else:
            await self.push_frame(frame, direction)


async def bot(connection: SmallWebRTCConnection) -> None:
    """One call's pipeline, until the call ends."""
    params = TransportParams(
        audio_in_enabled=True,
        audio_out_enabled=True,
        audio_in_sample_rate=RATE_HZ,
        audio_out_sample_rate=RATE_HZ,
        audio_out_10ms_chunks=2,
    )
    transport = SmallWebRTCTransport(connection, params)
    task = PipelineTask(
        Pipeline([transport.input(), Echo(), transport.output()]),
        params=PipelineParams(audio_in_sample_rate=RATE_HZ, audio_out_sample_rate=RATE_HZ),
        cancel_on_idle_timeout=False,
    )

    @transport.event_handler("on_client_disconnected")
    async def gone(transport: SmallWebRTCTransport, client: object) -> None:
        await task.cancel()

    await PipelineRunner(handle_sigint=False).run(task)


async def post(request: web.Request) -> web.Response:
    """An offer to its answer."""
    connection = SmallWebRTCConnection()
    await connection.initialize(sdp=await request.text(), type="offer")
    running = asyncio.create_task(bot(connection))
    TASKS.add(running)
    running.add_done_callback(TASKS.discard)
    await connection.connect()
    answer = connection.get_answer()
    assert answer is not None
    name = uuid.uuid4().hex
    CALLS[name] = connection
    return web.Response(
        status=201, text=answer["sdp"], content_type="application/sdp", headers={"Location": f"/whip/{name}"}
    )


async def delete(request: web.Request) -> web.Response:
    """The end of a call."""
    await CALLS.pop(request.match_info["call"]).disconnect()
    return web.Response()


async def serve() -> None:
    """Until it is interrupted."""
    logger.remove()
    application = web.Application()
    application.router.add_post("/whip", post)
    application.router.add_delete("/whip/{call}", delete)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"ready http://127.0.0.1:{runner.addresses[0][1]}/whip", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
