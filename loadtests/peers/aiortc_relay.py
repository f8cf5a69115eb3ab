"""aiortc's shortest echo, behind WHIP: `python aiortc_relay.py` prints `ready URL`. Loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import uuid

from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

CALLS: dict[str, RTCPeerConnection] = {}


async def post(request: web.Request) -> web.Response:
    """An offer to its answer."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    connection.on("track", connection.addTrack)
    await connection.setRemoteDescription(RTCSessionDescription(await request.text(), "offer"))
    await connection.setLocalDescription(await connection.createAnswer())
    name = uuid.uuid4().hex
    CALLS[name] = connection
    return web.Response(
        status=201,
        text=connection.localDescription.sdp,
        content_type="application/sdp",
        headers={"Location": f"/whip/{name}"},
    )


async def delete(request: web.Request) -> web.Response:
    """The end of a call."""
    await CALLS.pop(request.match_info["call"]).close()
    return web.Response()


async def serve() -> None:
    """Until it is interrupted."""
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
