"""Inbound rules: the first that matches decides, and what an operator may write."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config import GatewaySettings, load
from gateway.rules import Inbound, Rule, Rules

FILE = """
persona = "read-back"
calls_without_rule = "refuse"

[[rules]]
name = "spring"
called = "100"
source = ["carrier", "192.0.2.0/24"]
headers = { X-Campaign = "/spring.*/" }
persona = "interpret"
tenant = "acme"
recording = true

[[rules]]
called = "/1[0-9]{2}/"
source = "carrier"
trunk = "second"

[[rules]]
called = "*98"
headers = { Subject = "hello", X-Class = "vip" }

[personas]
100 = "count"
echo = "every 5"

[tenants.acme]

[trunks.carrier]
hosts = "203.0.113.0/24"

[trunks.second]
hosts = "198.51.100.1"
"""


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in GatewaySettings.model_fields:
        monkeypatch.delenv(f"MICROTURN_{name.upper()}", raising=False)


@pytest.fixture
def rules(tmp_path: Path) -> Rules:
    (tmp_path / "microturn.toml").write_text(FILE)
    return load().make_rules()


def telephone(called: str, source: str = "192.0.2.7", trunk: str = "", **headers: str) -> Inbound:
    values = {name.replace("_", "-").lower(): [value] for name, value in headers.items()}
    return Inbound(called, source, trunk, values)


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (telephone("100", X_Campaign="spring sale"), "spring"),
        (telephone("100", "203.0.113.9", "carrier", X_Campaign="spring"), "spring"),
        (telephone("100", X_Campaign="a spring sale"), "personas.100"),  # a pattern is for the whole value
        (telephone("100", "203.0.113.9", "carrier"), "rules[2]"),
        (telephone("199", "203.0.113.9", "carrier"), "rules[2]"),
        (telephone("1999", "203.0.113.9", "carrier"), ""),
        (telephone("100", "198.51.100.1", "second"), "personas.100"),
        (telephone("*98", Subject="hello", X_Class="vip"), "rules[3]"),
        (telephone("998", Subject="hello", X_Class="vip"), ""),  # `*` is a letter here
        (telephone("*98", Subject="hello"), ""),
        (telephone("echo"), "personas.echo"),
        (telephone("Echo"), ""),
        (telephone(""), ""),
    ],
)
def test_the_first_that_matches_decides(rules: Rules, call: Inbound, rule: str) -> None:
    found = rules.find(call)
    assert (found.rule if found is not None else "") == rule


def test_what_a_rule_gives(rules: Rules) -> None:
    found = rules.find(telephone("100", X_Campaign="spring"))
    assert found is not None
    assert (found.persona, found.tenant, found.trunk, found.recording) == ("interpret", "acme", "", True)
    by_pattern = rules.find(telephone("150", "203.0.113.9", "carrier"))
    assert by_pattern is not None and (by_pattern.trunk, by_pattern.recording) == ("second", False)
    assert (found.called, by_pattern.called) == ("100", "")  # who matched a pattern may be anybody


def test_any_of_several_headers_of_a_name(rules: Rules) -> None:
    call = Inbound("*98", "192.0.2.7", "", {"subject": ["no", "hello"], "x-class": ["vip"]})
    assert rules.find(call) is not None


def test_browsers_go_by_the_name_alone(rules: Rules) -> None:
    named = rules.find_for_browser("100")
    assert named is not None and named.rule == "personas.100"
    assert rules.find_for_browser("150") is None and rules.find_for_browser("") is None


def test_without_rules_all_telephones_are_taken_and_slips_of_browsers_are_not() -> None:
    plain = load(personas={"100": "count"}).make_rules()
    assert [getattr(plain.find(telephone(n)), "persona", None) for n in ("100", "7", "")] == ["count", "", ""]
    assert plain.find_for_browser("") is not None and plain.find_for_browser("7") is None


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([{"called": "/1(/"}], "rules[1]: called = '/1(/' is no regular expression"),
        ([{"called": "a b"}], "rules[1] has 'a b': a name or number that is called has 1 to 64"),
        ([{"source": "carrier"}], "rules[1]: source: 'carrier' is no address or network"),
        ([{"source": "carrier"}], "or the name of one of the trunks"),
        ([{"headers": {"X Class": "v"}}], "headers has 'X Class': expected a header's name"),
        ([{"tenant": "acme"}], "rules[1]: tenant = 'acme' is not among the tenants: add [tenants.acme]"),
        ([{"trunk": "t"}], "rules[1]: trunk = 't' is not among the trunks: add [trunks.t]"),
        ([{"persona": "x" * 300}], "256 letters at most"),
        ([{"name": "all"}, {"called": "1"}], "rules[2] is never reached: rules[1] (all) matches every call"),
        ([{"number": "1"}], "is no setting of microturn"),
        ([{"attestation": "A"}], "rules[1]: attestation needs stir_anchors"),
        ([{"attestation": "D"}], "rules.0.attestation.0 = 'D'"),
    ],
)
def test_wrong_rules_stop_the_start(rules: list[dict[str, object]], told: str) -> None:
    with pytest.raises(ValueError) as wrong:
        load(rules=rules)
    assert told in str(wrong.value)


def test_a_rule_may_want_callers_who_are_verified() -> None:
    wanted = (
        Rule(name="signed", called="100", attestation=("A", "B")), Rule(name="forged", attestation=("failed",)),
    )  # fmt: skip
    rules = Rules(wanted, {}, True, {}, {})

    def found(attestation: str) -> str:
        ruling = rules.find(dataclasses.replace(telephone("100"), attestation=attestation))
        return ruling.rule if ruling is not None else ""

    assert [found(word) for word in ("A", "B", "C", "failed", "absent", "")] == [
        "signed", "signed", "calls_without_rule", "forged", "calls_without_rule", "calls_without_rule"
    ]  # fmt: skip
    assert rules.find_for_browser("100") is None, "browsers are not verified"


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"stir": "require"}, "stir = 'require' needs stir_anchors"),
        ({"trunks": {"t": {"hosts": ["192.0.2.1"], "stir": "show"}}}, "trunks.t: stir needs stir_anchors"),
        ({"stir_anchors": "/no/such.pem"}, "stir_anchors without stir_hosts and stir_certificates"),
        ({"stir_anchors": "/no/such.pem", "stir_hosts": ["x"]}, "'/no/such.pem' cannot be read"),
        (
            {"stir_anchors": "/no/such.pem", "stir_hosts": ["http://x"]},
            "stir_hosts: 'http://x' is no address or network",
        ),
        ({"stir_anchors": "/x", "stir_certificates": "/no/such"}, "'/no/such' is no folder"),
        (
            {"stir_anchors": "/x", "stir_hosts": ["x"], "stir_tls_ca": "/no/ca"},
            "stir_tls_ca = '/no/ca' cannot",
        ),
    ],
)
def test_settings_of_verification_that_cannot_be_meant(chosen: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError) as wrong:
        load(**chosen)
    assert told in str(wrong.value)


def test_a_command_shows_which_rule_a_call_falls_under(rules: Rules) -> None:
    run = CliRunner().invoke
    shown = run(app, ["route", "100", "--source", "192.0.2.1", "--header", "X-Campaign: spring"])
    assert shown.exit_code == 0
    assert shown.output == "rule: spring  persona: interpret  tenant: acme  trunk: -  recording: allowed\n"
    shown = run(app, ["route", "150", "--source", "203.0.113.3"])
    assert "rule: rules[2]  persona: read-back  tenant: -  trunk: second" in shown.output
    refused = run(app, ["route", "555"])
    assert refused.exit_code == 1 and "refused (404): no rule matches" in refused.output
    assert "personas.100" in run(app, ["route", "100", "--browser"]).output
