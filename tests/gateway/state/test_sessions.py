"""What the main process writes down of calls, from what its doors hear: real pool, real edge, real server."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import math
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from gateway import control
from gateway.config import GatewaySettings
from gateway.rules import Ruling
from gateway.sip.edge_settings import EdgeSettings
from gateway.sip.outbound import OutboundCall
from gateway.state.client import Kept
from gateway.state.doors import BrowserDoor, TelephoneDoor
from gateway.state.keys import name_of_telephone_call
from gateway.state.prices import Prices
from gateway.state.records import Cdr, Figures, Leg, Line, Session, Task, decode
from gateway.state.sessions import Sessions
from gateway.telephones import Telephones
from gateway.webrtc.pool import WebrtcPool, plan_webrtc
from tests.gateway.state.server import Node, StateServer, node, play, until
from tests.support.web_worker import OFFER

pytestmark = pytest.mark.redis

ANSWER = "v=0\r\na=ice-ufrag:ours\r\n"
INVITE = "INVITE sip:100@gateway.example SIP/2.0"
CALL_ID = "3848276298220188511@caller.example"
OLD_REALTIME = "r-00000000000000aa"


class Bench:
    """A gateway's doors without their processes."""

    def __init__(self, here: Node, name: str = "n1") -> None:
        self.here, self.tasks = here, set[asyncio.Task[None]]()
        wall, steady = itertools.count(1_000, 500), itertools.count(0, 500)
        self.sessions = Sessions(
            here.store, name, self._spawn, lambda: next(wall), steady_ms=lambda: next(steady)
        )
        settings = GatewaySettings(webrtc_calls=4, webrtc_workers=1)
        self.pool = WebrtcPool(plan_webrtc(settings))
        self.web = BrowserDoor(self.pool, self.sessions, "echo")
        self.telephones = Telephones(EdgeSettings(port=0), 0)
        self.sip = TelephoneDoor(
            self.telephones, self.sessions, "echo",
            ruling_of=lambda call_id: Ruling("r", "correct 482913", called="100") if call_id == CALL_ID else None,
            price_of=lambda wish: 0.6 if wish.to.startswith("+49") else 0.0,
        )  # fmt: skip
        self.sent: list[control.MainMessage] = []

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def welcome_web(self, *calls: str) -> None:
        ready = control.WebrtcReady("web-0", 1, 4, True, list(calls), 1, 1, dict.fromkeys(calls, "u"))
        self.web.welcome(ready, lambda packet: self.sent.append(control.decode_main(packet)))

    def welcome_sip(self, *calls: str) -> None:
        ready = control.Ready("sip-0", 1, 5070, 4, 8_000, "2.15", True, list(calls))
        self.sip.welcome(ready, lambda packet: None)

    async def browse(
        self, resume: str = "", persona: str = "", status: int = 201, call: str = "", engine: str = ""
    ) -> str:
        """An offer, and what its worker answers; gives the call's name."""
        asking = asyncio.ensure_future(self.pool.offer(OFFER, resume, persona, engine=engine))
        await until(lambda: bool(self.sent))
        request = self.sent.pop()
        assert isinstance(request, control.Offer)
        name = call or request.call
        self.web.hear("web-0", control.Answered(request.id, status, ANSWER, call=name, resume="r"))
        assert (await asking)[1].status == status
        return name

    async def kept(self, call: str) -> Kept:
        await self.here.delivered()
        kept = await self.here.store.read(call)
        assert kept is not None
        return kept


@contextlib.asynccontextmanager
async def bench(server: StateServer, name: str = "n1") -> AsyncIterator[Bench]:
    async with node(server.url, name) as here:
        made = Bench(here, name)
        await made.telephones.edge.start()
        try:
            yield made
        finally:
            await made.telephones.edge.stop()
            for task in list(made.tasks):
                task.cancel()


def session(kept: Kept) -> Session:
    assert kept.session is not None
    return decode(Session, kept.session)


def cdrs(kept: Kept) -> list[Cdr]:
    return [decode(Cdr, found) for found in kept.cdrs.values()]


def legs(kept: Kept) -> list[Leg]:
    return sorted((decode(Leg, found) for found in kept.legs.values()), key=lambda leg: leg.number)


