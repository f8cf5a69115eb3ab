"""Settings: what is wrong is refused with the value, what was expected and what to do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.config import GatewaySettings, load


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in GatewaySettings.model_fields:
        monkeypatch.delenv(f"MICROTURN_{name.upper()}", raising=False)


def test_flags_win_over_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "microturn.toml").write_text("sip_port = 1\nsip_calls = 11\nhttp_port = 21\n")
    monkeypatch.setenv("MICROTURN_SIP_PORT", "2")
    monkeypatch.setenv("MICROTURN_SIP_CALLS", "12")
    settings = load(sip_port=3, sip_calls=None)
    assert (settings.sip_port, settings.sip_calls, settings.http_port) == (3, 12, 21)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"sip_port": 70_000}, "sip_port = 70000"),
        ({"sip_host": "example"}, "no IP address"),
        ({"engine": "magic"}, "engine = 'magic'"),
        ({"rtp_port": 60_000}, "beyond 65535"),
        ({"sip_calls": 2}, "sip_wideband_calls = 4 is more than sip_calls = 2"),
        ({"rtp_ports": 100}, "too few for sip_calls"),
        ({"sip_prot": 5060}, "sip_prot"),
    ],
)
def test_a_wrong_value_is_refused_in_words(flags: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match="(?s).*") as refused:
        load(**flags)
    assert told in str(refused.value)


def test_tls_without_what_it_needs_is_refused_in_words(tmp_path: Path) -> None:
    cert, key, there = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"), tmp_path / "there.pem"
    there.write_text("no PEM")
    for flags, told in [
        ({}, "sip_tls_cert = '' with sip_tls_port = 5061: give the path of a PEM file"),
        ({"sip_tls_cert": cert}, "sip_tls_key = ''"),
        ({"sip_tls_cert": cert, "sip_tls_key": key}, f"sip_tls_cert = {cert!r} cannot be read (No such file"),
        ({"sip_tls_cert": str(there), "sip_tls_key": key}, f"sip_tls_key = {key!r} cannot be read"),
        ({"sip_tls_cert": str(there), "sip_tls_key": str(tmp_path)}, "cannot be read (Is a directory)"),
        ({"sip_tls_cert": str(there), "sip_tls_key": str(there)}, "is refused"),
        ({"sip_tls_cert": cert, "sip_tls_key": key, "sip_port": 5061}, "is sip_port as well"),
    ]:
        with pytest.raises(ValueError) as refused:
            load(sip_tls_port=5061, **flags)
        assert told in str(refused.value)
    assert load(sip_tls_cert=cert).sip_tls_port == 0  # off: nothing is read


def test_an_encrypted_key_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on PATH: no key to test with")
    make = "openssl req -x509 -newkey rsa:2048 -passout pass:secret -subj /CN=x -keyout key.pem -out cert.pem"
    subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    files = {"sip_tls_cert": str(tmp_path / "cert.pem"), "sip_tls_key": str(tmp_path / "key.pem")}
    with pytest.raises(ValueError, match="sip_tls_key is encrypted"):
        load(sip_tls_port=5061, **files)


def test_a_stranger_in_the_environment_or_the_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MICROTURN_SIP_PROT", "5060")
    with pytest.raises(ValueError, match="MICROTURN_SIP_PROT"):
        load()
    monkeypatch.delenv("MICROTURN_SIP_PROT")
    (tmp_path / "microturn.toml").write_text("sip_prot = 5060\n")
    with pytest.raises(ValueError, match="sip_prot"):
        load()


def test_a_named_file_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROTURN_CONFIG", "nowhere.toml")
    with pytest.raises(ValueError, match=r"nowhere\.toml"):
        load()


def test_nothing_listens_beyond_loopback_by_default() -> None:
    settings = load()
    assert {settings.sip_host, settings.rtp_host, settings.http_host} == {"127.0.0.1"}
