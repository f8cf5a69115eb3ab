"""Programs see and command calls at any of two gateways that share a Redis, and tenants their own alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway import control
from gateway.api.tokens import mint
from gateway.api.v1.operations import SCOPES
from gateway.state.records import Line
from tests.gateway.state.server import StateServer, play
from tests.support.two_sites import Answer, Site, see_each_other, site

pytestmark = pytest.mark.redis

SECRET = "a secret of at least thirty-two bytes"
ALL = " ".join(SCOPES)


def bearer(scope: str = ALL, tenant: str = "", name: str = "program") -> str:
    return f"Bearer {mint(SECRET, name, 600, scope, tenant)}"


@contextlib.asynccontextmanager
async def two(server: StateServer, folder: Path, **settings: Any) -> AsyncIterator[tuple[Site, Site]]:
    async with (
        site(server.url, folder, "left", **settings) as left,
        site(server.url, folder, "right", **settings) as right,
    ):
        await see_each_other(left, right)
        yield left, right


async def call(here: Site, **headers: str) -> str:
    """A browser's, once its lease is written."""
    made = await here.post(**headers)
    assert made.status == 201, made.text
    await here.until(lambda: here.sessions.store.owns(made.call))
    return made.call


def told(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.json["code"]) == (status, code), answer.text
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.json["request"] == answer.headers["X-Request-Id"]


def test_a_list_has_the_calls_of_all_gateways_page_by_page(server: StateServer, folder: Path) -> None:
    async def story() -> None:
        async with two(server, folder) as (left, right):
            made = [await call(here) for here in (left, right, left)]
            whole = (await left.v1("GET", "/calls")).json
            assert [one["id"] for one in whole["calls"]] == made and "next" not in whole
            assert [one["node"] for one in whole["calls"]] == ["left", "right", "left"]
            assert "silent" not in whole
            seen, cursor = [], ""
            for _ in made:
                page = (await right.v1("GET", f"/calls?limit=1&cursor={cursor}")).json
                seen += [one["id"] for one in page["calls"]]
                cursor = page.get("next", "")
            assert seen == made and not cursor
            assert not (await left.v1("GET", "/calls?door=sip")).json["calls"]
            for query in ("limit=0", "limit=x", "nonsense=1", "limit=1&limit=2"):
                told(await left.v1("GET", f"/calls?{query}"), 400, "bad-query")
            told(await left.v1("GET", "/calls?cursor=AAAA"), 400, "bad-cursor")

    play(story())


def test_a_command_reaches_the_worker_wherever_the_call_lives(server: StateServer, folder: Path) -> None:
    async def story() -> None:
        async with two(server, folder) as (left, right):
            name = await call(left)
            path = f"/calls/{name}"
            for here in (left, right):
                assert (await here.v1("GET", path)).json["state"] == "live"
            before = len(left.worker.heard)
            for what, body, do, value in (
                ("text", {"text": "hello\nthere"}, "text", "hello\nthere"),
                ("mute", {}, "mute-caller", ""),
                ("unmute", {"who": "model"}, "unmute-model", ""),
            ):
                answer = await right.v1("POST", f"{path}/{what}", body)
                assert answer.status == 204 and not answer.text, answer.text
                heard = left.worker.heard[-1]
                assert isinstance(heard, control.Command)
                assert (heard.call, heard.do, heard.value) == (name, do, value)
            assert len(left.worker.heard) == before + 3 and not right.worker.heard
            told(await right.v1("POST", f"{path}/digits", {"digits": "1"}), 409, "no-digits")
            told(await right.v1("POST", f"{path}/digits", {"digits": "x"}), 422, "wrong-value")
            told(await right.v1("POST", f"{path}/text", {"text": "é" * 501}), 422, "wrong-value")
            told(await right.v1("POST", f"{path}/text", {"txt": "hello"}), 422, "wrong-value")
            told(await right.ask("POST", f"/v1{path}/text", "{", "application/json"), 400, "malformed")
            told(await right.ask("POST", f"/v1{path}/text", "{}", "text/plain"), 415, "wrong-type")
            told(await right.v1("POST", f"{path}/text", {"text": "x" * 40_000}), 413, "too-long")
            for turn, who in ((3, "caller"), (5, "model"), (7, "caller")):
                line = Line(turn, who, f"said in {turn}", 3_200 if who == "model" else 0)  # type: ignore[arg-type]
                left.sessions.said(name, line)
            await left.until(lambda: not left.sessions.store.gauges()["state_buffered"])
            said = (await right.v1("GET", f"{path}/transcript")).json
            assert [line["text"] for line in said["lines"]] == ["said in 3", "said in 5", "said in 7"]
            assert said["lines"][1]["heard_ms"] == 200 and "more" not in said
            newest = (await left.v1("GET", f"{path}/transcript?limit=1")).json
            assert [line["turn"] for line in newest["lines"]] == [7] and newest["more"]
            left.worker.silent = True
            told(await right.v1("POST", f"{path}/mute", {}), 504, "no-answer")
            left.worker.silent = False
            assert (await right.v1("DELETE", path)).status == 204
            assert not left.worker.calls
            told(await left.v1("DELETE", path), 404, "gone")
            await left.until(lambda: not left.sessions.store.gauges()["state_buffered"])
            over = (await right.v1("GET", path)).json
            assert over["state"] == "over" and over["ended_ms"] >= over["began_ms"]
            for nothing in ("b-00000000000000ff", "../drain", "b-xyz"):
                told(await left.v1("GET", f"/calls/{nothing.replace('/', '%2f')}"), 404, "gone")

    play(story())


