"""A program has a person join a caller and the model, over HTTP, with records, events and a recording of it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.gateway.state.conftest import folder
from tests.gateway.state.server import StateServer, first_program
from tests.stories.test_calls_by_the_api import ask, until
from tests.stories.test_programs_call_people import events
from tests.stories.test_recordings import done
from tests.stories.test_recordings import settings as recorded_in
from tests.support.speaking import LOUD, SpeakingCall, SpeakingTarget, level

__all__ = ["folder"]
pytestmark = [pytest.mark.redis, pytest.mark.processes, pytest.mark.sip, pytest.mark.long]
CALLER_HZ, PERSON_HZ = 450.0, 1_150.0


def loudest(side: Iterable[int], hz: float) -> float:
    """In any 20 ms of one side of a recording."""
    pcm = np.fromiter(side, np.int16)
    return max(level(pcm[at : at + 160], hz) for at in range(0, len(pcm) - 160, 160))


def test_a_person_joins_by_the_api_and_leaves_by_it(folder: Any, tmp_path: Path) -> None:
    server = StateServer(first_program(), folder)
    try:
        server.start()
        with SpeakingTarget() as person:
            trunk = {
                "server": f"127.0.0.1:{person.port}",
                "dial": "+",
                "prices": {"+": 0.1},
                "spend_day": 1.0,
            }
            settings = {"redis": server.url, "trunks": json.dumps({"pbx": trunk}), **recorded_in(tmp_path)}
            wish = GatewayWish(calls=2, settings=settings, ready_timeout_s=60.0)
            with GatewayUnderTest.start(wish) as gateway:
                with SpeakingCall(gateway.uri.replace("sip:", "sip:100@")) as caller:
                    until(lambda: ask(gateway, "GET", "/calls")[1]["calls"])
                    call = f"/calls/{ask(gateway, 'GET', '/calls')[1]['calls'][0]['id']}"
                    name = call.removeprefix("/calls/")
                    for body, status, code in (
                        ({"to": "0900", "trunk": "pbx"}, 403, "not-allowed"),
                        ({"to": "+1", "trunk": "none"}, 404, "no-such-trunk"),
                        ({"to": "+1", "trunk": "pbx", "minutes": 11}, 402, "spend-cap"),
                        ({"to": "+1", "trunk": "pbx", "model": "sings"}, 422, "wrong-value"),
                    ):
                        answer = ask(gateway, "POST", f"{call}/join", body)
                        assert (answer[0], answer[1]["code"]) == (status, code), answer
                    assert ask(gateway, "DELETE", f"{call}/join")[0] == 409
                    wanted = {"to": "+1", "trunk": "pbx", "model": "listens", "minutes": 5}
                    status, placed = ask(gateway, "POST", f"{call}/join", wanted)
                    assert status == 202, placed
                    assert ask(gateway, "POST", f"{call}/join", wanted | {"minutes": 1})[0] == 409
                    guest = f"/calls/{placed['id']}"
                    until(lambda: ask(gateway, "GET", guest)[0] == 200)
                    told = ask(gateway, "GET", guest)[1]
                    assert told["joined"] == name and told["placed"], told
                    assert ask(gateway, "POST", f"{guest}/text", {"text": "hello"})[1]["code"] == "joined"
                    caller.voice.say(CALLER_HZ)
                    person.voice.say(PERSON_HZ)
                    until(lambda: person.voice.hears(CALLER_HZ) and caller.voice.hears(PERSON_HZ))
                    time.sleep(0.5)  # of the recording
                    person.voice.say(0)
                    caller.voice.say(0)
                    time.sleep(0.5)
                    byes = len(person.seen("BYE"))
                    assert ask(gateway, "DELETE", f"{call}/join")[0] == 204
                    until(lambda: len(person.seen("BYE")) > byes)
                    until(lambda: ask(gateway, "GET", guest)[1]["state"] == "over")
                    assert ask(gateway, "GET", call)[1]["state"] == "live"
                until(lambda: len(ask(gateway, "GET", "/cdrs")[1]["cdrs"]) == 2)
                mine, other = sorted(ask(gateway, "GET", "/cdrs")[1]["cdrs"], key=lambda cdr: cdr["ended_ms"])
                assert (mine["call"], mine["joined"], mine["cause"]) == (placed["id"], name, "api")
                assert mine["figures"]["codec"] == "PCMU" and "joined" not in other
                assert mine["figures"]["mos"] > 3 and mine["figures"].get("concealed_ms", 0) < 500
                seconds = math.ceil((mine["ended_ms"] - mine["began_ms"]) / 1_000)
                assert mine["price_minute"] == 0.1 and mine["cost"] == mine["trunk_cost"]
                assert mine["trunk_cost"] == pytest.approx(0.1 * seconds / 60, abs=1e-6)
                assert not other["trunk_cost"], "nobody was called for it"
                kinds = events(gateway.http, 11)
                assert {"call.dialled", "call.ringing", "call.joined", "call.left"} <= set(kinds), kinds
                left, right = done(gateway, tmp_path).T
                assert loudest(left, CALLER_HZ) > LOUD / 2 and loudest(left, PERSON_HZ) > LOUD / 2
                assert loudest(right, PERSON_HZ) < LOUD / 20, "the model listened"
        server.check_that_all_ends()
    finally:
        server.stop()


def test_the_main_process_dies_and_the_three_go_on(folder: Any) -> None:
    server = StateServer(first_program(), folder)
    try:
        server.start()
        with SpeakingTarget() as person:
            trunk = {"server": f"127.0.0.1:{person.port}", "dial": "+", "prices": {"+": 6.0}}
            settings = {"redis": server.url, "trunks": json.dumps({"pbx": trunk})}
            wish = GatewayWish(calls=2, settings=settings, ready_timeout_s=60.0)
            with GatewayUnderTest.start(wish) as gateway, SpeakingCall(gateway.uri) as caller:
                until(lambda: ask(gateway, "GET", "/calls")[1]["calls"])
                name = ask(gateway, "GET", "/calls")[1]["calls"][0]["id"]
                wanted = {"to": "+1", "trunk": "pbx", "model": "listens"}
                status, placed = ask(gateway, "POST", f"/calls/{name}/join", wanted)
                assert status == 202, placed
                until(lambda: ask(gateway, "GET", f"/calls/{placed['id']}")[0] == 200)
                caller.voice.say(CALLER_HZ)
                person.voice.say(PERSON_HZ)
                until(lambda: person.voice.hears(CALLER_HZ) and caller.voice.hears(PERSON_HZ))
                began_ns = time.monotonic_ns()
                victim = gateway.only("gateway")
                victim.kill()
                gateway.successor(victim)
                gateway.wait_for(lambda m: m.get("microturn_edge_calls_adopted_total") == 2, 20.0)
                heard = (caller.voice.levels(PERSON_HZ, began_ns), person.voice.levels(CALLER_HZ, began_ns))
                assert all(min(levels) > LOUD / 2 for levels in heard), "a gap"
                assert ask(gateway, "POST", f"/calls/{name}/join", wanted)[0] in (409, 503)
                byes = len(person.seen("BYE"))
                assert ask(gateway, "DELETE", f"/calls/{name}/join")[0] == 204
                until(lambda: len(person.seen("BYE")) > byes)
                until(lambda: caller.voice.hears(CALLER_HZ), 10.0)  # the model speaks again
                until(lambda: ask(gateway, "GET", "/cdrs")[1]["cdrs"])
                (cdr,) = ask(gateway, "GET", "/cdrs")[1]["cdrs"]
                assert (cdr["call"], cdr["joined"], cdr["cause"]) == (placed["id"], name, "api")
                assert cdr["price_minute"] == 6.0 and cdr["trunk_cost"] >= 0.1, (
                    "as before the main process died"
                )
        server.check_that_all_ends()
    finally:
        server.stop()
