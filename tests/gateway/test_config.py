"""Settings: what is wrong is refused with the value, what was expected and what to do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.api.tokens import check
from gateway.cli import app
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
        ({"rtp_host": "::1"}, "'::1' is no IPv4 address: give one here, and this one as rtp_host6"),
        ({"rtp_host6": "127.0.0.1"}, "'127.0.0.1' is no IPv6 address"),
        ({"rtp_host6": "127.0.0.1,10.0.0.1"}, "'127.0.0.1,10.0.0.1' is no IPv6 address"),
        ({"engine": "magic"}, "engine = 'magic'"),
        ({"rtp_port": 60_000}, "beyond 65535"),
        ({"sip_calls": 2}, "sip_wideband_calls = 4 is more than sip_calls = 2"),
        ({"rtp_ports": 100}, "too few for sip_calls"),
        ({"sip_prot": 5060}, "sip_prot"),
        ({"http_host": "0.0.0.0"}, "http_host = '0.0.0.0' without jwt_secret: anyone there could call. Set"),
        ({"http_host": "192.0.2.1"}, "or webrtc_calls = 0 for no browser calls"),
        ({"jwt_secret": "short"}, "jwt_secret has 5 bytes: give 32 or more"),
        (
            {"webrtc_host": "0.0.0.0"},
            "webrtc_public_host = '' with webrtc_host = '0.0.0.0': give the IP address",
        ),
        ({"webrtc_public_host": "gateway.example"}, "webrtc_public_host = 'gateway.example'"),
        ({"webrtc_udp_port": 20_000}, "lies among the rtp_ports"),
        ({"webrtc_udp_port": 5059, "webrtc_workers": 2}, "sip_port = 5060 is one of the 2 port(s)"),
        ({"webrtc_tcp_port": 8080}, "http_port = 8080 is one of the 1 port(s)"),
        ({"turn_urls": "turn:t.example"}, "turn_urls and turn_secret go together"),
        ({"turn_secret": "s"}, "turn_urls and turn_secret go together"),
        ({"turn_urls": "t.example", "turn_secret": "s"}, "turn_urls has 't.example'"),
        ({"refer": "accept"}, "refer = 'accept' without refer_targets: callers are not authenticated"),
        (
            {"sip_allow": "10.0.0.300"},
            "sip_allow: '10.0.0.300' is no address or network: give such as 192.0.2",
        ),
        ({"sip_unlimited": "carrier"}, "sip_unlimited: 'carrier' is no address or network"),
        ({"sip_scanners": "*"}, "sip_scanners: '*': expected 3 to 64 letters of a User-Agent beside *"),
        ({"sip_requests_per_s": -1}, "sip_requests_per_s = -1"),
        ({"refer_targets": "*"}, "refer_targets: '*' is no target: give HOST, HOST:PORT or *.DOMAIN"),
        ({"refer_targets": "a.example,b.example:70000"}, "'b.example:70000' is no target"),
        ({"stun_urls": "turn:t.example"}, "stun_urls has 'turn:t.example', which is no stun URL"),
        (
            {"web_origins": "https://app.example/"},
            "web_origins has 'https://app.example/', which is no origin",
        ),
        ({"web_origins": "*"}, "web_origins has '*'"),
        ({"http_tls_cert": "cert.pem"}, "http_tls_key = '': certificate and key go together"),
        ({"http_tls_cert": "c.pem", "http_tls_key": "k.pem"}, "http_tls_cert = 'c.pem' cannot be read"),
        ({"video": "maybe"}, "video = 'maybe'"),
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
    assert {settings.sip_host, settings.rtp_host, settings.http_host, settings.webrtc_host} == {"127.0.0.1"}


def test_beyond_loopback_with_a_secret_or_without_browser_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(http_host="0.0.0.0", webrtc_calls=0).http_host == "0.0.0.0"
    monkeypatch.setenv("MICROTURN_JWT_SECRET", "0123456789abcdef" * 2)
    assert load(http_host="0.0.0.0").jwt_secret.get_secret_value() == "0123456789abcdef" * 2


def test_lists_come_from_the_environment_and_from_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MICROTURN_STUN_URLS", "stun:a.example:3478, stun:b.example")
    (tmp_path / "microturn.toml").write_text('web_origins = ["https://a.example", "http://localhost:3000"]\n')
    settings = load()
    assert settings.stun_urls == ("stun:a.example:3478", "stun:b.example")
    assert settings.web_origins == ("https://a.example", "http://localhost:3000")


def test_secrets_are_in_no_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = "never-to-be-seen-by-anyone-at-all"
    monkeypatch.setenv("MICROTURN_JWT_SECRET", secret)
    monkeypatch.setenv("MICROTURN_TURN_SECRET", secret)
    monkeypatch.setenv("MICROTURN_TURN_URLS", "turn:t.example")
    shown = CliRunner().invoke(app, ["settings"])
    assert shown.exit_code == 0 and "jwt_secret = ***" in shown.output and secret not in shown.output
    assert secret not in repr(load())
    monkeypatch.delenv("MICROTURN_JWT_SECRET")
    for line in (f'jwt_secret = "{secret[:20]}"', f'jwt_secrets = "{secret}"', "turn_secret = 12345678"):
        (tmp_path / "microturn.toml").write_text(line + "\n")
        monkeypatch.delenv("MICROTURN_TURN_SECRET", raising=False)
        with pytest.raises(ValueError) as refused:
            load()
        assert secret[:20] not in str(refused.value) and "12345678" not in str(refused.value)


def test_the_command_token_mints_what_the_gateway_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["token", "--name", "anna", "--minutes", "5"]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 2 and "MICROTURN_JWT_SECRET" in refused.output
    monkeypatch.setenv("MICROTURN_JWT_SECRET", "0123456789abcdef" * 2)
    minted = CliRunner().invoke(app, asked)
    secret = "0123456789abcdef" * 2
    assert minted.exit_code == 0 and check(secret, f"Bearer {minted.output.strip()}").name == "anna"
    minted = CliRunner().invoke(app, [*asked, "--scope", "calls:read  cdrs:read"])
    for scope in ("calls:read", "cdrs:read"):
        assert check(secret, f"Bearer {minted.output.strip()}", scope).name == "anna"
    refused = CliRunner().invoke(app, [*asked, "--scope", "calls:raed"])
    assert refused.exit_code == 2 and "calls:read, calls:write" in refused.output


def test_hosts_of_trunks_may_always_send_and_as_much_as_they_like() -> None:
    trunks = {"carrier": {"hosts": "203.0.113.0/24"}}
    rules = load(trunks=trunks, sip_allow="192.0.2.1", sip_unlimited="").make_guard_rules()
    assert rules.allow == ("192.0.2.1", "203.0.113.0/24") and rules.unlimited == ("203.0.113.0/24",)
    assert load(trunks=trunks).make_guard_rules().allow == ()  # everybody, not trunks alone
