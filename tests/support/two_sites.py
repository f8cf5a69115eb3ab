"""Gateways that share a real Redis, from HTTP to the control socket, without child processes: they can die."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from gateway.cluster.member import Cluster
from gateway.cluster.registry import Times
from gateway.config import GatewaySettings
from gateway.events.feed import Feed
from gateway.events.office import EventOffice
from gateway.intercom import Intercom
from gateway.sip.edge_settings import EdgeSettings
from gateway.state import delivery
from gateway.state.doors import BrowserDoor
from gateway.state.sessions import Sessions, make_client
from gateway.state.store import Store
from gateway.telephones import Telephones
from tests.support.web_worker import OFFER, WebSite, WebWorker

QUICK_LEASE = delivery.Times(lease_ms=1_500, renew_ms=100)
QUICK_NODE = Times(announce_s=0.1, alive_ms=600, take_s=2.0)


class Site(WebSite):
    """One gateway with one worker, which answers as a WebRTC worker would."""

    def __init__(self, settings: GatewaySettings) -> None:
        super().__init__(settings)
        assert self.pool is not None and settings.state_address is not None
        address = settings.state_address
        store = Store(lambda: make_client(settings, address), settings.redis_keep_s, QUICK_LEASE)
        self.sessions: Sessions = Sessions(
            store, settings.node_name, self._spawn, keep_s=settings.make_parties().keep_s
        )
        self.telephones = Telephones(EdgeSettings(port=0), 0)
        self.member = Cluster(
            settings, self.telephones, self.pool, self.sessions, self._ask_model, self._spawn
        )
        self.cluster = self.member
        self.member.registry._times = QUICK_NODE
        self.office = EventOffice(settings, self.sessions)
        self.intercom = Intercom(self.sessions.place_of, answer_s=0.5)
        door = self.intercom.door(BrowserDoor(self.pool, self.sessions, "echo", self.member.desk.party_of))
        for worker in self.fleet.members.values():
            worker.kind = door
        self.worker = WebWorker(settings.worker_socket)

    @property
    def feed(self) -> Feed | None:
        return self.office.feed

    async def _ask_model(self) -> dict[str, Any]:
        return {"gauges": {"slots": 10, "step_predicted_full_ns": 5_000_000, "step_limit_ns": 40_000_000}}

    @contextlib.asynccontextmanager
    async def living(self) -> AsyncIterator[Site]:
        """Until the block is left: then it is gone as after a SIGKILL."""
        await self.telephones.edge.start()
        try:
            async with self.open(), self.worker.connected():
                self.member.url = self.url
                self._spawn(self.sessions.store.run())
                self._spawn(self.member.run())
                self._spawn(self.office.run())
                await self.until(lambda: self.is_ready and self.member.registry.is_connected)
                try:
                    yield self
                finally:  # redis-py may swallow a cancellation
                    self.member.registry._leaving = self.sessions.store._delivery._closing = True
                    self.sessions.store.index.close()
                    self.office.close()
        finally:
            await self.telephones.edge.stop()
            await self.member.forward.close()

    async def close(self) -> None:
        """What a dead process would leave to the kernel."""
        for server in (self.sessions.store._delivery.server, self.member.registry._server):
            if server is not None:
                await server.close()

    async def post(self, source: str = "", **headers: str) -> Answer:
        """An offer, from that address of loopback; `headers` by their names with _ for -."""
        return await self.ask("POST", "/whip", OFFER, "application/sdp", source, **headers)

    async def v1(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A request of a program, with its body as JSON."""
        kind = "application/json" if body is not None else ""
        text = json.dumps(body) if body is not None else ""
        return await self.ask(method, f"/v1{path}", text, kind, **headers)

    async def ask(
        self, method: str, path: str, body: str = "", kind: str = "", source: str = "", **headers: str
    ) -> Answer:
        """Any request."""
        connector = aiohttp.TCPConnector(local_addr=(source, 0)) if source else None
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named |= {"Content-Type": kind} if kind else {}
        async with (
            aiohttp.ClientSession(self.url, connector=connector) as http,
            http.request(method, path, data=body or None, headers=named) as answer,
        ):
            return Answer(answer.status, await answer.text(), answer.headers)


class Answer:
    """What came back."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str]) -> None:
        self.status, self.text, self.headers = status, text, headers

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.text)

    @property
    def token(self) -> str:
        """That resumes the call."""
        return self.headers["Microturn-Resume"]

    @property
    def call(self) -> str:
        """Its name."""
        return self.headers["Location"].rpartition("/")[2]


@contextlib.asynccontextmanager
async def site(url: str, folder: Path, name: str, **settings: Any) -> AsyncIterator[Site]:
    """One that lives."""
    given = {"run_dir": folder / name, "http_port": 0, "webrtc_calls": 3, "redis": url, "node": name}
    made = Site(GatewaySettings(**(given | settings)))
    try:
        async with made.living():
            yield made
    finally:
        await made.close()


async def see_each_other(*sites: Site) -> None:
    """All of them know of all, and of their room."""

    def know(one: Site) -> bool:
        nodes = one.member.nodes()
        return len(nodes) == len(sites) and all(node.room_for_browsers() > 0 for node in nodes)

    async with asyncio.timeout(10):
        while not all(know(one) for one in sites):
            await asyncio.sleep(0.01)