def test_a_browser_call_from_offer_to_hang_up(server: StateServer) -> None:
    async def story() -> None:
        async with bench(server) as here:
            here.welcome_web()
            call = await here.browse(persona="interpret")
            kept = await here.kept(call)
            assert session(kept) == Session(call, "webrtc", "n1", "web-0", 1_000, "interpret")
            assert cdrs(kept) == [Cdr(call, "webrtc", "n1", 1_000, "interpret")]
            await here.browse(resume=f"web-0.{call}.{'s' * 20}", call=call)
            here.sessions.said(call, Line(3, "caller", "hello"))
            here.web.hear("web-0", control.CallEnded(call))
            kept = await here.kept(call)
            assert [(leg.number, leg.began_ms, leg.ended_ms) for leg in legs(kept)] == [
                (0, 1_000, 1_500),
                (1, 1_500, 2_000),
            ]
            assert cdrs(kept) == [Cdr(call, "webrtc", "n1", 1_000, "interpret", legs=2, ended_ms=2_000)]
            assert session(kept).ended_ms == 2_000 and kept.lease is None and len(kept.lines) == 1
            assert here.pool.live == 0 and here.pool.counters.calls_resumed == 1

    play(story())


def test_a_call_of_a_further_engine_says_so_and_has_not_the_usual_persona(server: StateServer) -> None:
    async def story() -> None:
        async with bench(server) as here:
            here.welcome_web()
            here.web.hear("web-0", control.Attachable(True, "lab"))
            call = await here.browse(engine="lab")
            assert here.sessions.engine_of(call) == "lab" and here.sessions.engine_of("b-0") == ""
            kept = await here.kept(call)
            assert session(kept) == Session(call, "webrtc", "n1", "web-0", 1_000, engine="lab")
            assert cdrs(kept) == [Cdr(call, "webrtc", "n1", 1_000, engine="lab")]
            await here.browse(resume=f"web-0.{call}.{'s' * 20}", call=call)
            assert here.sessions.engine_of(call) == "lab", "whoever resumes it gets no other"
            told = OutboundCall("+4930123", "carrier", engine="lab")
            here.sip.placed("out@x", "sip-0", told)
            assert here.sessions.engine_of(name_of_telephone_call("out@x")) == "lab"
            here.sip.placed(
                "guest@x", "sip-0", dataclasses.replace(told, joins=name_of_telephone_call("out@x"))
            )
            assert here.sessions.engine_of(name_of_telephone_call("guest@x")) == "", "it has no model"

    play(story())


def test_an_offer_that_was_refused_is_no_call(server: StateServer) -> None:
    async def story() -> None:
        async with bench(server) as here:
            here.welcome_web()
            call = await here.browse(status=503)
            assert (await here.kept(call)).session is None and here.here.counters.writes == 0

    play(story())


def test_a_telephone_call_by_the_number_that_was_called(server: StateServer) -> None:
    name = name_of_telephone_call(CALL_ID)

    async def story() -> None:
        async with bench(server) as here:
            here.welcome_sip()
            here.sip.answered(CALL_ID, "sip-0", INVITE)
            kept = await here.kept(name)
            assert session(kept) == Session(name, "sip", "n1", "sip-0", 1_000, "correct 482913", "100")
            here.sip.answered(
                "other@x", "sip-0", "INVITE sip:+15551234@gw SIP/2.0"
            )  # a number of nobody's is not written down
            other = await here.kept(name_of_telephone_call("other@x"))
            assert session(other).persona == "echo" and session(other).called == ""
            here.sip.hear("sip-0", control.CallEnded(CALL_ID))
            here.sip.hear("sip-0", control.CallEnded("never heard of"))
            (cdr,) = cdrs(await here.kept(name))
            assert (cdr.ended_ms, cdr.reason) == (2_000, "over")
            assert here.sip.lose("sip-0") == 0  # the edge knew nothing of them here
            (cdr,) = cdrs(await here.kept(name_of_telephone_call("other@x")))
            assert cdr.reason == "worker-lost"
            with server.look() as look:
                everything = b"".join(look.dump(key) or b"" for key in look.scan_iter("*"))
                assert b"caller.example" not in everything and b"5551234" not in everything

    play(story())


