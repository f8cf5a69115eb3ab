"""What calls of ours may cost: caps of tenants and trunks, by one process alone and by some that share a Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.cluster.settings import Tenant, Trunk
from gateway.cluster.spend import Book, OwnBook, Reached, RedisBook, Spend
from gateway.config import GatewaySettings
from gateway.sip.call_events import CallEvent
from gateway.sip.outbound import OutboundCall, Refused
from gateway.state.address import parse
from gateway.state.sessions import make_client
from tests.gateway.state.server import StateServer, play, until

TRUNKS = {
    "carrier": Trunk(
        server="x", dial=("+",), prices={"+49": 0.02, "+4916": 0.1, "+1": 0.0}, spend_day=1.0, call_minutes=10
    ),
    "open": Trunk(server="x", dial=("+",), tenant="acme"),
    "priced": Trunk(server="x", dial=("+",), tenant="acme", prices={"+": 0.1}),
}
TENANTS = {"acme": Tenant(dial=("+49",), spend_day=8.0), "free": Tenant()}


class Desk:
    """A `Spend` whose clocks stand, with its tasks."""

    def __init__(self, book: Book) -> None:
        self.wall_s, self.now_s = 1_795_392_000.0, 100.0  # 2026-11-23
        self.told: list[Reached] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.spend = Spend(TENANTS, TRUNKS, book, self.spawn, lambda: self.wall_s, lambda: self.now_s)
        self.spend.reached = self.told.append

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def settled(self) -> None:
        await until(lambda: not self.spend._unsettled)

    async def reserve(self, ticket: str, to: str = "+4930123", trunk: str = "carrier", **more: Any) -> str:
        """ "", or the code of the refusal."""
        try:
            wish = OutboundCall(to, trunk, **more)
            self.spend.check(wish)
            await self.spend.reserve(wish, ticket)
        except Refused as refused:
            return f"{refused.status} {refused.code}"
        return ""

    async def call(self, name: str, seconds: float, **more: Any) -> str:
        """One that lasts so long."""
        if refused := await self.reserve(name, **more):
            return refused
        self.spend.placed(name, f"call-{name}")
        self.now_s += 5.0  # it rings
        self.spend.happened(CallEvent(f"call-{name}", "answered"))
        self.now_s += seconds
        self.spend.happened(CallEvent(f"call-{name}", "ended"))
        await self.settled()
        return ""


def test_the_most_that_it_may_cost_is_reserved_and_what_it_cost_stays() -> None:
    async def story() -> None:
        desk = Desk(OwnBook())
        for n in range(5):  # 0.2 each
            assert not await desk.reserve(f"t{n}")
        assert await desk.reserve("t5") == "402 spend-cap"
        assert await desk.reserve("t5", minutes=0.001) == "402 spend-cap"
        assert not await desk.reserve("t5", "+1202")  # costs nothing
        assert desk.told == [Reached("trunk:carrier", "", "2026-11-23", 1.0)] * 2
        for n in range(5):
            desk.spend.give(f"t{n}")
        await desk.settled()
        assert not await desk.call("a", 60.0) and desk.spend.counters.charged_millionths == 20_000
        assert not await desk.call("b", 0.5) and desk.spend.counters.charged_millionths == 20_334
        assert not await desk.call("c", 3_600.0), "no more than was reserved"
        assert desk.spend.counters.charged_millionths == 220_334
        assert [await desk.reserve(f"u{n}") for n in range(4)] == ["", "", "", "402 spend-cap"]

    asyncio.run(story())


def test_calls_that_nobody_answers_cost_nothing() -> None:
    async def story() -> None:
        desk = Desk(OwnBook())
        assert not await desk.reserve("a", "+49160")  # all of it
        desk.spend.placed("a", "call-a")
        desk.now_s += 60.0
        desk.spend.happened(CallEvent("call-a", "failed", 486))
        desk.spend.happened(CallEvent("call-a", "ended"))
        await desk.settled()
        assert not await desk.reserve("b", "+49160")
        desk.spend.give("b")  # the worker had no room
        await desk.settled()
        assert not await desk.reserve("c", "+49160") and await desk.reserve("d", "+49160") == "402 spend-cap"
        assert desk.spend.counters.charged_millionths == 0 and desk.spend.counters.settled == 2

    asyncio.run(story())


def test_the_next_day_begins_anew_and_a_call_belongs_to_the_day_of_its_beginning() -> None:
    async def story() -> None:
        desk = Desk(OwnBook())
        assert not await desk.reserve("a", "+49160")
        desk.spend.placed("a", "call-a")
        assert await desk.reserve("b", "+49160") == "402 spend-cap"
        desk.wall_s += 86_400
        assert not await desk.reserve("b", "+49160") and await desk.reserve("c") == "402 spend-cap"
        desk.spend.happened(CallEvent("call-a", "ended"))
        await desk.settled()
        assert await desk.reserve("c") == "402 spend-cap", "the day before is no credit"

    asyncio.run(story())


def test_whom_a_tenant_may_call_and_what_has_a_price() -> None:
    async def story() -> None:
        desk = Desk(OwnBook())
        assert await desk.reserve("a", "+331", "priced") == "403 not-allowed"
        assert await desk.reserve("a", "+331", "carrier") == "403 no-price"
        assert await desk.reserve("a", "+4930", "open") == "403 no-price", "its tenant has a cap"
        assert not await desk.reserve("a", "+331", "priced", tenant="free"), "who has no cap"
        assert desk.spend.counters.reserved == 0
        assert not await desk.reserve("a", "+4930", "priced"), "an hour, where nobody says less"
        assert await desk.reserve("b", "+4930", "priced") == "402 spend-cap"
        assert not await desk.reserve("b", "+4930", "priced", minutes=20.0)
        wishes = [OutboundCall("+4930", trunk, minutes=minutes) for trunk, minutes in
                  (("carrier", 0.0), ("carrier", 3.0), ("carrier", 99.0), ("priced", 0.0))]  # fmt: skip
        assert [desk.spend.minutes(wish) for wish in wishes] == [10.0, 3.0, 10.0, 60.0]
        assert desk.spend.minutes(OutboundCall("+4930", "open", tenant="free")) == 0.0

    asyncio.run(story())


def book_of(server: StateServer, name: str = "n1") -> tuple[RedisBook, Any]:
    settings = GatewaySettings(redis=server.url, node=name)
    client = make_client(settings, parse(server.url))

    async def script(*asked: Any) -> Any:
        try:
            return await client.script(*asked)
        except Exception:  # as `Store.script` has it: Away, Rejected
            return None

    return RedisBook(script, settings.redis_namespace), client


def test_gateways_that_share_a_redis_spend_no_more_together(server: StateServer) -> None:
    async def story() -> None:
        (left, one), (right, two) = book_of(server), book_of(server, "n2")
        desks = [Desk(left), Desk(right)]
        asked = [desks[n % 2].reserve(f"t{n}", trunk="carrier", to="+4930") for n in range(20)]
        answers = await asyncio.gather(*asked)
        assert answers.count("") == 5 and answers.count("402 spend-cap") == 15
        got = [n for n in range(20) if answers[n] == ""]
        desks[got[0] % 2].spend.give(f"t{got[0]}")
        await desks[got[0] % 2].settled()
        assert [await desks[1].reserve("x"), await desks[0].reserve("y")] == ["", "402 spend-cap"]
        with server.look() as look:
            (key,) = look.scan_iter("microturn:{spend}:*")
            assert look.hget(key, "trunk:carrier") == b"1000000" and 0 < look.ttl(key) <= 86_400
            assert len([name for name in look.hkeys(key) if name.startswith(b"r:")]) == 5
        held = desks[1].spend._held["x"]
        for _ in range(3):  # a settlement whose answer was lost is sent again
            assert await right.settle(held.day, held.token, 150_000, held.limits)
        with server.look() as look:
            assert look.hget(key, "trunk:carrier") == b"950000"
        for client in (one, two):
            await client.close()

    play(story())


def test_while_redis_is_away_nothing_is_reserved_and_settlements_wait(
    server: StateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cluster.spend.AGAIN_S", 0.02)

    async def story() -> None:
        book, client = book_of(server)
        desk = Desk(book)
        assert not await desk.reserve("a", "+49160")
        desk.spend.placed("a", "call-a")
        server.kill()
        desk.now_s += 60.0
        desk.spend.happened(CallEvent("call-a", "ended"))
        assert await desk.reserve("b") == "503 not-ready"
        assert not await desk.reserve("c", "+331", "priced", tenant="free"), "what counts for nothing goes on"
        server.start()
        await desk.settled()
        assert (desk.spend.counters.charged_millionths, desk.spend.counters.refused_unknown) == (100_000, 1)
        with server.look() as look:
            (key,) = look.scan_iter("microturn:{spend}:*")
            assert look.hgetall(key) == {b"trunk:carrier": b"100000"}
        await client.close()

    play(story())


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"trunks": {"t": {"server": "x", "spend_day": 1}}}, "spend_day needs prices"),
        ({"trunks": {"t": {"server": "x", "prices": {"+49 1": 1}}}}, "prices has '+49 1'"),
        ({"trunks": {"t": {"server": "x", "prices": {"+49": -1}}}}, "greater than or equal to 0"),
        ({"tenants": {"t": {"dial": "/[/"}}}, "regular expression"),
    ],
)
def test_settings_that_cannot_be_meant(chosen: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told.replace("+", r"\+")):
        GatewaySettings(**chosen)
