"""What the chart renders for programs that are not ours, run by those programs; and what `helm test` does, done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.helm import dashboards
from gateway import catalogue
from gateway.caller.calls import CallPlan, place_call
from gateway.caller.signals import numbered_tones
from loadtests.chart.pod import DOCKER, TREE, ChartPod, environment
from loadtests.chart.programs import (
    MODULES,
    coturn,
    gateway_name,
    kamailio,
    listening,
    redis_server,
    status_of,
    write_edge,
)
from loadtests.ports import free_port
from tests.support.helm import VARIANTS, container, needs_helm, render
from tests.support.kamailio import needs_kamailio

pytestmark = [needs_helm, pytest.mark.processes]

SECRET = "dGhpcyBpcyBhIHNlY3JldCBvZiBhIHRlc3QgYW5kIG9mIG5vdGhpbmcgZWxzZQ"


class Edge(NamedTuple):
    """Kamailio with the chart's configuration."""

    pod: ChartPod
    port: int
    health: int
    log: Path
    tls: int = 0
    """Its port for TLS; 0 where Kamailio's module is not installed."""
    homer: socket.socket | None = None
    """Where it sends copies of messages."""

    def say(self, message: bytes, wait_s: float = 1.0, source: str = "127.0.0.1") -> bytes:
        """One datagram, and its final answer; nothing when it is not heard."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
            line.bind((source, 0))
            line.settimeout(wait_s)
            own = b"%s:%d" % (source.encode(), line.getsockname()[1])
            line.sendto(message.replace(b"OWN", own), ("127.0.0.1", self.port))
            with contextlib.suppress(TimeoutError):
                while (answer := line.recv(65_535)).startswith(b"SIP/2.0 1"):
                    pass
                return answer
            return b""

    def flood(self, message: bytes, times: int, source: str) -> int:
        """One datagram, over and over; how many answers there were in the half second after it."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
            line.bind((source, 0))
            line.settimeout(0.5)
            own = b"%s:%d" % (source.encode(), line.getsockname()[1])
            for number in range(times):
                each = message.replace(b"OWN", own).replace(b"z9hG4bK", b"z9hG4bK%d" % number)
                line.sendto(each, ("127.0.0.1", self.port))
            answers = 0
            with contextlib.suppress(TimeoutError):
                while line.recv(65_535):
                    answers += 1
            return answers


def invite(body: bytes, name: str, more: bytes = b"", kind: bytes = b"application/sdp") -> bytes:
    """As a stranger would send it."""
    head = (
        b"INVITE sip:bot@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP OWN;rport;branch=z9hG4bK"
        + name.encode()
        + b"\r\n"
        b"From: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:bot@127.0.0.1>\r\nCall-ID: "
        + name.encode()
        + b"@test\r\n"
        b"CSeq: 1 INVITE\r\nContact: <sip:a@OWN>\r\nMax-Forwards: 70\r\n" + more
    )
    return head + b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(body), body)


def sdp(*lines: bytes, address: bytes = b"c=IN IP4 127.0.0.1") -> bytes:
    """An offer of PCMU; `lines` behind it."""
    first = [
        b"v=0",
        b"o=- 1 1 IN IP4 127.0.0.1",
        b"s=-",
        address,
        b"t=0 0",
        b"m=audio 40000 RTP/AVP 0",
        *lines,
    ]
    return b"".join(line + b"\r\n" for line in first if line)


def certify(folder: Path) -> None:
    """tls.crt and tls.key, as a Secret of type kubernetes.io/tls is mounted; signed by itself, for loopback."""
    make = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        f"{make} -keyout tls.key -out tls.crt".split(), cwd=folder, check=True, capture_output=True
    )