def test_a_main_process_that_comes_back_goes_on_with_what_was_known(server: StateServer) -> None:
    name = name_of_telephone_call(CALL_ID)

    async def story() -> None:
        async with bench(server) as before:
            before.welcome_sip()
            before.welcome_web()
            before.sip.answered(CALL_ID, "sip-0", INVITE)
            call = await before.browse(persona="interpret")
            await before.browse(resume=f"web-0.{call}.{'s' * 20}", call=call)
            lease = (await before.kept(name)).lease
        async with bench(server) as after:  # the lease is still the former one's
            after.welcome_sip(CALL_ID)
            after.welcome_web(call)
            await until(lambda: not after.tasks, "all is recalled")
            kept = await after.kept(name)
            assert session(kept).persona == "correct 482913" and session(kept).began_ms == 1_000
            assert kept.lease is not None and kept.lease != lease
            after.sip.hear("sip-0", control.CallEnded(CALL_ID))
            await after.browse(resume=f"web-0.{call}.{'s' * 20}", call=call)
            after.web.hear("web-0", control.CallEnded(call))
            (cdr,) = cdrs(await after.kept(name))
            assert (cdr.began_ms, cdr.persona, cdr.adopted) == (1_000, "correct 482913", False)
            (web,) = cdrs(await after.kept(call))
            assert web.legs == 3 and [leg.number for leg in legs(await after.kept(call))] == [0, 1, 2]

    play(story())


def test_a_call_that_is_over_before_it_is_known_is_charged_once(server: StateServer) -> None:
    async def story() -> None:
        async with bench(server) as before:
            before.welcome_web()
            call = await before.browse(persona="interpret")
            await before.here.delivered()
            async with bench(server) as after:  # the same gateway, come back
                after.welcome_web(call)
                after.web.hear("web-0", control.CallEnded(call))
                await until(lambda: call not in after.sessions)
                kept = await after.kept(call)
                (cdr,) = cdrs(kept)
                assert cdr.began_ms == 1_000 and cdr.ended_ms == 1_500 and not cdr.adopted
                assert session(kept).persona == "interpret" and kept.lease is None

    play(story())


def test_a_call_that_redis_knows_nothing_of_is_adopted_all_the_same(server: StateServer) -> None:
    async def story() -> None:
        async with bench(server) as here:
            here.welcome_sip(CALL_ID)
            await until(lambda: not here.tasks)
            here.sessions.end_all()
            (cdr,) = cdrs(await here.kept(name_of_telephone_call(CALL_ID)))
            assert cdr.adopted and cdr.reason == "stopped"

    play(story())


def test_calls_go_on_while_redis_is_away_and_all_is_there_when_it_is_back(server: StateServer) -> None:
    async def story() -> None:
        async with bench(server) as here:
            here.welcome_web()
            here.welcome_sip()
            first = await here.browse()
            await here.here.delivered()
            server.kill()
            here.sip.answered(CALL_ID, "sip-0", INVITE)
            second = await here.browse()
            here.web.hear("web-0", control.CallEnded(first))
            await until(lambda: here.here.counters.disconnects == 1)
            here.sip.hear("sip-0", control.CallEnded(CALL_ID))
            server.start()
            for call, over in [(first, True), (second, False), (name_of_telephone_call(CALL_ID), True)]:
                kept = await here.kept(call)
                assert (session(kept).ended_ms > 0) is over and (kept.lease is None) is over
                assert [cdr.ended_ms > 0 for cdr in cdrs(kept)] == [over]
            assert here.here.counters.dropped == 0

    play(story())


def test_a_record_has_what_was_measured_and_what_the_tasks_have_cost(server: StateServer) -> None:
    async def story() -> None:
        async with bench(server) as here:
            here.welcome_web()
            here.sessions.prices = Prices(per_minute=6.0, per_engine_s=1.0)
            lost, ended = await here.browse(), await here.browse()
            for call in (lost, ended):
                here.web.hear("web-0", control.Measured(call, Figures("OPUS", turns=50, engine_ms=250)))
            task = Task("k", "asked", 3, 9_999, "caller: 3 plus 4")
            here.sessions.note_task(ended, task)
            here.sessions.note_task("b-00000000000000ff", task)  # of no call of ours
            with server.look() as look:
                look.hset(f"microturn:{{tasks}}:spent:{ended}", mapping={"tokens": 1234, "money": 500_000})
                look.expire(f"microturn:{{tasks}}:spent:{ended}", 60)
            await here.here.delivered()
            here.web.hear(
                "web-0", control.CallEnded(ended, "model", Figures("OPUS", turns=60, engine_ms=300))
            )
            await until(lambda: ended not in here.sessions)
            here.web.lose("web-0")
            (cdr,) = [decode(Cdr, record) for record in (await here.kept(ended)).cdrs.values()]
            assert (cdr.cause, cdr.figures.turns, cdr.tokens) == ("model", 60, 1234)
            minutes = (cdr.ended_ms - cdr.began_ms) / 60_000
            assert cdr.cost == pytest.approx(6.0 * minutes + 0.3 + 0.5, abs=1e-5)
            (cdr,) = [decode(Cdr, record) for record in (await here.kept(lost)).cdrs.values()]
            assert (cdr.reason, cdr.cause, cdr.figures.turns, cdr.tokens) == ("worker-lost", "", 50, 0)

    play(story())


