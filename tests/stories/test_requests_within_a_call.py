"""What a PBX does with a call that is up, and what happens to one that falls silent."""

from __future__ import annotations

import time

import pytest

from gateway.link import ORPHAN_S
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.support.raw_call import RawCall

pytestmark = pytest.mark.processes


def test_options_is_answered_and_a_transfer_is_refused(gateway: GatewayUnderTest) -> None:
    with RawCall(gateway.uri) as call:
        assert call.talk(0.5) > 10
        assert call.options() == 200
        assert call.refer("sip:expensive@127.0.0.1") == 603
        assert call.talk(0.5) > 10
        assert call.bye() == 200


def test_a_re_invite_may_change_the_codec(gateway: GatewayUnderTest) -> None:
    with RawCall(gateway.uri) as call:
        assert call.talk(0.5) > 10
        assert call.negotiate("sendrecv", "PCMA", 8) == 200
        assert call.audio is not None and call.audio.codecs[8] == "PCMA"
        call.talk(0.3)
        assert call.talk(1.0) > 40
        assert call.bye() == 200


def test_early_media_comes_before_the_answer_and_silence_ends_the_call() -> None:
    wish = GatewayWish(calls=1, settings={"early_media_ms": "300", "rtp_timeout_s": "2"})
    with GatewayUnderTest.start(wish) as gateway, RawCall(gateway.uri) as call:
        assert 183 in call.provisional()
        assert call.talk(0.5) > 10
        # the caller hangs nothing up, it only falls silent
        gateway.wait_for(lambda m: m["microturn_rtp_timeouts_total"] == 1, timeout_s=10)
        gateway.wait_for(lambda m: m["microturn_calls_live"] == 0 and m["microturn_model_slots_leased"] == 0)


@pytest.mark.long
def test_a_call_on_hold_outlives_its_silence_but_not_for_ever() -> None:
    wish = GatewayWish(calls=1, settings={"rtp_timeout_s": "2", "hold_timeout_s": "5"})
    with GatewayUnderTest.start(wish) as gateway, RawCall(gateway.uri) as call:
        call.talk(0.3)
        assert call.negotiate("inactive") == 200
        held_s = time.monotonic()
        gateway.wait_for(lambda m: m["microturn_rtp_timeouts_total"] == 1, timeout_s=12)
        assert time.monotonic() - held_s > 4.5
        gateway.wait_for(lambda m: m["microturn_calls_live"] == 0 and m["microturn_model_slots_leased"] == 0)


@pytest.mark.long
def test_a_call_on_hold_ends_when_nobody_is_there_any_more_who_could_resume_it() -> None:
    """Its worker leaves then, too."""
    wish = GatewayWish(calls=1, settings={"rtp_timeout_s": "2"})
    with GatewayUnderTest.start(wish) as gateway, RawCall(gateway.uri) as call:
        call.talk(0.3)
        assert call.negotiate("inactive") == 200
        (worker,) = gateway.workers()
        for process in gateway.processes():
            if process.pid != worker.pid:
                process.kill()
        deadline_s = time.monotonic() + 2 + ORPHAN_S + 5
        while worker.alive:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
