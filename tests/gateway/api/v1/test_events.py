"""`/v1/events` over real HTTP: a tenant hears of its own calls, and goes on at another gateway where it stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.cluster.spend import Reached
from tests.gateway.api.v1.test_calls import SECRET, bearer, call, told, two
from tests.gateway.state.server import StateServer, play
from tests.support.two_sites import Site

pytestmark = pytest.mark.redis

FOLLOW = {"Authorization": bearer("events:read")}


async def listen(answer: aiohttp.ClientResponse, count: int) -> list[dict[str, Any]]:
    """So many events as a client of the HTML standard reads them."""
    found: list[dict[str, Any]] = []
    now: dict[str, str] = {}
    async with asyncio.timeout(10):
        while len(found) < count:
            line = (await answer.content.readline()).decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                now[name] = value
            elif "data" in now:
                found.append(json.loads(now["data"]) | {"place": now["id"], "event": now["event"]})
                now = {}
    return found


@contextlib.asynccontextmanager
async def following(here: Site, query: str = "", **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession(here.url) as http,
        http.get(f"/v1/events{query}", headers=named) as answer,
    ):
        assert answer.status == 200, await answer.text()
        assert answer.headers["Content-Type"] == "text/event-stream"
        yield answer


def test_events_are_followed_by_tenant_and_resumed_at_another_gateway(
    server: StateServer, folder: Path
) -> None:
    async def story() -> None:
        tenants: dict[str, Any] = {"acme": {}}
        async with two(server, folder, jwt_secret=SECRET, tenants=tenants) as (left, right):
            ours = bearer("events:read", "acme")
            async with following(left, **FOLLOW) as all_of, following(right, Authorization=ours) as mine:
                theirs = await call(right, Authorization=bearer("call"))
                name = await call(left, Authorization=bearer("call", "acme"))
                every = await listen(all_of, 2)
                assert {one["call"] for one in every} == {theirs, name}
                (own,) = await listen(mine, 1)
                assert (own["call"], own["type"], own["event"]) == (name, "call.started", "call.started")
            left.worker.end(name)
            right.worker.end(theirs)
            async with following(right, Authorization=ours, Last_Event_ID=own["place"]) as mine:
                (ended,) = await listen(mine, 1)
                assert ended["type"] == "call.ended" and ended["data"]["reason"] == "over"
            async with following(right, f"?types=call.e*&after={every[0]['place']}", **FOLLOW) as chosen:
                assert {one["type"] for one in await listen(chosen, 2)} == {"call.ended"}
            told(await left.v1("GET", "/events", Authorization=bearer("calls:read")), 403, "forbidden")
            wrong = await left.v1("GET", "/events", Last_Event_ID="x", **FOLLOW)
            told(wrong, 400, "bad-place")

    play(story())


def test_a_cap_that_was_reached_is_told_once_a_day_to_whose_it_is(server: StateServer, folder: Path) -> None:
    async def story() -> None:
        tenants: dict[str, Any] = {"acme": {}, "other": {}}
        async with two(server, folder, jwt_secret=SECRET, tenants=tenants) as (left, _):
            ours, others = bearer("events:read", "acme"), bearer("events:read", "other")
            async with (
                following(left, Authorization=ours) as mine,
                following(left, Authorization=others) as theirs,
            ):
                for day in ("2026-11-23", "2026-11-23", "2026-11-24"):
                    left.office.reached(Reached("tenant:acme", "acme", day, 5.0))
                left.office.reached(Reached("tenant:other", "other", "2026-11-24", 7.0))
                told = await listen(mine, 2)
                assert [one["event"] for one in told] == ["spend.reached"] * 2
                assert [one["data"] for one in told] == [
                    {"limit": "tenant:acme", "day": day, "cap": 5.0} for day in ("2026-11-23", "2026-11-24")
                ]
                assert (await listen(theirs, 1))[0]["data"]["cap"] == 7.0

    play(story())
