"""`GET /v1/realtime`: OpenAI Realtime clients come in here, and their connections go on to a worker.

Who may come, what the call falls under and whether there is room is asked as of a browser's offer (`whip.py`).
Then the connection itself, with the head of its request, is handed to the worker (`control.Attend`): the main
process reads no byte of what follows. Where it ends TLS itself, the worker is given one end of a socketpair, and
what comes out of TLS is pumped through it (`pump.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

from gateway import control
from gateway.api.door import Door
from gateway.api.problem import Problem
from gateway.api.pump import pump
from gateway.api.rate import OfferRate
from gateway.rules import EVERYBODY, Rules, Ruling
from gateway.webrtc.pool import REALTIME, WebrtcPool, new_name

if TYPE_CHECKING:
    from gateway.cluster.member import Cluster

PATH: Final = "/v1/realtime"
KEY: Final = "openai-insecure-api-key."
"""Of the subprotocol that brings a token where headers cannot be set: in browsers."""
_PASSED_ON: Final = (
    "Host", "Connection", "Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Extensions",
)  # fmt: skip
_PROTOCOL: Final = "realtime"


@dataclass(slots=True)
class RealtimeCounters:
    """Requests that were refused here, before a worker was asked; and those that one has taken."""

    refused_unauthorised: int = 0
    refused_too_fast: int = 0
    refused_malformed: int = 0
    handed_over: int = 0
    pumped: int = 0
    """Of them, by this process: it ends their TLS."""
    pumped_bytes: int = 0
    """Both ways."""


_COUNTED: Final = {
    400: "refused_malformed", 404: "refused_malformed", 405: "refused_malformed", 426: "refused_malformed",
    401: "refused_unauthorised", 403: "refused_unauthorised", 429: "refused_too_fast",
}  # fmt: skip


class Realtime:
    """The resource."""

    def __init__(
        self,
        pool: WebrtcPool,
        door: Door,
        rate: OfferRate,
        rules: Rules = EVERYBODY,
        cluster: Cluster | None = None,
    ) -> None:
        self.counters = RealtimeCounters()
        self._pool, self._door, self._rate, self._rules, self._cluster = pool, door, rate, rules, cluster

    def routes(self) -> list[web.RouteDef]:
        """One."""
        return [web.route("*", PATH, self._handle)]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._attend(request)
        except Problem as problem:
            name = _COUNTED.get(problem.status)
            if name is not None:
                setattr(self.counters, name, getattr(self.counters, name) + 1)
            return problem.response()

    async def _attend(self, request: web.Request) -> web.StreamResponse:
        address = request.remote or ""
        wait_s = self._rate.wait_s(address, time.monotonic_ns())
        if wait_s:
            told = f"too many requests from {address}: try again in {wait_s} s"
            raise Problem(429, "too-fast", told, {"Retry-After": str(wait_s)})
        protocols = _protocols(request)
        holder = self._door.admit(request, authorization=_authorization(request, protocols))
        self._door.check_origin(request)
        if request.method != "GET" or request.headers.get("Upgrade", "").lower() != "websocket":
            told = "a WebSocket is spoken here: GET with Upgrade: websocket (RFC 6455)"
            raise Problem(426, "upgrade-required", told, {"Upgrade": "websocket", "Connection": "Upgrade"})
        ruling = self._ruling(request)
        transport = request.transport
        if transport is None:
            raise Problem(400, "malformed", "the connection is gone")
        call, tenant = new_name(REALTIME), holder.tenant or ruling.tenant
        message = control.Attend(
            0, call, _head(request, protocols), ruling.persona, ruling.recording, tenant, ruling.engine
        )
        if self._cluster is not None and not await self._cluster.desk.take(
            call, holder, ruling, request.headers.get("traceparent", "")
        ):
            told = "as many calls as there may be at once are there already"
            raise Problem(503, "full", told, {"Retry-After": "2"})
        answered: control.Answered | None = None
        with contextlib.ExitStack() as undo:
            try:
                inside, theirs = _ends(transport, undo)
                answered = await self._hand_over(message, transport, theirs)
            finally:
                if self._cluster is not None:
                    taken = answered is not None and answered.status == 201
                    (self._cluster.desk.answered if taken else self._cluster.desk.refused)(call)
            if answered.status == 504:
                transport.abort()  # the worker may have it, and speak on it: nothing may be said here
                return web.Response(status=504)
            if answered.status != 201:
                code = "full" if self._pool.is_full(ruling.engine) else "not-ready"
                status = 503 if answered.status == 503 else 500
                raise Problem(
                    status, code, answered.reason, {"Retry-After": str(answered.retry_after_s or 2)}
                )
            self.counters.handed_over += 1
            if inside is not None:
                theirs.close()
                undo.pop_all()
                self.counters.pumped += 1
                await pump(transport, inside, self._count)
        transport.abort()  # ours of the two descriptors; the worker has the other
        return web.Response(status=101)

    async def _hand_over(
        self, message: control.Attend, transport: asyncio.Transport, theirs: socket.socket
    ) -> control.Answered:
        """Nothing is read here from now on, unless the client is refused."""
        transport.pause_reading()
        answered: control.Answered | None = None
        try:
            answered = await self._pool.attend(message, theirs.fileno())
            return answered
        finally:
            if answered is None or answered.status != 201:
                transport.resume_reading()

    def _count(self, size: int) -> None:
        self.counters.pumped_bytes += size

    def _ruling(self, request: web.Request) -> Ruling:
        """Of the name in `to`; else of `model`, where a rule has that name; else of nobody's."""
        to = request.query.get("to", "")
        ruling = self._rules.find_for_browser(to)
        if ruling is None:
            told = "nobody here has the name that was called: see the settings rules and personas"
            raise Problem(404, "no-such-name", told)
        model = request.query.get("model", "")
        return ruling if to or not model else self._rules.find_for_browser(model) or ruling


def _ends(
    transport: asyncio.Transport, undo: contextlib.ExitStack
) -> tuple[socket.socket | None, socket.socket]:
    """What a worker is given, and our end of it where it is not the connection itself; both closed by `undo`."""
    if transport.get_extra_info("sslcontext") is None:
        connection = transport.get_extra_info("socket")
        return None, undo.enter_context(socket.socket(fileno=os.dup(connection.fileno())))
    inside, theirs = socket.socketpair()
    return undo.enter_context(inside), undo.enter_context(theirs)


def _protocols(request: web.Request) -> list[str]:
    told = ",".join(request.headers.getall("Sec-WebSocket-Protocol", []))
    return [name.strip() for name in told.split(",") if name.strip()]


def _authorization(request: web.Request, protocols: list[str]) -> str | None:
    told = request.headers.get("Authorization")
    if told is not None:
        return told
    key = next((name.removeprefix(KEY) for name in protocols if name.startswith(KEY)), None)
    return f"Bearer {key}" if key is not None else None


def _head(request: web.Request, protocols: list[str]) -> str:
    """What the handshake needs, and nothing that says who calls."""
    lines = [f"GET {PATH} HTTP/1.1"]
    lines += [f"{name}: {request.headers[name]}" for name in _PASSED_ON if name in request.headers]
    if _PROTOCOL in protocols:
        lines.append(f"Sec-WebSocket-Protocol: {_PROTOCOL}")
    return "\r\n".join([*lines, "", ""])
