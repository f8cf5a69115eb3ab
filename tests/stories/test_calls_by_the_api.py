"""A program makes a call over HTTP, has it recorded, presses keys in it and hands its other end to a person: every
part is real."""

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
from media.rtp import DTMF_DIGITS
from tests.gateway.state.conftest import folder
from tests.gateway.state.server import StateServer, first_program
from tests.stories.test_recordings import done
from tests.stories.test_recordings import settings as recorded_in
from tests.support.referring_call import Target

__all__ = ["folder"]
pytestmark = [pytest.mark.redis, pytest.mark.processes]


def ask(gateway: GatewayUnderTest, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Status and JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if data else {}
    request = urllib.request.Request(f"{gateway.http}/v1{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=5.0) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())


def until(holds: Callable[[], object], timeout_s: float = 8.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "not in time"
        time.sleep(0.02)


def handover(http: str) -> dict[str, Any]:
    """What is told of the first caller who is handed on."""
    asked = urllib.request.Request(f"{http}/v1/events", headers={"Last-Event-ID": "0-0"})
    with urllib.request.urlopen(asked, timeout=8.0) as answer:
        for line in answer:
            if line.startswith(b"data:") and (event := json.loads(line[5:]))["type"] == "call.handover":
                data: dict[str, Any] = event["data"]
                return data
    raise AssertionError("nothing is told")


def pressed(target: Target) -> str:
    """Keys that it heard as telephone events, one for each time stamp."""
    stamps = dict(list(target.events))
    return "".join(DTMF_DIGITS[payload[0]] for _, payload in sorted(stamps.items()))


def test_a_program_calls_somebody_and_hands_him_over(folder: Any, tmp_path: Path) -> None:
    server = StateServer(first_program(), folder)
    try:
        server.start()
        with Target() as target:
            plain = {"server": f"127.0.0.1:{target.port}", "dial": "+"}
            trunks = {"pbx": plain | {"recording": True}, "plain": plain}
            settings = {
                "redis": server.url, "trunks": json.dumps(trunks),
                "transfers": json.dumps({"sales": "sip:200@127.0.0.1:9"}), "events_words": "on",
                **recorded_in(tmp_path),
            }  # fmt: skip
            wish = GatewayWish(calls=2, rtp_port=44_000, settings=settings, ready_timeout_s=60.0)
            with GatewayUnderTest.start(wish) as gateway:
                status, refused = ask(gateway, "POST", "/calls", {"to": "911", "trunk": "pbx"})
                assert (status, refused["code"]) == (403, "not-allowed"), refused
                wanted = {"to": "+49301", "trunk": "plain", "recording": True}
                status, refused = ask(gateway, "POST", "/calls", wanted)
                assert (status, refused["code"]) == (403, "not-recorded"), refused
                target.status = 0  # rings
                _, placed = ask(gateway, "POST", "/calls", {"to": "+49301", "trunk": "pbx"})
                until(lambda: bool(target.seen("INVITE")))
                assert ask(gateway, "DELETE", f"/calls/{placed['id']}")[0] == 204
                until(lambda: bool(target.seen("CANCEL")))
                until(lambda: ask(gateway, "DELETE", f"/calls/{placed['id']}")[0] == 404)
                target.status = 200
                target.requests.clear()
                wanted = {"to": "+49301", "trunk": "pbx", "caller_id": "77", "recording": True}
                status, placed = ask(gateway, "POST", "/calls", wanted)
                assert status == 202, placed
                call = f"/calls/{placed['id']}"
                until(lambda: ask(gateway, "GET", call)[0] == 200)
                assert ask(gateway, "GET", call)[1]["placed"] is True
                assert "<sip:77@127.0.0.1>" in target.seen("INVITE")[0].header("from")
                until(lambda: target.packets > 10)
                assert ask(gateway, "GET", call)[1]["recording"] is True
                until(lambda: ask(gateway, "GET", f"{call}/recording")[1]["state"] == "on")
                assert ask(gateway, "POST", f"{call}/digits", {"digits": "42#"})[0] == 204
                until(lambda: pressed(target) == "42#")
                assert ask(gateway, "POST", f"{call}/text", {"text": "hello"})[0] == 204
                until(lambda: "hello" in json.dumps(ask(gateway, "GET", f"{call}/transcript")[1]))
                assert ask(gateway, "POST", f"{call}/transfer", {"target": "nobody"})[0] == 404
                assert ask(gateway, "POST", f"{call}/transfer", {"target": "sales"})[0] == 202
                until(lambda: "REFER" in target.answered)
                refer = target.seen("REFER")[0]
                assert refer.header("refer-to") == "<sip:200@127.0.0.1:9>"
                assert refer.header("x-microturn-call") == placed["id"]
                handed = handover(gateway.http)
                assert handed["target"] == "sales" and "hello" in [line["text"] for line in handed["lines"]]
                target.hang_up()  # it has taken the call along
                gateway.wait_for(lambda m: m["microturn_calls_live"] == 0)
                until(lambda: ask(gateway, "GET", "/cdrs")[1]["cdrs"])
                (cdr,) = ask(gateway, "GET", "/cdrs")[1]["cdrs"]
                assert (cdr["placed"], cdr["handed_to"], cdr["recording"]) == (True, "sales", True), cdr
                left, right = done(gateway, tmp_path).T
                assert len(cdr["recordings"]) == 1 and len(left) == len(right) > 4_000
        server.check_that_all_ends()
    finally:
        server.stop()
