"""Calls of ours are asked of a worker with the engine that was wished; one that cannot answer refuses them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway import control
from gateway.cluster.settings import Trunk
from gateway.sip.edge_settings import EdgeSettings
from gateway.sip.outbound import OutboundCall, Refused
from gateway.sip.switchboard import Switchboard
from gateway.telephones import Telephones

TRUNKS = {"pbx": Trunk(server="192.0.2.9", dial=("+",), user="49301")}
ENGINES = {"lab": "interpret", "away": ""}


class Bench:
    """Telephones with one worker, which does what it is asked and has the usual engine and `lab`."""

    def __init__(self) -> None:
        self.telephones = Telephones(EdgeSettings(port=0), 0, TRUNKS)
        self.telephones.switchboard.engines = ENGINES
        self.asked: list[control.Dial] = []

    @property
    def switchboard(self) -> Switchboard:
        return self.telephones.switchboard

    def welcome(self) -> None:
        ready = control.Ready("sip-0", 1, 5070, 4, 8_000, "none", True, [], engines=["lab"])
        self.telephones.welcome(ready, self._take)

    def _take(self, packet: bytes) -> None:
        message = control.decode_main(packet)
        assert isinstance(message, control.Dial)
        self.asked.append(message)
        answered = control.Answered(message.id, 200, call=f"out-{message.id}@x")
        asyncio.get_running_loop().call_soon(self.telephones.hear, "sip-0", answered)


def on_a_bench(story: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        bench = Bench()
        await bench.telephones.edge.start()
        try:
            bench.welcome()
            await story(bench)
        finally:
            await bench.telephones.edge.stop()

    asyncio.run(asyncio.wait_for(run(), 10))


def test_the_worker_is_told_engine_and_its_persona() -> None:
    async def story(bench: Bench) -> None:
        for wish in (
            OutboundCall("+4930123", "pbx"),
            OutboundCall("+4930123", "pbx", engine="lab"),
            OutboundCall("+4930123", "pbx", engine="lab", persona="count"),
        ):
            await bench.switchboard.originate(wish)
        told = [(dial.engine, dial.persona) for dial in bench.asked]
        assert told == [("", ""), ("lab", "interpret"), ("lab", "count")]

    on_a_bench(story)


def test_an_engine_that_is_away_or_that_there_is_not_refuses_its_own_calls_alone() -> None:
    async def refusal(bench: Bench, engine: str) -> Refused:
        with pytest.raises(Refused) as refused:
            await bench.switchboard.originate(OutboundCall("+4930123", "pbx", engine=engine))
        return refused.value

    async def story(bench: Bench) -> None:
        away = await refusal(bench, "away")
        assert (away.status, away.code) == (503, "not-ready")
        assert "engine away has no model server now" in away.text
        unknown = await refusal(bench, "nowhere")
        assert unknown.status == 400 and "not among the engines (lab, away)" in unknown.text
        bench.telephones.hear("sip-0", control.Attachable(False))
        assert (await refusal(bench, "")).status == 503
        await bench.switchboard.originate(OutboundCall("+4930123", "pbx", engine="lab"))
        bench.telephones.drain()
        assert (await refusal(bench, "lab")).status == 503
        assert len(bench.asked) == 1

    on_a_bench(story)
