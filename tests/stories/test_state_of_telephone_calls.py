"""A telephone call of our own, and what a real Redis has of it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from gateway.caller.command import run_call
from gateway.state.records import Cdr, Session, decode
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.gateway.state.conftest import folder, program, server  # noqa: F401
from tests.gateway.state.server import StateServer

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
