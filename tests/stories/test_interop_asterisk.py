"""The interop matrix, rows with Asterisk as the exchange that we register at: calls in both directions, hold, keys,
transfers, a person who joins. Skipped where there is none (`tests/support/asterisk.py`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.sip.outbound import OutboundCall
from tests.stories.test_baresip_calls import Tls, needs_openssl, tls
from tests.support.asterisk import PASSWORD, Asterisk, needs_asterisk
from tests.support.own_gateway import OwnGateway
from tests.support.speaking import SpeakingCall, SpeakingTarget

pytestmark = [pytest.mark.processes, pytest.mark.sip, needs_asterisk]

__all__ = ["tls"]  # a fixture
CALLER_HZ, PERSON_HZ = 450.0, 1_150.0


class Office(NamedTuple):
    gateway: OwnGateway
    exchange: Asterisk
    person: SpeakingTarget

    @property
    def number(self) -> str:
        """Of the model, at the exchange."""
        return f"sip:500@127.0.0.1:{self.exchange.port}"


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    with SpeakingTarget() as person, Asterisk.start(person.port) as exchange:
        pbx = {
            "server": f"127.0.0.1:{exchange.port}", "user": "model", "password": PASSWORD, "register": True,
            "expires_s": 60, "dial": ["person", "busy"],
        }  # fmt: skip
        trunks = {"pbx": pbx, "stranger": pbx | {"password": "wrong", "register": False}}
        transfers = {name: f"sip:{name}@127.0.0.1:{exchange.port}" for name in ("person", "nobody")}
        with OwnGateway.start(calls=4, trunks=trunks, transfers=transfers) as gateway:
            edge = gateway.gateway.telephones.edge
            gateway.wait_for(lambda: edge.registered == (1, 1), 10.0, "registered")
            yield Office(gateway, exchange, person)


@pytest.fixture(autouse=True)
def nothing_is_left(office: Office) -> Iterator[None]:
    yield
    office.person.voice.say(0)
    office.gateway.wait_for(lambda: office.gateway.is_idle, 5.0, "idle")


def soon(holds: Callable[[], object], what: str, timeout_s: float = 6.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


def hear_each_other(caller: SpeakingCall, person: SpeakingTarget) -> None:
    """The exchange may negotiate anew when it has connected two, with which the person falls silent."""

    def do() -> bool:
        caller.voice.say(CALLER_HZ)
        person.voice.say(PERSON_HZ)
        return person.voice.hears(CALLER_HZ) and caller.voice.hears(PERSON_HZ)

    soon(do, "each other")


def test_it_calls_us_and_holds_and_presses_keys(office: Office) -> None:
    with office.gateway.watch() as watch, SpeakingCall(office.number) as caller:
        caller.voice.say(CALLER_HZ)
        soon(lambda: caller.voice.hears(CALLER_HZ), "the echo")
        caller.press("5")
        assert watch.look_until(lambda seen: "dtmf 5" in seen.heard, lambda: None, 3.0)
        assert caller.negotiate("sendonly") == 200
        assert watch.look_until(lambda seen: "hold" in seen.heard, lambda: None, 3.0)
        assert caller.negotiate("sendrecv") == 200
        assert watch.look_until(lambda seen: "resume" in seen.heard, lambda: None, 3.0)
        caller.voice.heard.clear()
        soon(lambda: caller.voice.hears(CALLER_HZ), "the echo again")


def test_we_call_somebody_who_is_behind_it(office: Office) -> None:
    here = office.gateway
    name = here.do(here.switchboard.originate(OutboundCall("person", "pbx")))
    here.wait_for(lambda: "answered" in here.kinds(name))
    office.person.voice.say(PERSON_HZ)
    soon(lambda: office.person.voice.hears(PERSON_HZ), "the echo")
    here.do(here.switchboard.hang_up(name))
    here.wait_for(lambda: here.kinds(name)[-1] == "ended")
    for to, trunk, why in (("busy", "pbx", "busy"), ("person", "stranger", "forbidden")):
        name = here.do(here.switchboard.originate(OutboundCall(to, trunk)))
        here.wait_for(lambda name=name: "failed" in here.kinds(name))  # type: ignore[misc]
        assert here.last(name, "failed").why == why


def test_a_caller_is_handed_to_a_person_and_comes_back_where_there_is_none(office: Office) -> None:
    here = office.gateway
    with here.watch() as watch, SpeakingCall(office.number) as caller:
        call = here.only_call()
        caller.voice.say(CALLER_HZ)
        soon(lambda: caller.voice.hears(CALLER_HZ), "the echo")
        here.transfer(call, "nobody")
        here.wait_for(lambda: "transfer-failed" in here.kinds(call))
        assert watch.look_until(lambda seen: "transfer failed 404" in seen.heard, lambda: None, 3.0)
        caller.voice.heard.clear()
        soon(lambda: caller.voice.hears(CALLER_HZ), "the model goes on")
        here.transfer(call, "person")
        here.wait_for(lambda: "transferred" in here.kinds(call))
        hear_each_other(caller, office.person)
        here.wait_for(lambda: here.is_idle, 5.0)


def test_a_caller_is_handed_to_whom_we_asked_first(office: Office) -> None:
    here = office.gateway
    with SpeakingCall(office.number) as caller:
        call = here.only_call()
        other = here.do(here.switchboard.originate(OutboundCall("person", "pbx")))
        here.wait_for(lambda: "answered" in here.kinds(other))
        here.retry(lambda: here.switchboard.transfer_to_call(call, other))
        here.wait_for(lambda: "transferred" in here.kinds(call))
        hear_each_other(caller, office.person)
        here.wait_for(lambda: here.is_idle, 5.0)


def test_a_person_behind_it_joins(office: Office) -> None:
    here = office.gateway
    with SpeakingCall(office.number) as caller:
        call = here.only_call()
        wish = OutboundCall("person", "pbx", model="listens")
        here.do(here.switchboard.join(call, wish))
        here.wait_for(lambda: "joined" in here.kinds(call))
        hear_each_other(caller, office.person)
        here.do(here.switchboard.leave(call))
        here.wait_for(lambda: "left" in here.kinds(call))
        soon(lambda: caller.voice.hears(CALLER_HZ), "the model again")


@pytest.mark.long
@needs_openssl
def test_by_tls_with_srtp_in_both_directions(tmp_path: Path, tls: Tls) -> None:
    with SpeakingTarget() as person, Asterisk.start(person.port, tmp_path) as exchange:
        pbx = {
            "server": f"127.0.0.1:{exchange.tls_port}", "transport": "tls", "user": "secure", "password": PASSWORD,
            "register": True, "expires_s": 60, "dial": "person", "srtp": "required",
        }  # fmt: skip
        settings = {"sip_tls_ca": str(tmp_path / "cert.pem"), "trunks": {"pbx": pbx}, **tls.settings}
        with OwnGateway.start(calls=4, rtp_port=52_000, **settings) as here:
            here.wait_for(lambda: here.gateway.telephones.edge.registered == (1, 1), 10.0, "registered")
            with SpeakingCall(f"sip:600@127.0.0.1:{exchange.port}") as caller:
                caller.voice.say(CALLER_HZ)
                soon(lambda: caller.voice.hears(CALLER_HZ), "the echo")
            here.wait_for(lambda: here.is_idle, 5.0)
            name = here.do(here.switchboard.originate(OutboundCall("person", "pbx")))
            here.wait_for(lambda: "answered" in here.kinds(name))
            person.voice.say(PERSON_HZ)
            soon(lambda: person.voice.hears(PERSON_HZ), "the echo")
            here.do(here.switchboard.hang_up(name))
            here.wait_for(lambda: here.is_idle, 5.0)
