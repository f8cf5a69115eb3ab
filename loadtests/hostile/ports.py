"""What a stranger does to the UDP and TCP port of a WebRTC worker."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Awaitable, Callable

from loadtests.hostile.rtp import RtpStream
from loadtests.hostile.webrtc import datagram, seeds

SOURCES = 4
HELD_S = 1.0
AT_ONCE = 10


async def paced(count: int, per_s: float, strike: Callable[[], Awaitable[None] | None]) -> None:
    """`strike` so often, in groups of `AT_ONCE`, at a rate; faster only to make up."""
    began_s = time.monotonic()
    for number in range(count):
        done = strike()
        if done is not None:
            await done
        if number % AT_ONCE == AT_ONCE - 1:
            await asyncio.sleep(max(0.0, began_s + number / per_s - time.monotonic()))


async def flood_udp(port: int, count: int, per_s: float, seed: int) -> int:
    """Mutated datagrams from several addresses; returns how many were sent."""
    rng = random.Random(f"udp {seed}")
    known = {kind: seeds(kind) for kind in ("stun", "rtp", "rtcp")}
    streams = [RtpStream.start(rng) for _ in range(SOURCES)]
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(SOURCES)]
    sent = 0

    def strike() -> None:
        nonlocal sent
        index = rng.randrange(SOURCES)
        with contextlib.suppress(BlockingIOError):
            sockets[index].sendto(datagram(rng, streams[index], known), ("127.0.0.1", port))
            sent += 1

    try:
        for one in sockets:
            one.setblocking(False)
        await paced(count, per_s, strike)
    finally:
        for one in sockets:
            one.close()
    return sent


async def crowd_tcp(port: int, count: int, seed: int) -> int:
    """So many streams, most of which say nothing; some half a frame, huge ones, or very many. How many came up."""
    rng = random.Random(f"tcp {seed}")
    writers: list[asyncio.StreamWriter] = []
    opened = 0
    try:
        for _ in range(count):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writers.append(writer)
                opened += 1
                writer.write(_first_words(rng))
            if opened % AT_ONCE == 0:
                await asyncio.sleep(0.01)
        await asyncio.sleep(HELD_S)
    finally:
        for writer in writers:
            writer.close()
    return opened


def _first_words(rng: random.Random) -> bytes:
    kind = rng.randrange(10)
    if kind == 0:
        return b"\x04\x00" + rng.randbytes(40)  # half a frame
    if kind == 1:
        return b"\xff\xff" + rng.randbytes(4000)
    if kind == 2:
        return b"\x00\x02\x00\x01" * 5000
    if kind == 3:
        return b"\x00\x00" * 10_000
    return b"" if kind < 8 else rng.randbytes(rng.randrange(600))
