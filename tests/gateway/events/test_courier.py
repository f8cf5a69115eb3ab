"""Webhooks over real HTTP: signed, in order, again after every kind of refusal."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from gateway.events import outbox as outboxes
from gateway.events.courier import Courier
from gateway.events.records import decode
from gateway.events.signing import headers, key_of
from tests.gateway.events.support import SECRET, event, outbox, put, spool_at


@dataclass
class Endpoint:
    """A receiver that checks signatures, and refuses when told to."""

    answers: list[int] = field(default_factory=list)
    """Statuses of the next requests; then 204."""
    got: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    asked: int = 0
    port: int = 0

    async def receive(self, request: web.Request) -> web.Response:
        self.asked += 1
        body = await request.read()
        name, stamp = request.headers["webhook-id"], int(request.headers["webhook-timestamp"])
        assert abs(stamp - time.time()) < 30 and decode(body).id == name
        expected = headers(key_of(SECRET, "secret"), name, stamp, body)
        assert request.headers["webhook-signature"] == expected["webhook-signature"]
        status = self.answers.pop(0) if self.answers else 204
        if status == 204:
            self.got.append(name)
            self.bodies.append(body)
        if status == 0:
            await asyncio.sleep(1)
        headers_ = {"Location": "/elsewhere"} if status == 302 else {}
        return web.Response(
            status=status or 204, text="x" * 10_000 if status == 500 else None, headers=headers_
        )

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[str]:
        """Its URL; the same port again after an outage."""
        app = web.Application()
        app.add_routes([web.post("/hook", self.receive)])
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield f"http://127.0.0.1:{self.port}/hook"
        finally:
            await runner.cleanup()


async def until(endpoint: Endpoint, count: int) -> None:
    async with asyncio.timeout(5):
        while len(endpoint.got) < count:
            await asyncio.sleep(0.005)


def test_events_are_posted_in_order_whatever_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "FIRST_PAUSE_S", 0.01)

    async def story() -> None:
        endpoint = Endpoint([500, 302, 404, 0])
        spool = spool_at(tmp_path)
        events = [event(number, at_ms=time.time_ns() // 1_000_000) for number in range(20)]
        async with endpoint.up() as url:
            courier = Courier(outbox(spool, url=url), answer_s=0.3)
            running = asyncio.create_task(courier.run())
            put(spool, *events[:10])
            courier.wake.set()
            await until(endpoint, 10)
            assert endpoint.asked == 14 and courier.outbox.counters.failed == 4
        put(spool, *events[10:15])
        courier.wake.set()
        while courier.outbox.counters.failed < 6:  # down
            await asyncio.sleep(0.005)
        async with endpoint.up():
            put(spool, *events[15:])
            courier.wake.set()
            await until(endpoint, 20)
        assert endpoint.got == [one.id for one in events] and courier.outbox.counters.delivered == 20
        running.cancel()
        spool.close()

    asyncio.run(story())
