"""Probe calls: what an operator may write, and who may begin something where there are any."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pesq", reason="pip install 'microturn[probe]'")

from gateway.config import GatewaySettings
from gateway.probe import settings as probe_settings

ECHO = {"echo": {"engine": "echo"}}


def made(tmp_path: Path, **settings: Any) -> GatewaySettings:
    return GatewaySettings(run_dir=tmp_path, **({"engines": ECHO, "probe_every_s": 300} | settings))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"engines": {}}, "probe_every_s = 300 without [engines.echo], which answers probe calls: add it"),
        ({"probe_every_s": 5}, "probe_every_s = 5: expected 0 or 30 and more"),
        ({"engines": {"echo": {"engine": "digits"}}}, "probe_engine = 'echo' is engine = 'digits'"),
        (
            {"srtp": "required", "trunks": {"c": {"hosts": ["192.0.2.1"], "srtp": "off"}}},
            "with srtp = 'required'",
        ),
        ({"srtp": "required"}, "with srtp = 'required': probe calls have plain RTP"),
        ({"probe_codecs": ["PCMU", "PCMU"]}, "each once"),
        (
            {"probe_codecs": ["G722"], "sip_wideband_calls": 0},
            "probe_codecs has G722 with sip_wideband_calls = 0",
        ),
    ],
)
def test_what_cannot_be_meant_stops_the_start(tmp_path: Path, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        made(tmp_path, **given)


def test_without_the_package_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_settings, "is_installed", lambda: False)
    with pytest.raises(ValueError, match=re.escape("pip install 'microturn[probe]'")):
        made(tmp_path)
    made(tmp_path, probe_every_s=0)


def test_probes_are_off_until_somebody_says_how_often(tmp_path: Path) -> None:
    usual = GatewaySettings(run_dir=tmp_path)
    assert usual.probe_every_s == 0 and not usual.may_probe(usual.engines)
    assert made(tmp_path, engines={}, probe_engine="").may_probe({}), "the usual engine"
    assert made(tmp_path, engines={"echo": {"socket": "/run/echo.sock"}}).may_probe(["echo"])


def test_its_own_machine_may_begin_calls_where_others_may_not(tmp_path: Path) -> None:
    rules = made(tmp_path, sip_allow=["192.0.2.0/24"]).make_guard_rules()
    assert "127.0.0.0/8" in rules.allow and "127.0.0.0/8" in rules.unlimited
    quiet = made(tmp_path, sip_allow=["192.0.2.0/24"], probe_every_s=0).make_guard_rules()
    assert quiet.allow == ("192.0.2.0/24",)
    assert made(tmp_path).make_guard_rules().allow == (), "everybody"


def test_where_a_probe_reaches_the_edge(tmp_path: Path) -> None:
    assert made(tmp_path).probe_host == "127.0.0.1"
    anywhere = made(tmp_path, sip_host="0.0.0.0", sip_public_host="203.0.113.7", rtp_host="10.1.2.3")
    assert anywhere.probe_host == "10.1.2.3", "an address of this machine, and not what peers are told"
    assert made(tmp_path, sip_host="10.9.8.7").probe_host == "10.9.8.7"