def test_a_token_allows_what_it_says_and_a_tenant_sees_its_own(server: StateServer, folder: Path) -> None:
    async def story() -> None:
        tenants = {"acme": {}, "rival": {}}
        rules = [
            {"name": "spring", "called": "150", "persona": "count", "tenant": "acme"},
            {"name": "theirs", "called": "160", "persona": "interpret", "tenant": "rival"},
        ]
        trunks = {
            "carrier": {"hosts": ["203.0.113.0/24"], "tenant": "acme"},
            "other": {"hosts": ["192.0.2.1"]},
        }
        async with two(server, folder, jwt_secret=SECRET, tenants=tenants, rules=rules, trunks=trunks) as (
            left,
            right,
        ):
            ours = await call(left, Authorization=bearer("call", "acme"))
            theirs = await call(right, Authorization=bearer("call", "rival"))
            nobodys = await call(right, Authorization=bearer("call"))

            async def listed(tenant: str) -> set[str]:
                page = (await left.v1("GET", "/calls", Authorization=bearer(tenant=tenant))).json
                return {one["id"] for one in page["calls"]}

            assert await listed("acme") == {ours} and await listed("rival") == {theirs}
            assert await listed("") == {ours, theirs, nobodys} and not await listed("stranger")
            acme = bearer(tenant="acme")
            for here in (left, right):
                told(await here.v1("GET", f"/calls/{theirs}", Authorization=acme), 404, "gone")
                told(await here.v1("DELETE", f"/calls/{theirs}", Authorization=acme), 404, "gone")
                told(await here.v1("GET", f"/calls/{theirs}/transcript", Authorization=acme), 404, "gone")
            assert theirs in right.worker.calls
            told(await left.v1("GET", "/calls"), 401, "unauthorised")
            told(await left.v1("GET", "/calls", Authorization=bearer("call")), 403, "forbidden")
            refused = await left.v1("DELETE", f"/calls/{ours}", Authorization=bearer("calls:read"))
            told(refused, 403, "forbidden")
            assert 'scope="calls:write"' in refused.headers["WWW-Authenticate"]
            told(await left.v1("POST", "/drain", Authorization=acme), 403, "forbidden")

            mine = (await left.v1("GET", "/rules", Authorization=acme)).json["rules"]
            assert [rule["name"] for rule in mine] == ["spring"]
            every = (await left.v1("GET", "/rules", Authorization=bearer())).json["rules"]
            assert [rule["name"] for rule in every] == ["spring", "theirs"]
            found = (await left.v1("GET", "/trunks", Authorization=acme)).json["trunks"]
            assert [trunk["name"] for trunk in found] == ["carrier"]
            found = (await left.v1("GET", "/personas", Authorization=acme)).json["personas"]
            assert found == [{"name": "150", "persona": "count"}]
            assert (await left.v1("POST", "/drain", Authorization=bearer())).json["draining"] is True
            assert left.draining and not right.draining

    play(story())


