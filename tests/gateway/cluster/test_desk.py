"""New telephone calls: the rule says which engine, and one without a model server takes none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gateway import control
from gateway.cluster.desk import Desk
from gateway.cluster.node import Node
from gateway.cluster.parties import Parties
from gateway.cluster.registry import Registry
from gateway.rules import Rule, Rules
from gateway.sip.admission import Refusal
from gateway.sip.edge_settings import EdgeSettings
from gateway.sip.header import find
from gateway.sip.marks import engine_of, persona_of
from gateway.sip.message import Request, parse
from gateway.telephones import Telephones
from tests.support.sip_router import request

RULES = (Rule(called="lab", engine="lab"), Rule(called="other", engine="other", persona="count"))
ENGINES = {"lab": "interpret", "other": ""}


async def _facts() -> Node:
    raise AssertionError("nobody announces anything here")


class Bench:
    """A desk behind telephones that have one worker."""

    def __init__(self, *engines: str) -> None:
        self.telephones = Telephones(EdgeSettings(port=0), 0)
        self.desk = Desk(
            Parties({}, {}, 60, "secret"), Registry(None, "", "n1", _facts), self.telephones.edge, None, None,
            self._spawn, 2, Rules(RULES, {}, True, {}, {}, ENGINES),
        )  # fmt: skip
        self.desk.has_engine = self.telephones.has_engine
        self.telephones.further = self.desk.admit
        self.telephones.attached["sip-0"] = set(engines)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        raise AssertionError("nobody is asked")

    def invite(self, called: str) -> Request:
        data = request(call_id=f"of-{called}").replace(b"sip:bot@198", b"sip:%b@198" % called.encode(), 1)
        message = parse(data)
        assert isinstance(message, Request)
        return message

    def admit(self, called: str) -> str:
        """ "" when it is taken, else status and why."""
        answer = self.telephones._admit(self.invite(called))
        assert answer is None or isinstance(answer, Refusal)
        if answer is None:
            return ""
        assert find(list(answer.headers), b"retry-after") is not None
        return f"{answer.status} {(find(list(answer.headers), b'warning') or b'').decode()}"

    def marked(self, called: str) -> tuple[str, str]:
        """Engine and persona, as the worker reads them."""
        headers = b"".join(header.raw + b"\r\n" for header in self.desk.marks(self.invite(called)))
        message = f"INVITE sip:x SIP/2.0\r\n{headers.decode()}\r\nX-Microturn-Engine: forged\r\n"
        return engine_of(message), persona_of(message)


def on_a_bench(story: Callable[[Bench], None], *engines: str) -> None:
    async def run() -> None:
        bench = Bench(*engines)
        await bench.telephones.edge.start()
        try:
            story(bench)
        finally:
            await bench.telephones.edge.stop()

    asyncio.run(run())


def test_a_call_goes_to_the_engine_of_its_rule() -> None:
    def story(bench: Bench) -> None:
        assert [bench.admit(called) for called in ("lab", "anybody")] == ["", ""]
        assert bench.marked("lab") == ("lab", "interpret") and bench.marked("anybody") == ("", "")

    on_a_bench(story, "", "lab")


def test_an_engine_without_a_model_server_refuses_its_own_calls_alone() -> None:
    def story(bench: Bench) -> None:
        assert bench.admit("other") == '503 399 microturn "engine other has no model server now"'
        assert bench.admit("lab") == "" and bench.admit("anybody") == ""
        bench.telephones.hear("sip-0", control.Attachable(False))
        assert bench.admit("anybody") == '503 399 microturn "the usual engine has no model server now"'
        assert bench.admit("lab") == "" and not bench.telephones.is_ready
        bench.telephones.hear("sip-0", control.Attachable(True, "other"))
        assert bench.admit("other") == ""
        bench.telephones.drain()
        assert bench.admit("lab").startswith("503")

    on_a_bench(story, "", "lab")
