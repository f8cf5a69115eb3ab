"""Trunks as an operator writes them: what is refused says why."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config import GatewaySettings
from gateway.sip.digest import Login
from gateway.sip.sdp_policy import Policy
from gateway.sip.trunks import Person, Trunk, caller_uri, check_persons, check_targets, destination

CARRIER = Trunk.model_validate(
    {
        "server": "sip.example.net:5070",
        "transport": "tcp",
        "user": "4930",
        "password": "x",
        "register": True,
        "dial": "+49 /0[1-9][0-9]+/",
        "codecs": "g.722,pcma",
        "srtp": "required",
    }  # fmt: skip
)


def test_what_a_trunk_says() -> None:
    assert CARRIER.register_ and CARRIER.codecs == ("G722", "PCMA") and CARRIER.login == Login("4930", "x")
    assert CARRIER.policy(0) == Policy(("G722", "PCMA"), 2, Login("4930", "x"))
    target = destination(CARRIER, "+4930#1")
    assert (target.uri, target.host, target.port, target.transport) == (
        b"sip:+4930%231@sip.example.net:5070;transport=tcp", "sip.example.net", 5070, "tcp",
    )  # fmt: skip
    assert caller_uri(CARRIER) == b"<sip:4930@sip.example.net>"
    assert caller_uri(CARRIER, "77", "Hot Line") == b'"Hot Line" <sip:77@sip.example.net>'


def test_whom_it_may_call() -> None:
    for number, may in (("+4930", True), ("030", True), ("00130", False), ("+1", False), ("x+49", False)):
        assert CARRIER.may_call(number) is may, number
    assert not Trunk(server="192.0.2.1").may_call("1")


def test_calls_from_its_server_are_its_own() -> None:
    assert Trunk(server="[2001:db8::1]:5070").networks == ("2001:db8::1",)
    assert Trunk(hosts=("192.0.2.0/24",), server="sip.example.net").networks == ("192.0.2.0/24",)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "hosts, inbound_user or server"),
        ({"hosts": "carrier"}, "no address or network"),
        ({"server": "sip:x"}, "HOST:PORT"),
        ({"server": "x:99999"}, "HOST:PORT"),
        ({"hosts": "192.0.2.1", "dial": "+49"}, "needs server"),
        ({"hosts": "192.0.2.1", "register": True}, "needs server"),
        ({"server": "x", "register": True}, "needs user"),
        ({"server": "x", "password": "y"}, "password without user"),
        ({"inbound_user": "x"}, "without inbound_password"),
        ({"server": "x", "dial": "/[/"}, "regular expression"),
        ({"server": "x", "dial": "+49 (0)"}, "prefix"),
        ({"server": "x", "codecs": "opus"}, "PCMU"),
        ({"server": "x", "session_expires_s": 30}, "90"),
        ({"server": "x", "caller_id": "a b"}, "number or name"),
        ({"server": "x", "domain": "a b>"}, "domain"),
        ({"server": "x", "prefix": "0"}, "Extra inputs"),
    ],
)
def test_what_is_refused_says_why(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Trunk.model_validate(settings)


@pytest.mark.parametrize("number", ["", "a@b", "1;x=y", "1 2", "1" * 65, "ä"])
def test_what_cannot_be_called(number: str) -> None:
    with pytest.raises(ValueError, match="cannot be called"):
        destination(CARRIER, number)


@pytest.mark.parametrize(("caller", "name"), [("a b", ""), ("1>", ""), ("1", 'x"y'), ("1", "x\r\nVia: y")])
def test_what_cannot_call(caller: str, name: str) -> None:
    with pytest.raises(ValueError, match="caller_"):
        caller_uri(CARRIER, caller, name)


@pytest.mark.parametrize(
    ("name", "person", "match"),
    [
        ("sales team", {"to": "+491", "trunk": "carrier"}, "'sales team': a name has"),
        ("sales", {"to": "+491", "trunk": "none"}, "joins.sales: trunk = 'none': .*: carrier"),
        ("sales", {"to": "911", "trunk": "carrier"}, "may not call '911': add it to the trunk's dial"),
        ("sales", {"to": "+49 1", "trunk": "carrier"}, "joins.sales: '.49 1' cannot be called"),
        ("sales", {"to": "+491", "trunk": "carrier", "caller_id": "a b"}, "joins.sales: caller_id = 'a b'"),
    ],
)
def test_who_may_join_can_be_called(name: str, person: dict[str, str], match: str) -> None:
    check_persons({"sales": Person(to="+491", trunk="carrier")}, {"carrier": CARRIER})
    with pytest.raises(ValueError, match=match):
        check_persons({name: Person.model_validate(person)}, {"carrier": CARRIER})


def test_transfers_are_addresses() -> None:
    check_targets({"sales": "sip:200@pbx.example.net;user=phone", "x": "tel:+4930"})
    for name, uri in (("a b", "sip:x"), ("a", "200"), ("a", "sip:x?Replaces=y"), ("a", "sip:x>\r\n")):
        with pytest.raises(ValueError, match="transfers"):
            check_targets({name: uri})


def settings(**more: Any) -> GatewaySettings:
    return GatewaySettings(run_dir="/tmp/none", **more)


def test_workers_do_as_the_peer_does_where_trunks_differ() -> None:
    plain = settings(trunks={"a": {"hosts": "192.0.2.1"}})
    assert plain.worker_srtp == 0 and plain.policy_of("a") == Policy() and plain.policy_of("") == Policy()
    mixed = settings(trunks={"a": {"hosts": "192.0.2.1", "srtp": "required"}, "b": {"hosts": "192.0.2.2"}})
    assert mixed.worker_srtp == 1
    assert [mixed.policy_of(name).srtp for name in ("a", "b", "")] == [2, 0, 0]
    strict = settings(srtp="required", trunks={"a": {"hosts": "192.0.2.1"}})
    assert strict.worker_srtp == 2 and strict.policy_of("a").srtp is None


def test_passwords_of_strangers_are_long_and_names_their_own() -> None:
    with pytest.raises(ValidationError, match="12 or more"):
        settings(trunks={"a": {"inbound_user": "x", "inbound_password": "short"}})
    one = {"inbound_user": "x", "inbound_password": "long enough for anyone"}
    with pytest.raises(ValidationError, match="give each its own"):
        settings(trunks={"a": one, "b": one})
    assert settings(trunks={"a": one}).make_doorman()
    assert not settings().make_doorman()
