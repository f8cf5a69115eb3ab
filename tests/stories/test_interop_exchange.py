"""The interop matrix, rows with Kamailio as the exchange that we register at and baresip as a phone behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.sip.outbound import OutboundCall
from tests.stories.test_baresip_calls import needs_baresip
from tests.support.baresip_phone import BaresipPhone
from tests.support.kamailio import PASSWORD, Kamailio, needs_kamailio
from tests.support.own_gateway import OwnGateway

pytestmark = [pytest.mark.processes, pytest.mark.sip, needs_kamailio, needs_baresip]


class Office(NamedTuple):
    gateway: OwnGateway
    exchange: Kamailio
    phone: BaresipPhone


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("office")
    with Kamailio.start(folder) as exchange:
        pbx = {
            "server": f"127.0.0.1:{exchange.port}", "domain": "127.0.0.1", "user": "model", "password": PASSWORD,
            "register": True, "expires_s": 60, "dial": "phone",
        }  # fmt: skip
        trunks = {
            "pbx": pbx,
            "wire": pbx | {"user": "wire", "transport": "tcp"},
            "stranger": pbx | {"user": "stranger", "password": "wrong"},
        }
        account = (
            f'<sip:phone@127.0.0.1>;outbound="sip:127.0.0.1:{exchange.port}";auth_user=phone;'
            f"auth_pass={PASSWORD};regint=60;audio_codecs=pcmu,pcma;answermode=auto"
        )
        transfers = {"wire": "sip:wire@127.0.0.1"}
        with (
            OwnGateway.start(trunks=trunks, transfers=transfers) as gateway,
            BaresipPhone.start(folder / "phone", account) as phone,
        ):
            yield Office(gateway, exchange, phone)


@pytest.fixture(autouse=True)
def nothing_is_left(office: Office) -> Iterator[None]:
    yield
    office.phone.do("hangup")
    office.gateway.wait_for(lambda: office.gateway.is_idle, 5.0, "idle")


def test_registers_by_udp_and_tcp_and_not_with_a_wrong_password(office: Office) -> None:
    office.gateway.wait_for(lambda: office.gateway.gateway.telephones.edge.registered[0] == 2, 10.0)
    assert office.gateway.gateway.telephones.edge.registered == (2, 3)
    counters = office.gateway.gateway.telephones.edge.registrar_counters
    assert (counters.registered, counters.refused, counters.strays) == (2, 1, 0)


def registered(office: Office) -> None:
    office.gateway.wait_for(lambda: office.gateway.gateway.telephones.edge.registered[0] == 2, 10.0)
    office.phone.wait_for(lambda: "[1 binding]" in office.phone.told)
    office.phone.events.clear()


@pytest.mark.parametrize("user", ["model", "wire"])
def test_a_phone_of_the_exchange_calls_us_and_holds_and_presses_keys(office: Office, user: str) -> None:
    registered(office)
    phone = office.phone
    with office.gateway.watch() as watch:
        phone.do("dial", f"sip:{user}@127.0.0.1")
        phone.wait_for(lambda: "CALL_ESTABLISHED" in phone.kinds)
        phone.do("sndcode", "5")
        assert watch.look_until(lambda seen: "dtmf 5" in seen.heard, lambda: None, 5.0), phone.told
        phone.do("hold")
        assert watch.look_until(lambda seen: "hold" in seen.heard, lambda: None, 5.0), phone.told
        phone.do("resume")
        assert watch.look_until(lambda seen: "resume" in seen.heard, lambda: None, 5.0), phone.told
    phone.do("hangup")


def test_we_call_a_phone_of_the_exchange_which_asks_who_we_are(office: Office) -> None:
    registered(office)
    gateway = office.gateway
    name = gateway.do(gateway.switchboard.originate(OutboundCall("phone", "pbx")))
    gateway.wait_for(lambda: "answered" in gateway.kinds(name))
    office.phone.wait_for(lambda: "CALL_ESTABLISHED" in office.phone.kinds)
    gateway.press(name, "42")
    office.phone.wait_for(lambda: office.phone.kinds.count("CALL_DTMF_START") >= 2)
    gateway.do(gateway.switchboard.hang_up(name))
    gateway.wait_for(lambda: gateway.kinds(name)[-1] == "ended")
    office.phone.wait_for(lambda: "CALL_CLOSED" in office.phone.kinds)


def test_a_call_of_ours_goes_along_the_connection_of_its_registration(office: Office) -> None:
    registered(office)
    gateway, counters = office.gateway, office.gateway.gateway.telephones.edge.counters
    before = counters.tcp_connections
    name = gateway.do(gateway.switchboard.originate(OutboundCall("phone", "wire")))
    gateway.wait_for(lambda: "answered" in gateway.kinds(name))
    gateway.do(gateway.switchboard.hang_up(name))
    gateway.wait_for(lambda: gateway.kinds(name)[-1] == "ended")
    assert counters.tcp_connections == before


def test_a_wrong_password_calls_nobody(office: Office) -> None:
    registered(office)
    gateway = office.gateway
    name = gateway.do(gateway.switchboard.originate(OutboundCall("phone", "stranger")))
    gateway.wait_for(lambda: gateway.kinds(name) == ["dialled", "failed", "ended"])
    failed = gateway.last(name, "failed")
    assert failed.why == "forbidden", failed


def test_a_phone_is_handed_to_somebody_else_of_the_exchange(office: Office) -> None:
    """Blind, REFER: baresip calls the other one itself, and tells us."""
    registered(office)
    gateway, phone = office.gateway, office.phone
    phone.do("dial", "sip:model@127.0.0.1")
    phone.wait_for(lambda: "CALL_ESTABLISHED" in phone.kinds)
    name = gateway.only_call()
    gateway.transfer(name, "wire")
    gateway.wait_for(lambda: "transferred" in gateway.kinds(name))
    gateway.wait_for(lambda: gateway.kinds(name)[-1] == "ended")


@pytest.mark.long
def test_registrations_are_refreshed_and_outlive_the_exchange(tmp_path: Path) -> None:
    """It grants 10 s, and is away for a while: tried again after 15 s."""
    with Kamailio.start(tmp_path, most_s=10) as exchange:
        port = exchange.port
        wire = {
            "server": f"127.0.0.1:{port}", "domain": "127.0.0.1", "user": "wire", "password": PASSWORD,
            "register": True, "transport": "tcp",
        }  # fmt: skip
        with OwnGateway.start(rtp_port=52_000, trunks={"wire": wire}) as gateway:
            edge = gateway.gateway.telephones.edge
            gateway.wait_for(lambda: edge.registrar_counters.registered >= 2, 12.0, "a refresh")
            assert edge.registered == (1, 1) and edge.registrar_counters.refused == 0
            exchange.process.terminate()  # and its children with it
            gateway.wait_for(lambda: edge.registered == (0, 1), 5.0, "the loss is seen")
            with Kamailio.start(tmp_path, port, most_s=10):
                gateway.wait_for(lambda: edge.registered == (1, 1), 20.0, "registered again")