def test_a_post_that_is_sent_again_is_done_once(server: StateServer, folder: Path) -> None:
    async def story() -> None:
        async with two(server, folder, jwt_secret=SECRET) as (left, right):
            name = await call(left, Authorization=bearer("call"))
            path, key = f"/calls/{name}/text", {"Idempotency_Key": "order-1"}

            async def post(here: Site, text: str = "hello", who: str = "program", **more: str) -> Answer:
                return await here.v1("POST", path, {"text": text}, Authorization=bearer(name=who), **more)

            before = len(left.worker.heard)
            both = await asyncio.gather(*(post(here, **key) for here in (left, right, left, right)))
            assert {answer.status for answer in both} <= {204, 409}
            again = await post(right, **key)
            assert again.status == 204 and again.headers["Idempotency-Replayed"] == "true"
            assert len(left.worker.heard) == before + 1
            told(await post(left, "another text", **key), 422, "key-reused")
            assert (await post(left, who="somebody else", **key)).status == 204
            assert len(left.worker.heard) == before + 2
            told(await post(left, Idempotency_Key="no blanks"), 400, "bad-key")
            left.worker.silent = True  # what was not done may be sent again
            told(await post(left, Idempotency_Key="order-2"), 504, "no-answer")
            left.worker.silent = False
            assert (await post(left, Idempotency_Key="order-2")).status == 204
            server.kill()
            told(await post(left, Idempotency_Key="order-3"), 503, "not-ready")
            assert (await post(left)).status == 204  # without a key nobody asks
            server.start()

    play(story())


def test_a_page_of_elsewhere_may_not_ask_where_no_token_is_needed(server: StateServer, folder: Path) -> None:
    async def story() -> None:
        async with site(server.url, folder, "left") as here:
            told(await here.v1("POST", "/drain", Origin="https://evil.example"), 403, "forbidden")
            told(await here.v1("GET", "/drain", Host="rebound.example"), 403, "forbidden")
            assert not here.draining
            assert (await here.v1("GET", "/drain", Origin=here.url)).json == {
                "node": "left", "draining": False, "calls": 0,
            }  # fmt: skip

    play(story())


def test_what_cannot_be_done_says_so(server: StateServer, folder: Path) -> None:
    async def story() -> None:
        async with site(server.url, folder, "left") as here:
            await here.until(lambda: here.sessions.store.gauges()["state_connected"] == 1)
            name = await call(here)
            told(await here.v1("POST", f"/calls/{name}/recording", {"action": "pause"}), 403, "not-recorded")
            assert (await here.v1("GET", f"/calls/{name}/recording")).json == {
                "id": name, "allowed": False, "state": "off",
            }  # fmt: skip
            told(await here.v1("POST", f"/calls/{name}/transfer", {"target": "anna"}), 409, "no-telephone")
            wanted = {"to": "1", "trunk": "none"}
            told(await here.v1("POST", f"/calls/{name}/join", wanted), 409, "no-telephone")
            told(await here.v1("DELETE", f"/calls/{name}/join"), 409, "no-telephone")
            told(await here.v1("POST", "/calls", {"to": "1", "trunk": "none"}), 404, "no-such-trunk")

    play(story())


def test_one_address_may_not_ask_without_end(server: StateServer, folder: Path) -> None:
    async def story() -> None:
        async with site(server.url, folder, "left", api_requests_per_s=1) as here:
            answers = [await here.v1("GET", "/drain") for _ in range(5)]
            assert [answer.status for answer in answers] == [200] * 4 + [429]
            assert answers[4].headers["Retry-After"] == "1"

    play(story())