@needs_kamailio
@pytest.mark.parametrize("variant", ["contact-centre", "everything"])
def test_kamailio_takes_every_configuration(variant: str, tmp_path: Path) -> None:
    config = write_edge(tmp_path, render(*VARIANTS[variant]))
    if not (MODULES / "tls.so").exists():  # kamailio-tls-modules: the rest is checked without
        text = config.read_text()
        assert "tls.so" in text
        of_tls = r'^(loadmodule "tls\.so"|modparam\("tls".*|enable_tls=yes|listen=LISTEN_TLS)$'
        config.write_text(re.sub(of_tls, "", text, flags=re.M))
    done = subprocess.run(
        ["kamailio", "-c", "-f", str(config), *listening(5098, 5097, tls=5099)],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    given = [word.partition("=")[0] for word in container(render(*VARIANTS[variant]), "edge")["args"]]
    assert {"LISTEN_UDP", "LISTEN_TCP", "LISTEN_TLS", "LISTEN_HEALTH"} <= set(given)


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """In front of a pod that takes who calls `bot`, or comes from 127.0.0.9 by the edge's word."""
    folder = tmp_path_factory.mktemp("edge")
    port, health, tls = free_port(), free_port(), free_port() if (MODULES / "tls.so").exists() else 0
    certify(folder)
    homer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    homer.bind(("127.0.0.1", 0))
    homer.settimeout(3.0)
    values = (
        f"edge.enabled=true,edge.healthPort={health},edge.probeSeconds=1,edge.requestsPerSecond=5,"
        f"edge.hep.endpoint=127.0.0.1:{homer.getsockname()[1]},edge.hep.captureId=7,"
        f"edge.tls.enabled={json.dumps(tls > 0)},edge.tls.existingSecret=e,"
        "edge.networks={127.0.0.0/30},edge.scanners={Bot*Net},drain.seconds=20,drain.gracePeriodSeconds=40"
    )
    rules = [{"headers": {"X-Edge-Source": "/127[.]0[.]0[.]9/"}}, {"called": "bot"}]
    more = folder / "more.yaml"
    settings = {"rules": rules, "calls_without_rule": "refuse"}
    more.write_text(json.dumps({"gateway": {"settings": settings}}))
    with ChartPod.start(folder, "--set", values, "-f", str(more)) as pod:
        given = f"{values},gateway.sip.port={pod.sip_port}"
        config = write_edge(folder, render("--set", given))
        listed = (folder / "dispatcher.list").read_text()
        target = gateway_name(0, pod.sip_port)
        assert target in listed
        # there is no DNS of a cluster here: its one gateway by its address, and one that is not there
        here = listed.replace(target, f"sip:127.0.0.1:{pod.sip_port}")
        (folder / "dispatcher.list").write_text(
            here + f"1 {target.replace('cluster.local', 'invalid')} 25 0\n"
        )
        with kamailio(folder, config, port, health, tls=tls) as log:
            found = Edge(pod, port, health, log, tls, homer)
            pod.wait_for(lambda: status_of(health, "/readyz") == 200, 15.0, "the edge is ready")
            with homer:
                yield found


def place_calls(pod: ChartPod, *arguments: str) -> tuple[int, dict[str, object]]:
    """What the pod of `helm test` runs."""
    done = subprocess.run(
        [sys.executable, str(DOCKER / "place_calls.py"), *arguments],
        env=pod.gateway_environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.strip(), done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


@needs_kamailio
def test_helm_test_places_a_telephone_call_by_the_edge_and_a_browser_call(edge: Edge) -> None:
    page = f"http://127.0.0.1:{edge.pod.http_port}/whip?to=bot"
    calls = f"--sip=sip:bot@127.0.0.1:{edge.port}", f"--whip={page}", "--seconds=2"
    status, told = place_calls(edge.pod, *calls)
    assert (status, told["sip"], told["whip"]) == (0, True, True), told
    edge.pod.wait_for(
        lambda: edge.pod.figure("calls_live") == 0, 5.0, "the BYE went by the edge, to its gateway"
    )
    assert edge.pod.figure("edge_calls_answered_total") == 1


@needs_kamailio
@pytest.mark.skipif(not (MODULES / "tls.so").exists(), reason="apt-get install kamailio-tls-modules")
def test_a_call_by_tls_goes_to_a_gateway_that_has_none(
    edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "MICROTURN_SIP_TLS_PORT" not in edge.pod.gateway_environment
    answered = edge.pod.figure("edge_calls_answered_total")
    uri = f"sip:bot@127.0.0.1:{edge.tls};transport=tls"
    plan = CallPlan(uri, "PCMU", numbered_tones(1.5, 8000, 1), 8000, seconds=1.5)
    monkeypatch.setenv("SSL_CERT_FILE", str(edge.log.with_name("tls.crt")))
    report = asyncio.run(place_call(plan))
    assert report.answered and report.media_came_back and report.ended_by == "us"
    edge.pod.wait_for(lambda: edge.pod.figure("calls_live") == 0, 5.0, "its BYE came by TLS, too")
    assert edge.pod.figure("edge_calls_answered_total") == answered + 1
    certify(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "tls.crt"))
    with pytest.raises(ssl.SSLCertVerificationError):
        asyncio.run(place_call(plan))


@needs_kamailio
def test_helm_test_fails_where_nobody_answers(edge: Edge) -> None:
    status, told = place_calls(edge.pod, f"--whip=http://127.0.0.1:{free_port()}/whip", "--seconds=1")
    assert (status, told["whip"]) == (1, False)


@needs_kamailio
def test_what_has_ended_a_library_ends_at_the_edge(edge: Edge) -> None:
    before = edge.pod.figure("edge_messages_total")
    name = b"x" * 254
    for number, (body, wanted) in enumerate(
        [
            (sdp(address=b"c=IN IP4 " + name), b"488"),
            (sdp(b"a=rtcp:40001 IN IP4 " + name), b"488"),
            (sdp(address=b""), b"488"),
            (sdp(b"a=rtpmap:97 iLBC/8000", b"a=fmtp:97 mode=25"), b"488"),
            (b"--x\r\n\r\n--x--\r\n", b"415"),
            (sdp(b"a=x:" + b"y" * 9_000), b"513"),
        ]
    ):
        kind = b"application/sdp" if body.startswith(b"v=0") else b"multipart/mixed;boundary=x"
        answer = edge.say(invite(body, f"crash{number}", kind=kind))
        assert answer.startswith(b"SIP/2.0 " + wanted), (body[:60], answer[:100])
    assert edge.say(b"INVITE sip:x SIP/2.0\r\nnonsense\r\n\r\n", 0.3)[:11] in (b"", b"SIP/2.0 400")
    # probes of the edge go on meanwhile
    assert edge.pod.figure("edge_messages_total") - before < 20
    assert edge.pod.figure("edge_screened_total") == 0


@needs_kamailio
def test_scanners_and_floods_are_not_heard(edge: Edge) -> None:
    options = invite(b"", "probe").replace(b"INVITE", b"OPTIONS")
    options = re.sub(rb"Content-Type: .*\r\n", b"", options)
    assert edge.say(options, source="127.0.0.20").startswith(b"SIP/2.0 200")
    for number, agent in enumerate((b"friendly-scanner", b"SIPVicious 1.0", b"Bot of a Net")):
        spoken = options.replace(b"Max-Forwards", b"User-Agent: " + agent + b"\r\nMax-Forwards")
        assert edge.say(spoken, 0.3, f"127.0.0.{30 + number}") == b""
        assert edge.say(options, 0.3, f"127.0.0.{30 + number}") == b"", "and not again for a while"
    assert 1 <= edge.flood(options, 60, "127.0.0.40") < 40
    assert edge.say(options, 0.3, "127.0.0.40") == b""
    assert edge.say(options, source="127.0.0.1").startswith(b"SIP/2.0 200"), "gateways are held to no rate"
    assert "not heard for 60 s: 127.0.0.40" in edge.log.read_text(errors="replace")


@needs_kamailio
def test_gateways_are_told_who_called_and_callers_cannot_say_it(edge: Edge) -> None:
    """The rules of this gateway take who calls `bot`, or comes from 127.0.0.9 by the edge's word."""
    forged = b"X-Edge-Source: 127.0.0.9\r\n"
    other = invite(sdp(), "forged", forged).replace(b"sip:bot@127.0.0.1 SIP", b"sip:other@127.0.0.1 SIP")
    assert edge.say(other, 3.0, "127.0.0.1").startswith(b"SIP/2.0 404")
    real = invite(sdp(), "real").replace(b"sip:bot@127.0.0.1 SIP", b"sip:other@127.0.0.1 SIP")
    answer = edge.say(real, 5.0, "127.0.0.9")
    assert answer.startswith(b"SIP/2.0 200")
    routes = re.findall(rb"\r\nRecord-Route: (.*)(?=\r\n)", answer)[::-1]  # RFC 3261 12.1.2
    assert f"<sip:127.0.0.1:{edge.port}".encode() in routes[0]
    [tag] = re.findall(rb"\r\nTo: .*;tag=(\S+)\r\n", answer)
    [contact] = re.findall(rb"\r\nContact: <(sip:[^>]*)>", answer)
    bye = (
        b"BYE "
        + contact
        + b" SIP/2.0\r\nVia: SIP/2.0/UDP OWN;rport;branch=z9hG4bKbye\r\nRoute: "
        + b", ".join(routes)
        + b"\r\n"
        b"From: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:bot@127.0.0.1>;tag=" + tag + b"\r\nCall-ID: real@test\r\n"
        b"CSeq: 2 BYE\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
    forged = bye.replace(routes[1], b"<sip:127.0.0.77:5060;lr>").replace(b"z9hG4bKbye", b"z9hG4bKforged")
    assert edge.say(forged, 3.0, "127.0.0.9").startswith(b"SIP/2.0 403"), "it would relay to anybody"
    assert edge.say(bye, 3.0, "127.0.0.9").startswith(b"SIP/2.0 200")


def hep3(packet: bytes) -> dict[int, bytes]:
    """Chunks of HEP3 by their types (https://github.com/sipcapture/HEP, revision 12)."""
    assert packet[:4] == b"HEP3" and int.from_bytes(packet[4:6], "big") == len(packet)
    found, rest = {}, packet[6:]
    while rest:
        vendor, kind, length = (int.from_bytes(rest[at : at + 2], "big") for at in (0, 2, 4))
        assert vendor == 0 and 6 <= length <= len(rest)
        found[kind], rest = rest[6:length], rest[length:]
    return found


@needs_kamailio
def test_homer_gets_every_message_of_a_call(edge: Edge) -> None:
    assert edge.homer is not None
    edge.homer.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while edge.homer.recv(65_535):
            pass
    edge.homer.settimeout(3.0)
    other = invite(sdp(), "ladder").replace(b"sip:bot@127.0.0.1 SIP", b"sip:other@127.0.0.1 SIP")
    assert edge.say(other, 3.0, "127.0.0.1").startswith(b"SIP/2.0 404")
    seen: list[dict[int, bytes]] = []
    while not seen or not (seen[-1][15].startswith(b"SIP/2.0 404") and port_of(seen[-1][7]) == edge.port):
        seen.append(hep3(edge.homer.recv(65_535)))
    of_call = [chunks for chunks in seen if b"Call-ID: ladder@test" in chunks[15]]
    came, went = of_call[0], next(c for c in of_call[1:] if c[15].startswith(b"INVITE"))
    assert came[15].startswith(b"INVITE sip:other@") and came[11] == b"\x01", "SIP"
    assert came[2] == bytes([17]) and came[3] == came[4] == bytes([127, 0, 0, 1]), "UDP, from here to here"
    assert port_of(came[8]) == edge.port and port_of(went[8]) == edge.pod.sip_port
    assert abs(int.from_bytes(came[9], "big") - time.time()) < 60
    assert int.from_bytes(came[12], "big") == 7
    assert b"X-Edge-Source" not in came[15] and b"X-Edge-Source" in went[15], "as it came, and as it went"
    assert not any(chunks[15].startswith(b"OPTIONS") for chunks in seen), "probes are not copied"


def port_of(chunk: bytes) -> int:
    """Network order."""
    return int.from_bytes(chunk, "big")


@needs_kamailio
def test_the_edge_shows_figures(edge: Edge) -> None:
    assert [status_of(edge.health, path) for path in ("/healthz", "/metrics", "/x")] == [200, 200, 404]
    before = figures_of(edge)
    own = {name.partition("{")[0] for name in before if not KAMAILIOS.match(name)}
    assert own == {family.name for family in catalogue.families("edge")}
    [listed] = [family.listed for family in catalogue.families("edge") if family.listed]
    reasons = {name.split('"')[1] for name in before if name.startswith("microturn_proxy_refused_total{")}
    assert reasons == set(listed.split(", "))
    scanner = invite(sdp(), "shown", more=b"User-Agent: sipvicious\r\n")
    assert not edge.say(scanner, 0.3, "127.0.0.66")
    after = figures_of(edge)
    counted = 'microturn_proxy_refused_total{reason="scanner"}'
    assert after[counted] == before[counted] + 1 and after["microturn_proxy_gateways_active"] == 1
    asked = {
        name
        for board in dashboards.BOARDS
        for name in re.findall(r"microturn_proxy_\w+", json.dumps(dashboards.board(board)))
    }
    assert asked <= {name.partition("{")[0] for name in after}, "Kamailio has no such figure"


KAMAILIOS = re.compile(r"microturn_proxy_(core|shmem|tmx|sl|tcp|pike|dns|siptrace)_")
"""By its own names."""


def figures_of(edge: Edge) -> dict[str, float]:
    """With their labels, without their times."""
    with urllib.request.urlopen(f"http://127.0.0.1:{edge.health}/metrics", timeout=2) as answer:
        lines = answer.read().decode().splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines if line and line[0] != "#"}


class Answering:
    """A gateway as the edge sees one: OPTIONS are answered 200, INVITEs as it is told. A thread on loopback."""

    def __init__(self, status: str) -> None:
        self.status, self.invites, self.probes = status, 0, 0
        self.line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.line.bind(("127.0.0.1", 0))
        self.port = self.line.getsockname()[1]
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        while True:
            message, source = self.line.recvfrom(65_535)
            if message == b"end":
                return
            method, _, rest = message.partition(b" ")
            lines = re.findall(rb"\r\n((?:Via|Record-Route|From|To|Call-ID|CSeq):[^\r]*)", rest)
            self.invites += method == b"INVITE"
            self.probes += method == b"OPTIONS"
            status = self.status if method == b"INVITE" else "200 OK"
            head = [b"SIP/2.0 " + status.encode(), *lines, b"Content-Length: 0", b"", b""]
            if method != b"ACK":
                self.line.sendto(b"\r\n".join(head), source)

    def end(self) -> None:
        """Of the thread, too."""
        self.line.sendto(b"end", ("127.0.0.1", self.port))
        self._thread.join()
        self.line.close()


@needs_kamailio
def test_a_gateway_that_is_full_or_drains_is_passed_over(tmp_path: Path) -> None:
    port, health = free_port(), free_port()
    values = f"edge.enabled=true,edge.healthPort={health},edge.probeSeconds=1"
    config = write_edge(tmp_path, render("--set", values))
    patience = 'modparam("tm", "fr_timer", 3000)'
    assert patience in config.read_text()
    config.write_text(config.read_text().replace(patience, patience.replace("3000", "500")))
    full, good = Answering("503 Service Unavailable"), Answering("200 OK")
    try:
        listed = tmp_path / "dispatcher.list"
        listed.write_text("".join(f"1 sip:127.0.0.1:{each.port} 25 0\n" for each in (full, good)))
        with kamailio(tmp_path, config, port, health) as log:
            assert status_of(health, "/readyz") in (0, 503), "nobody has answered OPTIONS yet"
            deadline_s = time.monotonic() + 10
            while not (full.probes and good.probes and status_of(health, "/readyz") == 200):
                assert time.monotonic() < deadline_s, log.read_text(errors="replace")
                time.sleep(0.05)
            edge = Edge(ChartPod.__new__(ChartPod), port, health, log)
            for number in range(4):
                assert edge.say(invite(sdp(), f"over{number}"), 3.0).startswith(b"SIP/2.0 200")
            assert (full.invites > 0, good.invites) == (True, 4)
            good.status = "480 Temporarily Unavailable"
            assert edge.say(invite(sdp(), "capped"), 3.0).startswith(b"SIP/2.0 480"), (
                "an answer, and not ours"
            )
            good.status = full.status
            refused = edge.say(invite(sdp(), "full"), 3.0)
            assert refused.startswith(b"SIP/2.0 503") and b"\r\nRetry-After: " in refused
            good.status = "200 OK"
            full.end()  # it says nothing any more, and the edge finds out
            for number in range(3):
                assert edge.say(invite(sdp(), f"silent{number}"), 3.0).startswith(b"SIP/2.0 200")
    finally:
        good.end()


@needs_kamailio
@pytest.mark.long
def test_a_call_outlives_the_main_process_and_drains_with_its_model_server(
    edge: Edge, tmp_path: Path
) -> None:
    """The last one: the pod is gone then."""
    pod = edge.pod
    assert subprocess.run(pod.model_is_alive, check=False).returncode == 0
    command = [
        sys.executable,
        str(DOCKER / "place_calls.py"),
        f"--sip=sip:bot@127.0.0.1:{edge.port}",
        "--seconds=8",
    ]
    with subprocess.Popen(command, env=pod.gateway_environment, stdout=subprocess.PIPE, text=True) as caller:
        pod.wait_for(lambda: pod.figure("calls_live") == 1, 20.0, "a call")
        os.kill(first := pod.main_pid(), signal.SIGKILL)
        pod.wait_for(
            lambda: pod.main_pid() not in (0, first) and pod.status("/readyz") == 200, 10.0, "another one"
        )
        pod.wait_for(lambda: pod.figure("calls_live") == 1, 5.0, "the call that it had")
        # the pod is to go: the model server's hook, and SIGTERM to the gateway
        with subprocess.Popen(pod.model_waits) as waiting:
            pod.containers["gateway"].terminate()
            pod.wait_for(lambda: pod.status("/readyz") == 503, 5.0, "draining")
            assert caller.poll() is None and waiting.poll() is None
            said, _ = caller.communicate(timeout=20)
            assert json.loads(said.splitlines()[-1]) == {"sip": True}, "heard to its end"
            assert pod.containers["gateway"].wait(15) == 0
            assert waiting.wait(5) == 0, "the model server may go now"
        assert pod.containers["model"].poll() is None


# -- coturn, Redis


@pytest.mark.skipif(not shutil.which("turnserver"), reason="coturn is not installed: apt-get install coturn")
def test_coturn_takes_its_configuration(tmp_path: Path) -> None:
    objects = render("--set", "coturn.enabled=true,coturn.host=turn.example.net")
    with coturn(tmp_path, objects, free_port(), SECRET) as log:
        pass
    told = log.read_text(errors="replace")
    assert not re.search(r"(?i)bad configuration|unknown|wrong|unrecognized", told), told
    assert SECRET not in (tmp_path / "turnserver.conf").read_text() and SECRET not in told


@pytest.mark.redis
@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_redis_takes_its_configuration_and_its_password(tls: bool, tmp_path: Path) -> None:
    wanted = "redis.tls.enabled=true,redis.tls.existingSecret=r" if tls else "redis.storage.enabled=true"
    objects = render("--set", wanted)
    port = free_port()
    if tls:
        certify(tmp_path)
        (tmp_path / "ca.crt").write_bytes((tmp_path / "tls.crt").read_bytes())
    how: dict[str, Any] = {"port": port, "retry": Retry(NoBackoff(), 0)}
    if tls:
        how |= {"ssl": True, "ssl_ca_certs": str(tmp_path / "ca.crt"), "ssl_check_hostname": False}
    with redis_server(tmp_path, objects, port, SECRET, tls=tls) as process:
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(**how).ping()
        server = redis.Redis(password=SECRET, **how)
        assert server.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert server.config_get("appendonly") == {"appendonly": "no" if tls else "yes"}
        server.close()
        if tls:
            with pytest.raises(redis.RedisError):
                redis.Redis(port=port, retry=Retry(NoBackoff(), 0), password=SECRET).ping()
        process.terminate()  # the server itself, not a shell in front of it
        assert process.wait(10) == 0
    assert SECRET not in (tmp_path / "redis.log").read_text(errors="replace")


@pytest.mark.redis
@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")
def test_a_background_worker_of_the_chart_finds_its_redis(tmp_path: Path) -> None:
    port, shown = free_port(), free_port()
    objects = render("--set", f"worker.metricsPort={shown}")
    given = environment(objects, "worker", tmp_path)
    given["MICROTURN_REDIS"] = re.sub(r"//[^/]+/", f"//127.0.0.1:{port}/", given["MICROTURN_REDIS"])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MICROTURN_")}
    argv = [sys.executable, "-m", "gateway", *container(objects, "worker")["args"]]
    with redis_server(tmp_path, objects, port, given["MICROTURN_REDIS_PASSWORD"]):
        worker = subprocess.Popen(
            argv, env=kept | {"PYTHONPATH": str(TREE)} | given, cwd=tmp_path, stdin=subprocess.DEVNULL,
            stderr=(tmp_path / "worker.log").open("wb"),
        )  # fmt: skip
        try:
            deadline_s, text = time.monotonic() + 30, ""
            while "microturn_worker_connected 1.0" not in text:
                assert time.monotonic() < deadline_s, (tmp_path / "worker.log").read_text()[-3_000:]
                time.sleep(0.05)
                with (
                    contextlib.suppress(OSError),
                    urllib.request.urlopen(f"http://127.0.0.1:{shown}/metrics") as page,
                ):
                    text = page.read().decode()
            worker.terminate()
            assert worker.wait(15) == 0
        finally:
            worker.kill()
            worker.wait()


@pytest.mark.long
def test_a_pod_probes_itself_through_its_own_echo(tmp_path: Path) -> None:
    pytest.importorskip("pesq", reason="pip install 'microturn[probe]'")
    wanted = "probe.enabled=true,probe.everySeconds=30,gateway.settings.calls_without_rule=refuse"
    with ChartPod.start(tmp_path, "--set", wanted, replaced={'"/run/': f'"{tmp_path}/'}) as pod:

        def scored() -> bool:
            return 'microturn_probe_pesq_mos{codec="PCMU"}' in pod.get("/metrics")[1]

        pod.wait_for(scored, 60.0, "no score")
        assert pod.figure("probe_calls_total") >= 1 and pod.figure("calls_lost_total") == 0