def test_a_realtime_call_is_written_down_by_its_own_door(server: StateServer) -> None:
    """It was handed to a worker; another one is known again after a restart; both are lost with that worker."""

    async def story() -> None:
        async with bench(server) as here:
            here.welcome_web(OLD_REALTIME)
            here.pool.hand = lambda worker, packet, descriptor: here.sent.append(control.decode_main(packet))
            call = "r-00000000000000bb"
            asking = asyncio.ensure_future(here.pool.attend(control.Attend(0, call, "", "interpret"), 0))
            await until(lambda: bool(here.sent))
            request = here.sent.pop()
            assert isinstance(request, control.Attend)
            here.web.hear("web-0", control.Answered(request.id, 201, call=call))
            assert (await asking).status == 201 and here.pool.has(call)
            await here.here.delivered()
            kept = await here.kept(call)
            assert [cdr.door for cdr in cdrs(kept)] == ["realtime"]
            here.web.lose("web-0")
            for name in (call, OLD_REALTIME):
                (cdr,) = cdrs(await here.kept(name))
                assert (cdr.door, cdr.reason) == ("realtime", "worker-lost"), name

    play(story())


def test_a_call_of_ours_costs_what_its_trunk_takes_for_each_second(server: StateServer) -> None:
    async def story() -> None:
        async with bench(server) as here:
            here.welcome_sip()
            here.sip.placed(CALL_ID, "sip-0", OutboundCall("+4916", "carrier"))
            here.sip.placed("other", "sip-0", OutboundCall("+1", "carrier"))
            for call_id in (CALL_ID, "other"):
                here.sip.hear("sip-0", control.CallEnded(call_id, "caller"))
            for call_id, price in ((CALL_ID, 0.6), ("other", 0.0)):
                kept = await here.kept(name_of_telephone_call(call_id))
                (cdr,) = [decode(Cdr, record) for record in kept.cdrs.values()]
                seconds = math.ceil((cdr.ended_ms - cdr.began_ms) / 1_000)
                assert seconds and cdr.placed and cdr.price_minute == price
                assert cdr.cost == cdr.trunk_cost == pytest.approx(price * seconds / 60)

    play(story())


def test_what_a_caller_was_told_and_its_recordings_are_in_the_cdr_whenever_they_come(
    server: StateServer,
) -> None:
    async def story() -> None:
        async with bench(server) as gateway:
            gateway.welcome_sip()
            name = name_of_telephone_call(CALL_ID)
            gateway.sessions.announced(name, True, False)  # in early media: nobody has answered yet
            gateway.sip.answered(CALL_ID, "sip-0", INVITE)
            for file in ("f-1", "f-2", "f-2"):
                gateway.sessions.recorded(name, file)
            gateway.sessions.announced("t-unknown", True, True)
            gateway.sip.hear("sip-0", control.CallEnded(CALL_ID))
            (row,) = (await gateway.kept(name)).cdrs.values()
            cdr = decode(Cdr, row)
            assert (cdr.disclosed, cdr.consented, cdr.recordings) == (True, False, ("f-1", "f-2"))
            assert cdr.ended_ms

    play(story())


def test_a_call_is_as_long_as_it_was_whatever_the_wall_clock_does(server: StateServer) -> None:
    async def story() -> None:
        async with bench(server) as gateway:
            walls = iter([10_000_000, 20_000_000])  # somebody sets the clock between begin and end
            steady = iter([500, 7_500])
            gateway.sessions._now_ms, gateway.sessions._steady_ms = (
                (lambda: next(walls)),
                (lambda: next(steady)),
            )
            gateway.welcome_sip()
            gateway.sip.answered(CALL_ID, "sip-0", INVITE)
            gateway.sip.hear("sip-0", control.CallEnded(CALL_ID))
            (row,) = (await gateway.kept(name_of_telephone_call(CALL_ID))).cdrs.values()
            cdr = decode(Cdr, row)
            assert (cdr.began_ms, cdr.ended_ms) == (10_000_000, 10_007_000)

    play(story())
