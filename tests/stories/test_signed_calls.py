"""Calls with Identity headers (STIR/SHAKEN) at a running gateway: what becomes of them, and what is written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.sip.trunks import Trunk
from gateway.state.records import Cdr, Session, decode
from tests.gateway.state.conftest import folder, program, server  # noqa: F401
from tests.gateway.state.server import StateServer
from tests.support.call_signers import (
    ANNA,
    BERT,
    Authority,
    CertificateServer,
    identity,
    new_key,
    passport,
    pem,
    tn_auth_list,
)
from tests.support.own_gateway import OwnGateway
from tests.support.sipp import Scenario, needs_sipp, sdp

pytestmark = [pytest.mark.redis, pytest.mark.processes, pytest.mark.sip]

HTTPS, ROOT, KEY = Authority("https"), Authority(), new_key()


@contextmanager
def gateway_of(https: CertificateServer, state: str, tmp_path: Path, **settings: Any) -> Iterator[OwnGateway]:
    anchors = tmp_path / "anchors.pem"
    anchors.write_bytes(pem(ROOT.certificate))
    with OwnGateway.start(
        redis=state, stir_anchors=str(anchors), stir_tls_ca=str(https.ca), rtp_port=47_000,
        stir_hosts=(f"localhost:{https.port}", "127.0.0.0/8", "::1/128"), **settings,
    ) as own:  # fmt: skip
        yield own


def call(
    own: OwnGateway, folder: Path, status: int, *headers: str, caller: str = ANNA, **more: str  # noqa: F811
) -> None:  # fmt: skip
    """By sipp, which hangs up at once when it is answered."""
    scenario = Scenario().invite(sdp(), *headers).expect(status).ack()
    if status == 200:
        scenario.say("BYE").expect(200)
    told = [
        step.replace("sipp <sip:sipp@", f"Anna <sip:+{caller}@").replace("sip:bot@", f"sip:+{BERT}@")
        for step in scenario.steps
    ]
    folder.mkdir(exist_ok=True)
    Scenario(told).run(folder, own.port, **more)


def signed(url: str, attest: str = "A", key: object = KEY, age_s: float = 0.0, **options: str) -> str:
    token = passport(key, time.time() - age_s, url=url, attest=attest, **options)  # type: ignore[arg-type]
    return f"Identity: {identity(token, url)}"


@needs_sipp
def test_callers_who_are_verified_and_callers_who_are_not(server: StateServer, tmp_path: Path) -> None:  # noqa: F811
    rules = (
        {"name": "known", "attestation": ("A", "B"), "persona": "every 5"},
        {"name": "forged", "attestation": "failed", "persona": "count"},
    )
    with CertificateServer(HTTPS, tmp_path).serving() as https:
        url = https.put("/a.pem", pem(ROOT.leaf(KEY, tn_auth_list(ANNA))))
        https.slow_s = 0.3
        with gateway_of(https, server.url, tmp_path, rules=rules) as own:
            call(own, tmp_path / "1", 200, signed(url))
            https.slow_s = 3.0
            began_s = time.monotonic()
            call(own, tmp_path / "2", 200, signed(https.put("/b.pem", b"")))
            assert time.monotonic() - began_s < 2.9, "nobody waits for a slow host"
            call(own, tmp_path / "3", 200, signed(url, "C"))
            call(own, tmp_path / "4", 200)
            call(own, tmp_path / "5", 200, signed(url), caller=BERT)
            counters = own.gateway.counters()["stir"]
            assert (counters.verified_a, counters.verified_c, counters.absent) == (1, 1, 1)
            assert (counters.failed_timeout, counters.failed_orig, counters.fetches) == (1, 1, 2)
            assert b'microturn_stir_results_total{result="verified_a"} 1.0' in _metrics(own)
            own.wait_for(lambda: own.gateway.sessions is not None and not list(own.gateway.sessions))
    with server.look() as look:
        kept = [decode(Session, look.get(name) or b"") for name in look.scan_iter("microturn:*:session")]
        cdrs = [decode(Cdr, row) for key in look.scan_iter("microturn:*:cdr") for row in look.hvals(key)]
    kept.sort(key=lambda session: session.began_ms)
    assert [(session.attestation, session.persona) for session in kept] == [
        ("verified A", "every 5"), ("failed timeout", "count"), ("verified C", ""), ("absent", ""),
        ("failed orig", "count"),
    ]  # fmt: skip
    assert sorted(cdr.attestation for cdr in cdrs) == sorted(session.attestation for session in kept)


def _metrics(own: OwnGateway) -> bytes:
    own.gateway.metrics.parts = own.gateway.counters()
    return own.gateway.metrics.text()


@needs_sipp
def test_callers_who_have_to_be_verified(server: StateServer, tmp_path: Path) -> None:  # noqa: F811
    with CertificateServer(HTTPS, tmp_path).serving() as https:
        url = https.put("/a.pem", pem(ROOT.leaf(KEY, tn_auth_list(ANNA))))
        forged = https.put("/forged.pem", pem(Authority().leaf(KEY, tn_auth_list(ANNA))))
        trunks = {"pbx": Trunk(hosts=("127.0.0.2",), stir="off")}
        with gateway_of(https, server.url, tmp_path, stir="require", trunks=trunks) as own:
            call(own, tmp_path / "1", 428)
            call(own, tmp_path / "2", 438, signed(url, key=new_key()))
            call(own, tmp_path / "3", 438, "Identity: garbage")
            call(own, tmp_path / "4", 403, signed(url, age_s=100.0))
            call(own, tmp_path / "5", 437, signed(forged))
            call(own, tmp_path / "6", 436, signed("https://elsewhere.example/a.pem"))
            call(own, tmp_path / "7", 200, signed(url, "B"))
            call(own, tmp_path / "8", 200, "Identity: garbage", host="127.0.0.2", remote="127.0.0.1")
            assert own.gateway.counters()["stir"].refused == 6
            assert own.gateway.telephones.edge.counters.refused_by_hook == 6
            own.wait_for(lambda: own.gateway.sessions is not None and not list(own.gateway.sessions))
    with server.look() as look:
        cdrs = [decode(Cdr, row) for key in look.scan_iter("microturn:*:cdr") for row in look.hvals(key)]
    assert sorted((cdr.trunk, cdr.attestation) for cdr in cdrs) == [("", "verified B"), ("pbx", "")]
