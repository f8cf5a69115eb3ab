"""What `helm test` does: one telephone call and one browser call, placed for real. Status 0 when both were heard.

    place_calls.py --sip sip:HOST:PORT --whip http://HOST:PORT/whip --seconds 4

Sound has to come back: with the engine `echo` its own, with a model what it says of itself first, or the
announcement that it is a machine. The token of the browser call is signed with MICROTURN_JWT_SECRET, where that is
set.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer
from aiortc.mediastreams import MediaStreamError
from yarl import URL

import gateway.recording
from gateway.api.tokens import mint
from gateway.caller.command import run_call

SPEECH = Path(gateway.recording.__file__).parent / "sounds" / "disclosure-en.wav"
"""Somebody who speaks; it is in every image."""
LEAST_FRAMES = 25
"""Half a second of packets."""
ANSWER_S = 10.0


async def browser_call(url: str, secret: str, seconds: float) -> dict[str, Any]:
    """One call by WHIP (RFC 9725) that says SPEECH: what came back. `OSError` when it was not answered."""
    heard = {"frames": 0, "sounding": 0}
    peer = RTCPeerConnection()
    listening: list[asyncio.Task[None]] = []

    async def listen(track: Any) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                heard["frames"] += 1
                samples = frame.to_ndarray().astype(np.float64)
                heard["sounding"] += bool(np.sqrt(np.mean(samples * samples)) > 100)

    @peer.on("track")
    def _(track: Any) -> None:
        listening.append(asyncio.ensure_future(listen(track)))

    voice = MediaPlayer(str(SPEECH), loop=True).audio
    assert voice is not None
    peer.addTrack(voice)
    headers = {"Content-Type": "application/sdp"}
    if secret:
        headers["Authorization"] = f"Bearer {mint(secret, 'helm-test', 300)}"
    try:
        await peer.setLocalDescription(await peer.createOffer())
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ANSWER_S)) as http:
            async with http.post(url, data=peer.localDescription.sdp, headers=headers) as answer:
                told = await answer.text()
                if answer.status != 201:
                    raise OSError(f"{url} answered {answer.status}: {told[:300]}")
                resource = str(answer.url.join(URL(answer.headers["Location"])))
            await peer.setRemoteDescription(RTCSessionDescription(told, "answer"))
            await asyncio.sleep(seconds)
            async with http.delete(resource, headers=headers):
                pass
    finally:
        await peer.close()
        for task in listening:
            task.cancel()
    return heard


def main(arguments: list[str]) -> int:
    """Both calls, one after the other; the last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="place_calls.py")
    parser.add_argument("--sip", default="", metavar="URI", help="empty: no telephone call")
    parser.add_argument("--whip", default="", metavar="URL", help="empty: no browser call")
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args(arguments)
    told: dict[str, Any] = {}
    if given.sip:
        told["sip"] = run_call(given.sip, SPEECH, None, given.seconds, 1.0, "PCMU", False) == 0
    if given.whip:
        secret = os.environ.get("MICROTURN_JWT_SECRET", "")
        try:
            heard = asyncio.run(browser_call(given.whip, secret, given.seconds))
        except (OSError, aiohttp.ClientError) as wrong:
            print(f"place_calls.py: no browser call: {wrong}", file=sys.stderr)
            heard = {"frames": 0}
        told |= {"whip": heard["frames"] >= LEAST_FRAMES, "whip_heard": heard}
    print(json.dumps(told), flush=True)
    return 0 if told and all(told[name] for name in ("sip", "whip") if name in told) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
