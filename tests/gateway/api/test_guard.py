"""Connections that only sit there: bounded in number, and in how long they may think."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

from gateway.api.guard import Guard

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def served(most: int, head_s: float) -> AsyncIterator[tuple[Guard, int]]:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.add_routes([web.get("/", hello)])
    runner = web.AppRunner(app)
    await runner.setup()
    assert runner.server is not None
    guard = Guard(runner.server, most, head_s)
    server = await asyncio.get_running_loop().create_server(guard, "127.0.0.1", 0)
    try:
        yield guard, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await runner.cleanup()


async def ask(streams: Streams) -> bytes:
    """The status line of an answer, all of which is read."""
    reader, writer = streams
    writer.write(REQUEST)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    await reader.readexactly(5)
    return head.split(b"\r\n")[0]


async def is_closed(streams: Streams) -> bool:
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(streams[0].read(1), 5) == b""
    return True


def test_beyond_the_bound_the_new_one_is_closed_and_the_others_are_served() -> None:
    async def story() -> None:
        async with served(most=3, head_s=30) as (guard, port):
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            speaking = await asyncio.open_connection("127.0.0.1", port)
            assert await ask(speaking) == b"HTTP/1.1 200 OK"
            late = await asyncio.open_connection("127.0.0.1", port)
            assert await is_closed(late) and guard.counters.connections_refused == 1
            idle[0][1].close()
            async with asyncio.timeout(5):
                while guard.open == 3:
                    await asyncio.sleep(0.005)
            assert await ask(await asyncio.open_connection("127.0.0.1", port)) == b"HTTP/1.1 200 OK"
            assert await ask(speaking) == b"HTTP/1.1 200 OK"

    asyncio.run(story())


def test_who_never_ends_the_head_of_a_request_is_closed() -> None:
    async def story() -> None:
        async with served(most=9, head_s=0.2) as (guard, port):
            speaking = await asyncio.open_connection("127.0.0.1", port)
            assert await ask(speaking) == b"HTTP/1.1 200 OK"
            mute = await asyncio.open_connection("127.0.0.1", port)
            slow = await asyncio.open_connection("127.0.0.1", port)
            slow[1].write(REQUEST[:-2])
            assert await is_closed(mute) and await is_closed(slow)
            assert guard.counters.connections_too_slow == 2 and guard.open == 1
            assert await ask(speaking) == b"HTTP/1.1 200 OK"

    asyncio.run(story())


def test_the_end_of_a_head_may_come_in_pieces() -> None:
    async def story() -> None:
        async with served(most=9, head_s=0.2) as (guard, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for byte in REQUEST:
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            assert (await asyncio.wait_for(reader.readuntil(b"hello"), 5)).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.3)  # beyond the bound: the timer must be off
            assert guard.counters.connections_too_slow == 0 and guard.open == 1

    asyncio.run(story())
