"""A telephone call of our own, and what a real Redis has of it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from gateway.caller.command import run_call
from gateway.sip.outbound import OutboundCall, Refused
from gateway.state.records import Cdr, Session, decode
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.gateway.state.conftest import folder, program, server  # noqa: F401
from tests.gateway.state.server import StateServer
from tests.support.own_gateway import OwnGateway
from tests.support.referring_call import Target

pytestmark = [pytest.mark.redis, pytest.mark.processes]


def test_a_telephone_call_is_written_down(server: StateServer, tmp_path: Path) -> None:  # noqa: F811
    voice = tmp_path / "voice.wav"
    soundfile.write(voice, np.zeros(24_000, np.int16), 8_000)
    wish = GatewayWish(calls=2, settings={"redis": server.url}, ready_timeout_s=60.0)
    with GatewayUnderTest.start(wish) as gateway:
        caller = threading.Thread(target=run_call, args=(gateway.uri, voice, None, 3.0, 1.0, "PCMU", False))
        caller.start()
        gateway.wait_for(lambda m: m["microturn_state_leases"] == 1, 30.0)
        caller.join()
        gateway.wait_for(lambda m: m["microturn_state_leases"] == 0, 30.0)
        gateway.wait_for(lambda m: m["microturn_state_buffered"] == 0, 30.0)
    with server.look() as look:
        (name,) = look.scan_iter("microturn:*:session")
        (record,) = look.scan_iter("microturn:*:cdr")
        session, rows = look.get(name), look.hvals(record)
    assert session is not None and decode(Session, session).door == "sip"
    found: Any = rows
    (cdr,) = [decode(Cdr, row) for row in found]
    assert cdr.ended_ms - cdr.began_ms >= 2_000 and cdr.reason == "over"
    figures = cdr.figures
    assert cdr.cause == "caller" and figures.codec == "PCMU" and 1 <= figures.mos <= 4.5
    assert figures.packets >= 50 and figures.turns >= 8 and figures.played_ms >= 1_000


def test_a_call_of_ours_is_written_down_with_whom_its_other_end_was_handed_to(
    server: StateServer,  # noqa: F811
) -> None:
    with Target() as target:
        acme = {"server": f"127.0.0.1:{target.port}", "dial": "+", "tenant": "acme", "calls": 1}
        with OwnGateway.start(
            redis=server.url,
            trunks={"acme": acme},
            tenants={"acme": {}},
            transfers={"sales": "sip:sales@127.0.0.1:9"},
        ) as gateway:
            wish = OutboundCall("+4930123", "acme", persona="count")
            name = gateway.do(gateway.switchboard.originate(wish))
            gateway.wait_for(lambda: "answered" in gateway.kinds(name))
            with pytest.raises(Refused, match="trunk:acme has as many calls as it may"):
                gateway.do(gateway.switchboard.originate(wish))
            gateway.transfer(name, "sales")  # which is said to be done when the peer hangs up
            gateway.wait_for(lambda: "REFER" in target.answered)
            target.hang_up()
            gateway.wait_for(lambda: gateway.kinds(name)[-2:] == ["transferred", "ended"])
            sessions = gateway.gateway.sessions
            assert sessions is not None
            gateway.wait_for(lambda: not sessions.store.gauges()["state_leases"])
            again = gateway.do(gateway.switchboard.originate(wish))  # there is room again
            gateway.do(gateway.switchboard.hang_up(again))
            gateway.wait_for(lambda: gateway.kinds(again)[-1] == "ended")
            gateway.wait_for(lambda: not sessions.store.gauges()["state_buffered"])
    with server.look() as look:
        session = look.get(f"microturn:{{{name}}}:session")
        found: Any = look.hvals(f"microturn:{{{name}}}:cdr")
    assert session is not None
    kept = decode(Session, session)
    assert (kept.placed, kept.tenant, kept.trunk, kept.persona) == (True, "acme", "acme", "count")
    assert kept.caller and "4930123" not in session.decode()
    (cdr,) = [decode(Cdr, row) for row in found]
    assert (cdr.placed, cdr.handed_to, cdr.reason) == (True, "sales", "over") and cdr.ended_ms
