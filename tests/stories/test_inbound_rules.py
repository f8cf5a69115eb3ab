"""Rules between real callers and the gateway: sipp and baresip call, and Redis has what became of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.state.records import Cdr, Session, decode
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.gateway.state.conftest import folder, program, server  # noqa: F401
from tests.gateway.state.server import StateServer
from tests.stories.test_baresip_calls import REFUSED_S, Phone, needs_baresip

pytestmark = [pytest.mark.redis, pytest.mark.processes, pytest.mark.sip]

RULES = [
    {"name": "spring", "called": "100", "headers": {"X-Campaign": "/spring.*/"}, "persona": "every 5",
     "tenant": "acme", "recording": True},
    {"called": "/1[0-9]{2}/", "source": "loop", "persona": "count"},
]  # fmt: skip
SETTINGS = {
    "rules": json.dumps(RULES),
    "personas": json.dumps({"echo": "interpret"}),
    "calls_without_rule": "refuse",
    "tenants": json.dumps({"acme": {}}),
    "trunks": json.dumps({"loop": {"hosts": ["127.0.0.1"]}}),
}


def sipp(folder: Path, gateway: GatewayUnderTest, number: str, header: str = "") -> int:  # noqa: F811
    """One call of half a second; sipp's exit status."""
    told = subprocess.run(["sipp", "-sd", "uac"], capture_output=True, text=True, check=False).stdout
    file = folder / f"uac-{number}.xml"
    file.write_text(
        told.replace(
            "Max-Forwards: 70", f"Max-Forwards: 70\n      {header}" if header else "Max-Forwards: 70", 1
        )
    )
    arguments = f"-sf {file} -s {number} -i 127.0.0.1 -mi 127.0.0.1 -m 1 -d 500 -timeout 20"
    return subprocess.run(
        ["sipp", gateway.uri.removeprefix("sip:"), *arguments.split()],
        cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=40, check=False,
    ).returncode  # fmt: skip


@needs_baresip
@pytest.mark.skipif(not shutil.which("sipp"), reason="sipp is not installed: apt-get install sip-tester")
def test_who_calls_what_from_where_and_what_becomes_of_it(server: StateServer, tmp_path: Path) -> None:  # noqa: F811
    phone = Phone(tmp_path)
    wish = GatewayWish(calls=4, settings=SETTINGS | {"redis": server.url}, ready_timeout_s=60.0)
    with GatewayUnderTest.start(wish) as gateway:
        assert sipp(tmp_path, gateway, "100", "X-Campaign: spring sale") == 0
        assert sipp(tmp_path, gateway, "100", "X-Microturn-Persona: forged") == 0
        assert sipp(tmp_path, gateway, "555") != 0
        refused = phone.call(gateway.uri.replace("sip:", "sip:555@"), seconds=REFUSED_S)
        assert "404 No Rule Matches" in refused and "Call established" not in refused
        phone.check_echo(phone.call(gateway.uri.replace("sip:", "sip:echo@")))
        gateway.wait_for(
            lambda m: m["microturn_calls_live"] == 0 and m["microturn_state_buffered"] == 0, 30.0
        )
        assert gateway.metrics()['microturn_admission_refused_total{by="edge",reason="rule"}'] == 2
        hidden = "(not shown: caller_numbers)"
        assert any("no rule matches" in line and hidden in line for line in gateway.lines)
    with server.look() as look:
        kept = [decode(Session, look.get(name) or b"") for name in look.scan_iter("microturn:*:session")]
        cdrs = [decode(Cdr, row) for key in look.scan_iter("microturn:*:cdr") for row in look.hvals(key)]
    kept.sort(key=lambda session: session.began_ms)
    assert [(s.persona, s.called, s.tenant, s.trunk, s.recording) for s in kept] == [
        ("every 5", "100", "acme", "loop", True),
        ("count", "", "", "loop", False),
        ("interpret", "echo", "", "loop", False),
    ]
    assert sorted((cdr.persona, cdr.recording) for cdr in cdrs) == [
        ("count", False), ("every 5", True), ("interpret", False)
    ]  # fmt: skip
