"""A browser asks any of the gateways that share a Redis: its call is found, wherever it lives."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from gateway import control
from gateway.api.client import prove
from gateway.api.tokens import mint
from gateway.state.records import Cdr, Leg, Line, Session, decode
from tests.gateway.state.server import StateServer, play
from tests.support.two_sites import OFFER, Answer, Site, see_each_other, site
from tests.support.web_worker import fragment

pytestmark = pytest.mark.redis

FRAGMENT = "application/trickle-ice-sdpfrag"


@contextlib.asynccontextmanager
async def two(server: StateServer, folder: Path, **settings: object) -> AsyncIterator[tuple[Site, Site]]:
    async with (
        site(server.url, folder, "left", **settings) as left,
        site(server.url, folder, "right", **settings) as right,
    ):
        await see_each_other(left, right)
        yield left, right


async def until_leased(here: Site, call: str) -> None:
    await here.until(lambda: here.sessions.store.owns(call))


async def again(here: Site, token: str, status: int = 201, patience_s: float = 8.0) -> Answer:
    """Resume as the page does, until it is answered so."""
    async with asyncio.timeout(patience_s):
        while (answer := await here.post(Microturn_Resume=token)).status != status:
            assert answer.status == 503 and "Retry-After" in answer.headers, answer.text
            await asyncio.sleep(0.1)
    return answer


def test_a_call_is_resumed_patched_and_hung_up_through_another_gateway(
    server: StateServer,
    folder: Path,
) -> None:
    async def story() -> None:
        async with two(server, folder) as (left, right):
            made = await left.post()
            assert made.status == 201
            await until_leased(left, made.call)
            resumed = await right.post(Microturn_Resume=made.token)
            assert resumed.status == 201 and resumed.call == made.call and not right.worker.heard
            assert left.sessions.store.counters.leases_lost == 0
            path = resumed.headers["Location"]
            trickled = await right.ask("PATCH", path, fragment(), FRAGMENT, If_Match=resumed.headers["ETag"])
            assert trickled.status == 204
            restarted = await right.ask("PATCH", path, fragment("newu", "p" * 24), FRAGMENT, If_Match="*")
            assert restarted.status == 200 and "ice-ufrag" in restarted.text
            stale = await right.ask("PATCH", path, fragment(), FRAGMENT, If_Match='"old"')
            assert stale.status == 412 and "precondition-failed" in stale.text  # refusals come back, too
            assert (await right.ask("DELETE", path)).status == 200
            assert not left.worker.calls
            await left.until(lambda: not left.sessions.store.owns(made.call))
            assert (await right.ask("DELETE", path)).status == 404
            assert (await right.post(Microturn_Resume=made.token)).status == 404

    play(story())


def test_a_token_that_is_forged_is_refused_where_the_call_lives(
    server: StateServer,
    folder: Path,
) -> None:
    async def story() -> None:
        async with two(server, folder) as (left, right):
            made = await left.post()
            await until_leased(left, made.call)
            forged = made.token.rpartition(".")[0] + "." + "0" * 32
            assert (await right.post(Microturn_Resume=forged)).status == 404
            assert not right.worker.calls and made.call in left.worker.calls

    play(story())


def test_a_new_call_finds_room_at_another_gateway(server: StateServer, folder: Path) -> None:
    async def story() -> None:
        async with two(server, folder) as (left, right):
            made = [await left.post() for _ in range(5)]
            assert [answer.status for answer in made] == [201] * 5
            assert len(left.worker.calls) == 3 and len(right.worker.calls) == 2
            at_once = await left.ask("DELETE", made[4].headers["Location"])  # its lease is hardly written
            assert at_once.status == 200 and len(right.worker.calls) == 1
            left.pool.draining = True  # type: ignore[union-attr]
            left.member.drain()
            assert (await left.post()).status == 201 and len(right.worker.calls) == 2
            resumed = await left.post(Microturn_Resume=made[0].token)  # who drains keeps its calls
            assert resumed.status == 201 and resumed.call == made[0].call
            assert (await right.post()).status == 201
            await asyncio.sleep(0.3)
            assert (await right.post()).status == 503  # nobody has room, and it goes to and fro no more

    play(story())


def test_a_new_call_finds_its_engine_at_another_gateway(server: StateServer, folder: Path) -> None:
    async def story() -> None:
        settings: dict[str, object] = {
            "engines": {"lab": {"socket": "/nowhere/model.sock"}},
            "rules": [{"called": "lab", "engine": "lab"}],
        }
        async with two(server, folder, **settings) as (left, right):
            nobody = await left.ask("POST", "/whip?to=lab", OFFER, "application/sdp")
            assert nobody.status == 503 and "engine lab" in nobody.text
            assert right.pool is not None
            right.pool.hear("web-0", control.Attachable(True, "lab"))
            await left.until(lambda: left.member.roomiest("lab") is not None)
            assert right.member.roomiest("lab") is None, "left has none"
            made = await left.ask("POST", "/whip?to=lab", OFFER, "application/sdp")
            assert made.status == 201
            await until_leased(right, made.call)
            assert right.sessions.engine_of(made.call) == "lab"
            usual = await left.post()
            await until_leased(left, usual.call)

    play(story())


def test_an_offer_that_is_passed_on_counts_as_its_clients(server: StateServer, folder: Path) -> None:
    """Both gateways let four through at once from an address."""

    async def story() -> None:
        async with two(server, folder, webrtc_offers_per_s=1) as (left, right):
            left.pool.draining = True  # type: ignore[union-attr]
            left.member.drain()
            for client in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
                answers = [await left.post(client) for _ in range(3)]
                assert {answer.status for answer in answers} <= {201, 503}, client  # nine from the left one
            told = [(await right.post("127.0.0.2")).status for _ in range(3)]
            assert 429 in told, told  # it has had three of its four here already
            assert (await right.post("127.0.0.5")).status in (201, 503)
            async with aiohttp.ClientSession(right.url) as http, http.get("/nodes") as shown:
                assert right.member.key not in await shown.text()
            assert right.member.registry.nodes["left"].key == left.member.key

    play(story())


@pytest.mark.parametrize("of_whom", ["nobody", "sender"])
def test_an_address_that_nobody_proves_is_not_believed(
    server: StateServer, folder: Path, of_whom: str
) -> None:
    async def story() -> None:
        async with two(server, folder, webrtc_offers_per_s=1) as (left, right):
            key = {"nobody": "0" * 64, "sender": left.member.key}[of_whom]  # each gateway has its own
            answers = []
            for n in range(8):
                said = prove(key, "POST", "/whip", f"198.51.100.{n}", time.time())
                answers.append(await right.post("127.0.0.6", Microturn_Hop="left", Microturn_Client=said))
            assert [answer.status for answer in answers].count(429) >= 3
            assert "127.0.0.6" in answers[-1].text and "198.51.100" not in answers[-1].text
            async with aiohttp.ClientSession(right.url) as http, http.get("/metrics") as shown:
                assert "microturn_http_clients_unproven_total 8.0" in await shown.text()

    play(story())


def test_a_call_of_a_dead_gateway_goes_on_at_another_with_what_was_said(
    server: StateServer,
    folder: Path,
) -> None:
    async def story() -> None:
        async with site(server.url, folder, "right") as right:
            async with site(server.url, folder, "left") as left:
                await see_each_other(left, right)
                made = await left.post()
                await until_leased(left, made.call)
                for turn, speaker, text in (
                    (3, "caller", "three plus four"),
                    (5, "model", "let me "),
                    (6, "model", "check"),
                ):
                    left.sessions.said(made.call, Line(turn, speaker, text))  # type: ignore[arg-type]
                await left.until(lambda: not left.sessions.store.gauges()["state_buffered"])
            first = await right.post(Microturn_Resume=made.token)
            assert first.status == 503  # its lease runs still: the dead one might be alive
            resumed = await again(right, made.token)
            assert resumed.call == made.call and resumed.token != made.token
            (offer,) = [m for m in right.worker.heard if isinstance(m, control.Offer)]
            assert offer.context == "earlier caller: three plus four; model: let me check"
            assert offer.turn >= 7 and not offer.resume and offer.persona == "echo"
            await right.until(lambda: right.sessions.store.owns(made.call))
            assert (await right.post(Microturn_Resume=made.token)).status == 404  # that token is spent
            assert (await right.post(Microturn_Resume=resumed.token)).status == 201
            assert (await right.ask("DELETE", resumed.headers["Location"])).status == 200
            await right.until(lambda: not right.sessions.store.gauges()["state_buffered"])
            await asyncio.sleep(0.2)
            kept = await right.sessions.store.read(made.call)
            assert kept is not None and len(kept.lines) == 3
            session = decode(Session, kept.session or b"")
            assert session.node == "right" and session.ended_ms > session.began_ms
            legs = sorted((decode(Leg, leg) for leg in kept.legs.values()), key=lambda leg: leg.number)
            assert [leg.number for leg in legs] == [0, 1, 2]
            (cdr,) = [decode(Cdr, row) for row in kept.cdrs.values()]
            assert cdr.node == "right" and cdr.legs == 3 and cdr.began_ms == session.began_ms

    play(story())


def test_of_two_gateways_that_a_browser_asks_one_has_its_call(
    server: StateServer,
    folder: Path,
) -> None:
    async def story() -> None:
        async with two(server, folder) as (right, other):
            async with site(server.url, folder, "dead") as dead:
                made = await dead.post()
                await until_leased(dead, made.call)
            await asyncio.sleep(1.7)  # the lease has run out
            answers = await asyncio.gather(
                *(one.post(Microturn_Resume=made.token) for one in (right, other, right, other))
            )
            assert [answer.status for answer in answers].count(201) >= 1
            owners = [one for one in (right, other) if one.sessions.store.owns(made.call)]
            assert len(owners) == 1
            assert [made.call in one.worker.calls for one in (right, other)].count(True) == 1

    play(story())


def test_a_tenants_calls_are_counted_at_all_gateways(server: StateServer, folder: Path) -> None:
    secret = "0123456789abcdef" * 2
    bearer = f"Bearer {mint(secret, 'anna', 60, tenant='acme')}"
    settings = {"jwt_secret": secret, "tenants": {"acme": {"calls": 2, "keep_s": 77}}}

    async def story() -> None:
        async with two(server, folder, **settings) as (left, right):
            first = await left.post(Authorization=bearer)
            second = await right.post(Authorization=bearer)
            assert (first.status, second.status) == (201, 201)
            refused = await left.post(Authorization=bearer)
            assert refused.status == 503 and '"full"' in refused.text
            others = f"Bearer {mint(secret, 'bert', 60)}"
            assert (await left.post(Authorization=others)).status == 201
            await until_leased(right, second.call)
            gone = await left.ask("DELETE", second.headers["Location"], Authorization=bearer)
            assert gone.status == 200
            async with asyncio.timeout(5):
                while (third := await left.post(Authorization=bearer)).status != 201:
                    await asyncio.sleep(0.05)
            await left.until(lambda: left.sessions.store.owns(third.call))
            await right.until(lambda: not right.sessions.store.gauges()["state_buffered"])
            kept = await left.sessions.store.read(third.call)
            session = decode(Session, kept.session or b"") if kept else None
            assert session is not None and session.tenant == "acme" and len(session.caller) == 32
            with server.look() as look:
                assert 0 < look.ttl(f"microturn:{{{second.call}}}:session") <= 77

    play(story())
