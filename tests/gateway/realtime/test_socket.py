"""The WebSocket of a client over a real connection, taken up behind the head of its request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import aiohttp

from gateway.realtime.events import MOST_MESSAGE_BYTES
from gateway.realtime.socket import BURST, EVENTS_PER_S, MOST_OWED, SOUND, Client, Sockets


class Owner:
    """Keeps what it is told."""

    name = "r-0123456789abcdef"

    def __init__(self) -> None:
        self.client: Client | None = None
        self.received: list[str | bytes] = []
        self.reasons: list[str] = []

    def opened(self, client: Client) -> None:
        self.client = client
        client.send("session.created", session={})

    def receive(self, data: str | bytes) -> None:
        self.received.append(data)

    def closed(self, reason: str) -> None:
        self.reasons.append(reason)

    async def gone(self) -> str:
        async with asyncio.timeout(5):
            while not self.reasons:
                await asyncio.sleep(0.01)
        return self.reasons[0]


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Sockets, Owner, aiohttp.ClientWebSocketResponse]]:
    """A client whose request somebody else has read."""
    sockets, owner, loop = Sockets(), Owner(), asyncio.get_running_loop()
    sockets.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        async def hand_over() -> None:
            connection, _ = await loop.sock_accept(listener)
            head = b""
            while b"\r\n\r\n" not in head:
                head += await loop.sock_recv(connection, 4096)
            await sockets.take_up(connection, head.decode(), owner)

        handing = asyncio.create_task(hand_over())
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}/v1/realtime"
        async with aiohttp.ClientSession() as http, http.ws_connect(url, protocols=("realtime",)) as ws:
            await handing
            assert ws.protocol == "realtime"
            yield sockets, owner, ws
    await sockets.close()


def test_events_both_ways_and_a_goodbye() -> None:
    async def story() -> None:
        async with connected() as (sockets, owner, ws):
            created = await ws.receive_json()
            assert created == {"type": "session.created", "event_id": "event_1", "session": {}}
            await ws.send_str("one")
            await ws.close()
            assert await owner.gone() == "hangup" and owner.received == ["one"]
            assert (sockets.counters.events_received, sockets.counters.events_sent) == (1, 1)

    asyncio.run(story())


def test_our_goodbye_comes_behind_what_is_owed() -> None:
    async def story() -> None:
        async with connected() as (_, owner, ws):
            assert owner.client is not None
            owner.client.send("response.done", response={})
            owner.client.close()
            assert not owner.client.send("error")
            kinds = [(await ws.receive()).type for _ in range(3)]
            assert kinds == [aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.CLOSE]

    asyncio.run(story())


def test_a_message_too_long_ends_it() -> None:
    async def story() -> None:
        async with connected() as (_, owner, ws):
            await ws.receive()
            with contextlib.suppress(ConnectionError):
                await ws.send_str("x" * (MOST_MESSAGE_BYTES + 1))
            assert (await ws.receive()).data == 1009
            assert await owner.gone() == "lost" and not owner.received

    asyncio.run(story())


def test_who_sends_too_fast_waits_and_loses_nothing() -> None:
    async def story() -> None:
        async with connected() as (sockets, owner, ws):
            begun = asyncio.get_running_loop().time()
            for _ in range(BURST + EVENTS_PER_S // 4):
                await ws.send_str("x")
            async with asyncio.timeout(5):
                while len(owner.received) < BURST + EVENTS_PER_S // 4:
                    await asyncio.sleep(0.01)
            assert asyncio.get_running_loop().time() - begun > 0.2 and sockets.counters.clients_slowed

    asyncio.run(story())


def test_who_does_not_read_loses_sound_first_and_then_the_call() -> None:
    async def story() -> None:
        async with connected() as (sockets, owner, _):
            client = owner.client
            assert client is not None
            while client.send(SOUND, delta="A" * 4_000):  # nobody else runs meanwhile: all of it is owed
                pass
            assert sockets.counters.sounds_dropped == 1
            assert client.send("response.done", response={"metadata": "x" * MOST_OWED})
            while client.send("error", error="x" * 100_000):
                pass
            assert sockets.counters.clients_stuck == 1

    asyncio.run(story())


def test_who_breaks_off_is_lost() -> None:
    async def story() -> None:
        async with connected() as (_, owner, ws):
            await ws.receive()
            transport = ws._response.connection.transport if ws._response.connection else None
            assert transport is not None
            transport.abort()
            assert await owner.gone() == "lost"

    asyncio.run(story())


def test_a_head_that_is_no_handshake_is_refused() -> None:
    async def story() -> None:
        sockets, owner = Sockets(), Owner()
        sockets.start()
        ours, theirs = socket.socketpair()
        await sockets.take_up(ours, "GET /v1/realtime HTTP/1.1\r\nHost: x\r\n\r\n", owner)
        theirs.setblocking(False)
        answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(theirs, 100), 5)
        assert answer.startswith(b"HTTP/1.1 400")
        assert await owner.gone() == "lost"
        theirs.close()
        await sockets.close()

    asyncio.run(story())
