"""HTTP of the main process: `/healthz` (it runs), `/readyz` (it would take a call of the usual engine, and which
further ones there are), `/metrics`, `/nodes` (the gateways that share its Redis, with what they have room for),
browser calls."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.api import console
from gateway.api.body import MOST_BYTES
from gateway.api.door import Door
from gateway.api.guard import Guard, GuardCounters
from gateway.api.problem import Problem
from gateway.api.rate import OfferRate
from gateway.api.realtime import Realtime
from gateway.api.turn import IceServers
from gateway.api.v1.calls import Calls
from gateway.api.v1.cdrs import Cdrs
from gateway.api.v1.events import Events
from gateway.api.v1.idempotency import Once
from gateway.api.v1.settings import Settings
from gateway.api.v1.surface import Handler, Surface
from gateway.api.whip import Whip
from gateway.cluster.member import Cluster
from gateway.config import GatewaySettings
from gateway.histogram import Histogram
from gateway.metrics import Metrics
from gateway.model_control import ask_model
from gateway.recording.desk import RecordingDesk
from gateway.sip.switchboard import Switchboard
from gateway.webrtc.pool import WebrtcPool

if TYPE_CHECKING:  # redis-py takes 0.15 s to load
    from gateway.events.feed import Feed
    from gateway.intercom import Intercom
    from gateway.state.sessions import Sessions

KEEPALIVE_S = 30.0
"""A page that rests keeps its connection for so long."""
HANDSHAKE_S = 5.0


class Served(Protocol):
    """What HTTP asks of the gateway."""

    settings: GatewaySettings
    metrics: Metrics
    pool: WebrtcPool | None

    @property
    def cluster(self) -> Cluster | None: ...
    @property
    def sessions(self) -> Sessions | None: ...
    @property
    def intercom(self) -> Intercom: ...
    @property
    def switchboard(self) -> Switchboard | None: ...
    @property
    def feed(self) -> Feed | None: ...
    @property
    def recordings(self) -> RecordingDesk: ...
    def placing(self, call: str, tenant: str, traceparent: str = "") -> None:
        """A call of ours is on its way, of that tenant."""
        ...

    @property
    def draining(self) -> bool: ...
    @property
    def live(self) -> int: ...
    def drain(self) -> None: ...
    @property
    def is_ready(self) -> bool: ...
    def engines_there(self) -> dict[str, bool]: ...
    def room_for(self, engine: str) -> int: ...
    def gauges(self) -> dict[str, float]: ...
    def counters(self) -> dict[str, Any]: ...
    def histograms(self) -> tuple[Histogram, ...]: ...


def make_whip(settings: GatewaySettings, pool: WebrtcPool, cluster: Cluster | None = None) -> Whip:
    """The HTTP side of browser calls, as it is set."""
    door = Door(settings.jwt_secret.get_secret_value(), frozenset(settings.web_origins))
    turn_secret = settings.turn_secret.get_secret_value()
    servers = IceServers(settings.stun_urls, settings.turn_urls, turn_secret, settings.turn_ttl_s)
    return Whip(pool, door, servers, OfferRate(settings.webrtc_offers_per_s), settings.make_rules(), cluster)


def make_realtime(settings: GatewaySettings, pool: WebrtcPool, cluster: Cluster | None = None) -> Realtime:
    """The HTTP side of `/v1/realtime`, as it is set."""
    door = Door(settings.jwt_secret.get_secret_value(), frozenset(settings.web_origins))
    return Realtime(pool, door, OfferRate(settings.webrtc_offers_per_s), settings.make_rules(), cluster)


def make_v1(gateway: Served) -> Surface:
    """The interface for programs, as it is set."""
    settings, sessions, cluster = gateway.settings, gateway.sessions, gateway.cluster
    calls = Calls(
        sessions, gateway.intercom, cluster, gateway.switchboard, settings.trunks, settings.node_name,
        gateway.placing, gateway.recordings,
    )  # fmt: skip
    cdrs = Cdrs(sessions)
    told = Settings(settings, gateway.drain, lambda: (gateway.draining, gateway.live))
    handlers: dict[str, Handler] = {
        "list_calls": calls.page, "get_call": calls.get, "read_transcript": calls.transcript,
        "originate": calls.originate, "hang_up": calls.hang_up,
        "send_text": calls.send_text, "send_digits": calls.send_digits, "mute": calls.mute,
        "unmute": calls.unmute, "transfer": calls.transfer, "join": calls.join,
        "leave": calls.leave, "record": calls.record,
        "get_recording": calls.recording, "list_cdrs": cdrs.page,
        "list_personas": told.personas, "list_trunks": told.trunks, "list_rules": told.rules,
        "get_drain": told.get_drain, "drain": told.drain, "follow_events": Events(gateway.feed).follow,
    }  # fmt: skip
    return Surface(
        Door(settings.jwt_secret.get_secret_value(), frozenset(settings.web_origins)),
        OfferRate(settings.api_requests_per_s),
        handlers,
        calls.elsewhere,
        Once(sessions.store.script, settings.redis_namespace) if sessions is not None else None,
        key=lambda: cluster.key if cluster is not None else "",
    )


class ClientFaults(logging.Filter):
    """What is no HTTP is answered with 400 and counted; aiohttp would write a page of log for each such request."""

    def __init__(self, counters: GuardCounters) -> None:
        super().__init__()
        self._counters = counters

    def filter(self, record: logging.LogRecord) -> bool:
        wrong = record.exc_info[1] if record.exc_info else None
        if isinstance(wrong, HttpProcessingError):
            self._counters.requests_malformed += 1
            return False
        return record.levelno > logging.DEBUG


def _logger(counters: GuardCounters) -> logging.Logger:
    """For one server; on debug, since aiohttp tells some of the faults at that level."""
    logger = logging.Logger("aiohttp.server", logging.DEBUG)
    logger.parent = logging.root
    logger.addFilter(ClientFaults(counters))
    return logger


async def _no_page(request: web.Request) -> web.Response:
    told = "browser calls are off (webrtc_calls = 0); see /console/figures, /healthz, /readyz and /metrics"
    return Problem(404, "no-such-page", told).response()


def make_app(gateway: Served, counters: dict[str, Any]) -> web.Application:
    """Every route; `counters` are those of the HTTP side, by the part that they belong to."""

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        ready = gateway.is_ready
        engines = [
            f"engine {name}: {'ready' if there else 'no model server: its calls are refused'}\n"
            for name, there in gateway.engines_there().items()
        ]
        told = "".join(["ready\n" if ready else "not ready\n", *engines])
        return web.Response(text=told, status=200 if ready else 503)

    async def metrics(request: web.Request) -> web.Response:
        sockets = gateway.settings.engine_sockets(gateway.settings.model_socket)
        told = dict(zip(sockets, await asyncio.gather(*map(ask_model, sockets.values())), strict=True))
        gateway.metrics.model, gateway.metrics.further = told.pop(""), told
        gateway.metrics.room = {name: gateway.room_for(name) for name in told}
        gateway.metrics.gauges, gateway.metrics.parts = gateway.gauges(), gateway.counters() | counters
        gateway.metrics.histograms = gateway.histograms()
        return web.Response(body=gateway.metrics.text(), content_type="text/plain", charset="utf-8")

    async def nodes(request: web.Request) -> web.Response:
        found = gateway.cluster.nodes() if gateway.cluster is not None else []
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    app = web.Application(client_max_size=MOST_BYTES)
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    app.add_routes([web.get("/nodes", nodes)])
    if (
        gateway.pool is not None and gateway.settings.realtime_api == "on"
    ):  # before what takes the rest of /v1
        realtime = make_realtime(gateway.settings, gateway.pool, gateway.cluster)
        counters["realtime_http"] = realtime.counters
        app.add_routes(realtime.routes())
    if gateway.settings.serves_api:
        surface = make_v1(gateway)
        counters["v1"] = surface.counters
        app.add_routes(surface.routes())
    pages = console.read_pages()
    if gateway.pool is None:
        app.add_routes([web.get("/", _no_page), *console.routes(console.of_operators(pages))])
    else:
        whip = make_whip(gateway.settings, gateway.pool, gateway.cluster)
        counters["http"] = whip.counters
        app.add_routes([*whip.routes(), *console.routes(pages)])
    return app


@contextlib.asynccontextmanager
async def serve_http(gateway: Served, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve until the block is left; gives the port. `OSError` when it is taken."""
    counters: dict[str, Any] = {}
    server_counters = counters["http_server"] = GuardCounters()
    runner = web.AppRunner(
        make_app(gateway, counters),
        access_log=None,
        logger=_logger(server_counters),
        handle_signals=False,
        shutdown_timeout=1.0,
        keepalive_timeout=KEEPALIVE_S,
    )
    await runner.setup()
    assert runner.server is not None
    guard = Guard(runner.server, counters=server_counters)
    settings, patience_s = gateway.settings, HANDSHAKE_S if tls else None
    try:
        server = await asyncio.get_running_loop().create_server(
            guard, settings.http_host, settings.http_port, ssl=tls, ssl_handshake_timeout=patience_s
        )
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
    finally:
        await runner.cleanup()
