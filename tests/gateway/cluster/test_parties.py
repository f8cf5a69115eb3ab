"""Who calls: tenant, trunk and pseudonym, by settings."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.cluster.parties import (
    NOBODY,
    Parties,
    given_identity,
    pseudonym,
    telephone_identity,
)
from gateway.cluster.settings import Tenant, Trunk
from gateway.config import GatewaySettings

TENANTS = {"acme": Tenant(calls=20, keep_s=60), "free": Tenant()}
TRUNKS = {
    "carrier": Trunk(hosts=("203.0.113.0/24", "2001:db8::/32"), calls=30, tenant="acme"),
    "office": Trunk(hosts=("203.0.113.7",)),
}
PARTIES = Parties(TENANTS, TRUNKS, 86_400, "secret")


@pytest.mark.parametrize(
    ("source", "trunk", "limits"),
    [
        ("203.0.113.9", "carrier", {"tenant:acme": 20, "trunk:carrier": 30}),
        ("::ffff:203.0.113.9", "carrier", {"tenant:acme": 20, "trunk:carrier": 30}),
        ("2001:db8::1%eth0", "carrier", {"tenant:acme": 20, "trunk:carrier": 30}),
        ("203.0.113.7", "office", {}),  # the narrowest network has it
        ("198.51.100.1", "", {}),
        ("no address", "", {}),
    ],
)
def test_a_telephone_belongs_to_the_trunk_that_it_comes_from(
    source: str, trunk: str, limits: dict[str, int]
) -> None:
    party = PARTIES.of_telephone(source, "")
    assert party.trunk == trunk and PARTIES.limits(party) == limits and not party.caller


def test_a_browser_belongs_to_the_tenant_of_its_token_if_there_is_one() -> None:
    assert PARTIES.of_browser("", "nobody's") == NOBODY
    party = PARTIES.of_browser("anna", "acme")
    assert party.tenant == "acme" and PARTIES.limits(party) == {"tenant:acme": 20}
    assert party.caller == pseudonym("anna", "secret") != pseudonym("anna", "other")


def test_a_number_is_kept_where_that_is_wanted_alone() -> None:
    asked = '"Anna" <sip:+49-30.123@a.example>;tag=1'
    assert not PARTIES.of_telephone("203.0.113.9", asked).number
    kept = GatewaySettings(caller_numbers="on").make_parties().of_telephone("203.0.113.9", asked)
    assert kept.number == "+4930123" and len(kept.caller) == 32


def test_state_stays_as_long_as_the_tenant_has_it() -> None:
    assert [PARTIES.keep_s(name) for name in ("acme", "free", "")] == [60, 86_400, 86_400]


@pytest.mark.parametrize(
    ("told", "identity"),
    [
        ('"Anna" <sip:+49-30.123@a.example;user=phone>;tag=1', "+4930123"),
        ("<tel:+49(30)123>;tag=1", "+4930123"),
        ('"<sip:+49111@a>" <sip:+4930123@a>;tag=1', "+4930123"),
        ("sip:Anna@Example.ORG;tag=1", "anna@example.org"),
        ("<sip:anna:word@example.org:5070>", "anna@example.org"),
        ('"Anonymous" <sip:anonymous@anonymous.invalid>;tag=1', ""),
        ("<sip:host.example>;tag=2", "host.example"),
        ("rubbish", ""),
        ("<sip:" + "x" * 5000, ""),
    ],
)
def test_a_caller_is_told_by_number_or_address(told: str, identity: str) -> None:
    assert telephone_identity(told) == identity


def test_an_operator_may_write_a_name_in_several_ways() -> None:
    assert given_identity("+49 30 123") == given_identity("sip:+4930123@elsewhere.example") == "+4930123"
    assert given_identity("anna") == "anna" and given_identity("<sip:anna@b.example>") == "anna@b.example"
    assert len(pseudonym("x" * 10_000, "")) == 32 and pseudonym("", "secret") == ""


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"trunks": {"t": {"hosts": "nowhere"}}}, "is no address or network"),
        ({"trunks": {"t": {"hosts": "10.0.0.0/8", "tenant": "acme"}}}, "not among the tenants"),
        ({"tenants": {"A B": {}}}, "small letters"),
        ({"tenants": {"a": {"calls": -1}}}, "greater than or equal"),
        ({"tenants": {"a": {"cals": 1}}}, "Extra inputs"),
        ({"node_url": "ftp://x"}, "node_url"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        GatewaySettings(**wrong)
