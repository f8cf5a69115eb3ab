"""Sound over IPv6, where the library was built with it (`make pjsip`): calls in and out, and what is refused.

With a library that has none its refusal is what is shown.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from gateway.sip.outbound import OutboundCall
from gateway.sip.pool import Library, ask_library
from tests.stories.test_interop_trunks import placed
from tests.stories.test_who_is_heard import attack
from tests.support.own_gateway import OwnGateway
from tests.support.raw_call import RawCall
from tests.support.sipp import Scenario, needs_sipp, sdp
from tests.support.speaking import SpeakingCall, SpeakingTarget

pytestmark = [pytest.mark.processes, pytest.mark.sip]

CALLER_HZ, PERSON_HZ = 450.0, 1_150.0


@cache
def library() -> Library:
    return ask_library()


@pytest.fixture(scope="module")
def target() -> Iterator[SpeakingTarget]:
    if not library().ipv6:
        pytest.skip(f"pjsua2 {library().version} has no IPv6: make pjsip")
    with SpeakingTarget(sound_host="::1") as started:
        yield started


@pytest.fixture(scope="module")
def gateway(target: SpeakingTarget) -> Iterator[OwnGateway]:
    server = f"127.0.0.1:{target.port}"
    trunks = {
        "six": {"server": server, "dial": "+", "rtp_family": "ipv6"},
        "four": {"server": server, "dial": "+"},
        "lock": {"hosts": ["192.0.2.1"], "rtp_source": "lock"},
        "sdp": {"hosts": ["192.0.2.2"], "rtp_source": "sdp"},
    }
    rules = [{"called": name, "trunk": name} for name in ("lock", "sdp")]
    settings = {"rtp_host6": "::1", "trunks": trunks, "rules": [*rules, {}], "srtp": "optional"}
    with OwnGateway.start(calls=3, rtp_port=50_000, **settings) as started:
        yield started


def soon(holds: Callable[[], object], what: str, timeout_s: float = 6.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


def test_a_library_without_ipv6_is_told_at_the_start() -> None:
    if library().ipv6:
        pytest.skip(f"pjsua2 {library().version} has IPv6")
    with pytest.raises(ValueError, match="built without IPv6: `make pjsip`"):
        OwnGateway.start(rtp_host6="::1").__enter__()


def test_callers_of_both_kinds_talk_at_once(gateway: OwnGateway) -> None:
    with (
        SpeakingCall(gateway.uri, sound_host="::1") as six,
        SpeakingCall(gateway.uri) as four,
    ):
        assert six.audio is not None and four.audio is not None
        assert (six.audio.host, four.audio.host) == ("::1", "127.0.0.1")
        six.voice.say(CALLER_HZ)
        four.voice.say(PERSON_HZ)
        soon(lambda: six.voice.hears(CALLER_HZ), "the echo of the caller by IPv6")
        soon(lambda: four.voice.hears(PERSON_HZ), "the echo of the caller by IPv4")

        # hold, and back; then an offer of the other family, which one call does not change to
        assert six.negotiate("sendonly") == 200
        soon(lambda: not six.voice.levels(CALLER_HZ, time.monotonic_ns() - 200_000_000), "hold")
        assert six.negotiate("sendrecv") == 200
        soon(lambda: six.voice.hears(CALLER_HZ), "and back")
        assert six.negotiate("sendrecv", host="127.0.0.1") == four.negotiate("sendrecv", host="::1") == 488
        six.voice.heard.clear()
        four.voice.heard.clear()
        soon(lambda: six.voice.hears(CALLER_HZ) and four.voice.hears(PERSON_HZ), "both go on")
    gateway.wait_for(lambda: gateway.is_idle, 5.0)


@pytest.mark.parametrize(
    "host", ["::", "::ffff:127.0.0.1", "fe80::1", "fe80::1%lo", "ff02::1", "2001:db8::" + "0:" * 4 + "1"]
)
def test_addresses_that_lead_nowhere_cost_their_own_call_alone(gateway: OwnGateway, host: str) -> None:
    with SpeakingCall(gateway.uri, sound_host="::1") as six:
        six.voice.say(CALLER_HZ)
        other = RawCall(gateway.uri, sound_host="::1")
        with contextlib.closing(other):
            status = other.negotiate("sendrecv", host=host)
            assert status in (200, 400, 488, 500), status
            other.bye()
        six.voice.heard.clear()
        soon(lambda: six.voice.hears(CALLER_HZ), "the call beside it")
    gateway.wait_for(lambda: gateway.is_idle, 5.0)


@pytest.mark.parametrize("policy", ["lock", "sdp", "learn"])
def test_a_stranger_by_ipv6_is_heard_where_sources_are_learned_alone(
    gateway: OwnGateway, policy: str
) -> None:
    caller, stranger = attack(gateway, policy, "::1")
    assert (caller > 15, stranger > 15) == ((False, True) if policy == "learn" else (True, False))
    gateway.wait_for(lambda: gateway.is_idle, 5.0)


def test_we_call_by_ipv6_where_the_trunk_says_so(gateway: OwnGateway, target: SpeakingTarget) -> None:
    name = gateway.do(gateway.switchboard.originate(OutboundCall("+1", "six")))
    gateway.wait_for(lambda: "answered" in gateway.kinds(name))
    assert b"c=IN IP6 ::1" in target.seen("INVITE")[-1].body
    target.voice.say(PERSON_HZ)
    soon(lambda: target.voice.hears(PERSON_HZ), "the echo")
    gateway.do(gateway.switchboard.hang_up(name))
    gateway.wait_for(lambda: gateway.is_idle, 5.0)

    # an offer of ours by IPv4 is not answered by IPv6
    name = gateway.do(gateway.switchboard.originate(OutboundCall("+1", "four")))
    gateway.wait_for(lambda: "failed" in gateway.kinds(name))
    assert b"c=IN IP4 127.0.0.1" in target.seen("INVITE")[-1].body
    gateway.wait_for(lambda: gateway.is_idle, 5.0)


def test_a_person_by_ipv6_joins_a_caller_by_ipv4(gateway: OwnGateway, target: SpeakingTarget) -> None:
    with SpeakingCall(gateway.uri) as caller:
        call = gateway.only_call()
        gateway.do(gateway.switchboard.join(call, OutboundCall("+1", "six", model="listens")))
        gateway.wait_for(lambda: "joined" in gateway.kinds(call))
        caller.voice.say(CALLER_HZ)
        target.voice.say(PERSON_HZ)
        soon(lambda: target.voice.hears(CALLER_HZ) and caller.voice.hears(PERSON_HZ), "each other")
    gateway.wait_for(lambda: gateway.is_idle, 5.0)


@needs_sipp
def test_sipp_calls_by_ipv6_altogether(tmp_path: Path, target: SpeakingTarget) -> None:
    trunk = {"hosts": ["::1"], "rtp_family": "ipv6", "rtp_source": "lock"}
    with OwnGateway.start(
        calls=3, rtp_port=52_000, sip_host="::1", rtp_host6="::1", trunks={"six": trunk}
    ) as own:
        offer = sdp(address="::1").replace("IN IP[media_ip_type] ::1", "IN IP6 ::1")
        call = Scenario().invite(offer).expect(200, "c=IN IP6 ::1", "m=audio [1-9]").ack().pause(300)
        call.invite(offer.replace("sendrecv", "sendonly")).expect(200, "a=recvonly").ack()
        call.invite(offer).expect(200, "a=sendrecv").ack()
        call.say("BYE").expect(200).run(tmp_path, own.port, host="::1")

        # without an offer the trunk says which family we offer
        late = Scenario().invite().expect(200, "c=IN IP6 ::1").ack(offer).pause(300)
        late.say("BYE").expect(200).run(tmp_path, own.port, host="::1")

        four = offer.replace("IN IP6 ::1", "IN IP4 127.0.0.1")
        old = Scenario().invite(four).expect(200, "c=IN IP4 127.0.0.1").ack().pause(200)
        old.say("BYE").expect(200).run(tmp_path, own.port, host="::1")
        log = placed(f"sip:[::1]:{own.port}")
        assert log.status == 200 and len(log.datagrams) > 40
        own.wait_for(lambda: own.is_idle, 5.0)
