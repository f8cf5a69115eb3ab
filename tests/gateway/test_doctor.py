"""What the doctor says of browser calls."""

from __future__ import annotations

import socket
from pathlib import Path

from gateway.config import GatewaySettings, load
from gateway.doctor import Finding, browser_calls, examine, further_engines, socket_buffers, waiting_events


def findings(**values: object) -> dict[str, Finding]:
    return {finding.what: finding for finding in browser_calls(GatewaySettings(**values))}  # type: ignore[arg-type]


def test_a_port_that_is_taken_is_found_with_its_setting() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port_number = taken.getsockname()[1]  # the system gives none below 32768: RTP stays away from there
        found = findings(webrtc_udp_port=port_number, webrtc_tcp_port=0, rtp_port=10_000)
    port = found["media of web-0 over UDP"]
    assert not port.good and port.fatal and "MICROTURN_WEBRTC_UDP_PORT" in port.advice
    assert "media of web-0 over TCP" not in found


def test_pages_beyond_this_machine_need_tls_for_the_microphone() -> None:
    beyond = findings(http_host="0.0.0.0", jwt_secret="0123456789abcdef" * 2)
    assert not beyond["page"].good and "no microphone" in beyond["page"].found
    assert not beyond["media address"].good
    reached = findings(http_host="0.0.0.0", jwt_secret="0123456789abcdef" * 2, webrtc_public_host="192.0.2.1")
    assert reached["media address"].good and findings()["page"].good


def test_events_that_wait_below_the_run_directory_are_told() -> None:
    crm = {"url": "https://crm.example/", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    found = waiting_events(load(webhooks={"crm": crm}))
    assert not found.good and not found.fatal and "events_dir" in found.advice
    assert waiting_events(load(webhooks={"crm": crm}, events_dir="/var/lib/x")).good


def test_small_socket_buffers_are_told_with_the_kernel_setting() -> None:
    assert socket_buffers(4096).good
    beyond = socket_buffers(1 << 30)
    most = int(beyond.found.split(" KiB given", maxsplit=1)[0]) << 10
    assert not beyond.good and not beyond.fatal and "net.core.rmem_max=1073741824" in beyond.advice
    assert socket_buffers(most).good and not socket_buffers(most + 1024).good


def test_libraries_are_looked_for_only_when_browsers_may_call() -> None:
    ours = {"aiortc", "libopus", "page", "media of web-0 over TCP"}
    assert ours <= {finding.what for finding in examine(GatewaySettings())}
    assert not ours & {finding.what for finding in examine(GatewaySettings(webrtc_calls=0))}


def test_it_says_when_others_are_answered_beside_the_rules() -> None:
    def found(**values: object) -> Finding:
        return next(f for f in examine(GatewaySettings(**values)) if f.what == "inbound rules")  # type: ignore[arg-type]

    assert found(personas={"100": "count"}).good
    beside = found(rules=[{"called": "100"}])
    assert not beside.good and not beside.fatal and "1, others get the usual persona" in beside.found
    assert found(rules=[{"called": "100"}], calls_without_rule="refuse").good


def test_engines_that_somebody_else_runs_are_looked_for(tmp_path: Path) -> None:
    there, away = tmp_path / "there.sock", tmp_path / "away.sock"
    settings = load(
        engines={"a": {"socket": str(there)}, "b": {"socket": str(away)}, "c": {"engine": "echo"}}
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(str(there))
        server.listen()
        found = {finding.what: finding for finding in further_engines(settings)}
    assert found["engine a"].good and found["engine c"].good and "echo" in found["engine c"].found
    assert not found["engine b"].good and not found["engine b"].fatal
    assert str(away) in found["engine b"].found and "503" in found["engine b"].advice
