"""The WebSocket of a client, in the worker that has its call. The one place of this door that knows aiohttp.

The main process has read the request and let the client in; here the connection is taken up where it was left,
by an HTTP server that never listens: it is given the head of the request once more and answers it.

What comes in: one event at a time, at most `EVENTS_PER_S`; who sends faster waits, and so does what is behind
it in his socket. What goes out waits here: sound beyond `MOST_OWED` bytes is dropped, and counted; a client
that is owed `MOST_OWED_EVENTS` bytes does not read at all, and its call ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from gateway.realtime.events import MOST_MESSAGE_BYTES

log = structlog.get_logger()

EVENTS_PER_S: Final = 500
BURST: Final = 500
HEARTBEAT_S: Final = 10.0
"""A client that does not answer a ping for half as long is gone."""
MOST_OWED: Final = 256 * 1024
"""4 s of sound."""
MOST_OWED_EVENTS: Final = 1024 * 1024
CLOSING_S: Final = 1.0
SOUND: Final = "response.output_audio.delta"
PROTOCOL: Final = "realtime"


@dataclass(slots=True)
class SocketCounters:
    """Of one worker's clients, since its start."""

    events_received: int = 0
    events_sent: int = 0
    sounds_dropped: int = 0
    """Frames that a client who does not read was not sent."""
    clients_stuck: int = 0
    clients_slowed: int = 0
    """Times that a client was kept waiting since it sent too many events."""


class Owner(Protocol):
    """The call."""

    @property
    def name(self) -> str: ...
    def opened(self, client: Client) -> None:
        """It is there."""

    def receive(self, data: str | bytes) -> None:
        """One message."""

    def closed(self, reason: str) -> None:
        """It is gone; `hangup` when it said goodbye."""


class Client:
    """One WebSocket."""

    def __init__(self, owner: Owner, counters: SocketCounters) -> None:
        self.owner, self._counters = owner, counters
        self._owed: deque[tuple[str, bool]] = deque()  # bounded: `send` drops, and ends the call
        self._owed_bytes = 0
        self._events = 0
        self._wake = asyncio.Event()
        self._over = False

    def send(self, kind: str, **fields: Any) -> bool:
        """An event; False when it was dropped."""
        if self._over:
            return False
        is_sound = kind == SOUND
        if is_sound and self._owed_bytes > MOST_OWED:
            self._counters.sounds_dropped += 1
            return False
        self._events += 1
        text = msgspec.json.encode({"type": kind, "event_id": f"event_{self._events}", **fields}).decode()
        self._owed.append((text, is_sound))
        self._owed_bytes += len(text)
        self._counters.events_sent += 1
        self._wake.set()
        if self._owed_bytes > MOST_OWED_EVENTS:
            self._counters.clients_stuck += 1
            self.close()
        return True

    def close(self) -> None:
        """After what is owed."""
        self._over = True
        self._wake.set()

    async def serve(self, request: web.BaseRequest) -> web.WebSocketResponse:
        """From the handshake to the end."""
        ws = web.WebSocketResponse(
            protocols=(PROTOCOL,), heartbeat=HEARTBEAT_S, max_msg_size=MOST_MESSAGE_BYTES, compress=False
        )
        await ws.prepare(request)
        self.owner.opened(self)
        writing = asyncio.create_task(self._write(ws))
        reason = "lost"
        try:
            reason = await self._read(ws)
        finally:
            self._over = True
            self.owner.closed(reason)
            self._wake.set()
            with contextlib.suppress(TimeoutError, ConnectionError):
                await asyncio.wait_for(writing, CLOSING_S)
        return ws

    async def _read(self, ws: web.WebSocketResponse) -> str:
        loop = asyncio.get_running_loop()
        allowance, at = float(BURST), loop.time()
        async for message in ws:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                break
            self._counters.events_received += 1
            self.owner.receive(message.data)
            now = loop.time()
            allowance, at = min(BURST, allowance + (now - at) * EVENTS_PER_S) - 1.0, now
            if allowance < 0.0:
                self._counters.clients_slowed += 1
                await asyncio.sleep(-allowance / EVENTS_PER_S)
        return "hangup" if ws.close_code in (WSCloseCode.OK, WSCloseCode.GOING_AWAY) else "lost"

    async def _write(self, ws: web.WebSocketResponse) -> None:
        while not ws.closed:
            while self._owed and not ws.closed:
                text, _ = self._owed.popleft()
                self._owed_bytes -= len(text)
                await ws.send_str(text)
            if self._over:
                break
            self._wake.clear()
            if not self._owed:
                await self._wake.wait()
        await ws.close()


class Sockets:
    """Of one worker."""

    def __init__(self) -> None:
        self.counters = SocketCounters()
        self._coming: dict[Any, Client] = {}
        self._server: web.Server | None = None

    def start(self) -> None:
        """In the loop that the calls live in."""
        logger = logging.getLogger("aiohttp.server")
        self._server = web.Server(self._serve, access_log=None, logger=logger)

    async def take_up(self, connection: socket.socket, head: str, owner: Owner) -> None:
        """Answer that request on that connection, which is ours from now on; `OSError` when it is gone."""
        assert self._server is not None, "start() comes first"
        connection.setblocking(False)
        protocol = self._server()
        self._coming[protocol] = Client(owner, self.counters)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, connection)
        except BaseException:
            self._coming.pop(protocol, None)
            raise
        protocol.data_received(head.encode("latin-1", errors="replace"))

    async def close(self) -> None:
        """Whoever is left."""
        if self._server is not None:
            await self._server.shutdown(CLOSING_S)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        client = self._coming.pop(request.protocol)
        try:
            return await client.serve(request)
        except web.HTTPException:  # no WebSocket after all
            client.owner.closed("lost")
            raise
