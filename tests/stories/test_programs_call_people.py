"""A program has us call somebody, types, presses keys and hangs up, all by `/v1`; sipp answers."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from loadtests.ports import free_port
from tests.stories.test_interop_sipp import picked_up, wait_bound
from tests.support.sipp import kill_started, needs_sipp

pytestmark = [pytest.mark.processes, pytest.mark.sip, pytest.mark.long, needs_sipp]


def ask(url: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """As a program does."""
    request = urllib.request.Request(
        f"{url}/v1{path}",
        json.dumps(body).encode() if body is not None else None,
        {"Content-Type": "application/json"} if body is not None else {},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())


def events(url: str, count: int) -> list[str]:
    """Types of the first so many since the beginning."""
    found: list[str] = []
    with urllib.request.urlopen(f"{url}/v1/events?after=0-0", timeout=10) as stream:
        while len(found) < count:
            line = stream.readline().decode()
            if line.startswith("event: "):
                found.append(line.removeprefix("event: ").strip())
    return found


def wait_for(holds: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_program_calls_somebody_and_hangs_up(tmp_path: Path) -> None:
    port = free_port()
    trunks = {"pbx": {"server": f"127.0.0.1:{port}", "dial": "+", "user": "4930"}}
    settings = {"redis": "auto", "trunks": json.dumps(trunks), "webrtc_calls": "0"}
    with GatewayUnderTest.start(GatewayWish(calls=2, settings=settings)) as gateway:
        url = gateway.http
        running = picked_up().hear("BYE").reply_within(200).start(tmp_path, None, port=port)
        try:
            wait_bound(port)
            for wish, code in (
                ({"to": "+4930123", "trunk": "none"}, "no-such-trunk"),
                ({"to": "0900", "trunk": "pbx"}, "not-allowed"),
            ):
                assert ask(url, "POST", "/calls", wish)[1]["code"] == code
            status, placed = ask(
                url, "POST", "/calls", {"to": "+4930123", "trunk": "pbx", "persona": "count"}
            )
            assert status == 202, placed
            path = f"/calls/{placed['id']}"
            wait_for(lambda: ask(url, "GET", path)[0] == 200)
            call = ask(url, "GET", path)[1]
            assert call["door"] == "sip" and call["placed"] and call["persona"] == "count"
            assert ask(url, "POST", f"{path}/text", {"text": "hello"})[0] == 204
            wait_for(lambda: ask(url, "POST", f"{path}/digits", {"digits": "12#"})[0] == 204)
            assert ask(url, "POST", f"{path}/transfer", {"target": "nobody"})[1]["code"] == "no-such-target"
            both = {"target": "a", "call": placed["id"]}
            for wish, status in (({}, 422), (both, 422), ({"call": "t-" + "0" * 32}, 404)):
                assert ask(url, "POST", f"{path}/transfer", wish)[0] == status
            assert ask(url, "POST", f"{path}/transfer", {"call": placed["id"]})[1]["code"] == "not-answered"
            time.sleep(1.2)  # what the line is like is noted once a second
            assert ask(url, "DELETE", path)[0] == 204
            running.finish()
            wait_for(lambda: len(ask(url, "GET", "/cdrs")[1]["cdrs"]) == 1)
            (cdr,) = ask(url, "GET", "/cdrs")[1]["cdrs"]
            assert cdr["call"] == placed["id"] and cdr["cause"] == "api" and cdr["placed"]
            assert cdr["figures"]["codec"] == "PCMU" and cdr["figures"]["turns"] > 3
            kinds = events(url, 4)
            assert sorted(kinds) == ["call.dialled", "call.ended", "call.ringing", "call.started"]
            assert kinds[-2:] == ["call.started", "call.ended"]
        finally:
            kill_started()
