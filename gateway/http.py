"""HTTP of the main process: `/healthz` (it runs), `/readyz` (it would take a call), `/metrics`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from gateway import control
from gateway.metrics import Metrics
from media.leases import MAX_BYTES, BadMessage, Stats, StatsRequest, decode, encode


class Served(Protocol):
    """What HTTP asks of the gateway."""

    metrics: Metrics

    @property
    def is_ready(self) -> bool: ...
    @property
    def model_socket(self) -> Path: ...
    @property
    def http_address(self) -> tuple[str, int]: ...
    def gauges(self) -> dict[str, float]: ...
    def edge_counters(self) -> Any: ...


async def ask_model(path: Path, timeout_s: float = 1.0) -> dict[str, Any] | None:
    """The model server's `Stats`; None when it does not answer."""
    loop = asyncio.get_running_loop()
    try:
        with control.connect(path) as connection:
            await loop.sock_sendall(connection, encode(StatsRequest()))
            async with asyncio.timeout(timeout_s):
                message = decode(await loop.sock_recv(connection, MAX_BYTES))
    except (OSError, TimeoutError, BadMessage):
        return None
    return message.fields if isinstance(message, Stats) else None


@contextlib.asynccontextmanager
async def serve_http(gateway: Served) -> AsyncIterator[int]:
    """Serve until the block is left; gives the port. `OSError` when it is taken."""

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        ready = gateway.is_ready
        return web.Response(text="ready\n" if ready else "not ready\n", status=200 if ready else 503)

    async def metrics(request: web.Request) -> web.Response:
        gateway.metrics.model = await ask_model(gateway.model_socket)
        gateway.metrics.gauges, gateway.metrics.edge = gateway.gauges(), gateway.edge_counters()
        return web.Response(body=gateway.metrics.text(), content_type="text/plain", charset="utf-8")

    app = web.Application(client_max_size=64 * 1024)
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    host, port = gateway.http_address
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
