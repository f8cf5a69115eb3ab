"""The interop matrix: trunks that are known by digest, SRTP by trunk, keys as tones, IPv6."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.codec import find_codec
from gateway.sip.outbound import OutboundCall, Refused
from loadtests.ports import free_port
from media.keys import ToneEar, tones
from tests.stories.test_baresip_calls import Tls, needs_baresip, needs_openssl, tls
from tests.support.baresip_phone import BaresipPhone
from tests.support.own_gateway import OwnGateway
from tests.support.raw_call import RawCall
from tests.support.referring_call import Target
from tests.support.sipp import Scenario, kill_started, needs_sipp, sdp

pytestmark = pytest.mark.processes

__all__ = ["tls"]  # a fixture
PASSWORD = "what-the-carrier-knows"
CRYPTO = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz"
MULAW = find_codec("PCMU")


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with Target() as started:
        yield started


@pytest.fixture(scope="module")
def gateway(target: Target) -> Iterator[OwnGateway]:
    carrier = {"inbound_user": "carrier", "inbound_password": PASSWORD, "srtp": "required"}
    pbx = {"server": f"127.0.0.1:{target.port}", "dial": "+"}
    with OwnGateway.start(
        trunks={"carrier": carrier, "pbx": pbx}, dtmf_in="inband", dtmf_out="inband",
    ) as started:  # fmt: skip
        yield started


@pytest.fixture(autouse=True)
def nothing_is_left(gateway: OwnGateway) -> Iterator[None]:
    yield
    kill_started()
    gateway.wait_for(lambda: gateway.is_idle, 5.0, "idle")


# 127.0.0.1 is the server of a trunk that is known by address; 127.0.0.2 is nobody's


def asked(password: str, body: str, *, algorithm: str = "") -> Scenario:
    """A stranger who is asked who it is, and answers."""
    call = (
        Scenario().invite(body).expect(401, "WWW-Authenticate: Digest", "algorithm=SHA-256", "algorithm=MD5")
    )
    call.steps[-1] = call.steps[-1].replace("<recv ", '<recv auth="true" ')
    call.ack()
    return call.invite(body, f"[authentication username=carrier password={password}]")


@needs_sipp
@pytest.mark.sip
def test_a_carrier_from_anywhere_says_who_it_is(gateway: OwnGateway, tmp_path: Path) -> None:
    call = asked(PASSWORD, sdp(proto="RTP/SAVP", more=CRYPTO)).expect(200, "RTP/SAVP", "a=crypto:1 ").ack()
    call.pause(200).say("BYE").expect(200).run(tmp_path, gateway.port, host="127.0.0.2", remote="127.0.0.1")


@needs_sipp
@pytest.mark.sip
def test_a_wrong_password_is_asked_again(gateway: OwnGateway, tmp_path: Path) -> None:
    call = asked("guess", sdp()).expect(401, "!stale=true").ack()
    call.run(tmp_path, gateway.port, host="127.0.0.2", remote="127.0.0.1")


@needs_sipp
@pytest.mark.sip
def test_srtp_is_required_on_this_trunk_and_refused_on_the_other(gateway: OwnGateway, tmp_path: Path) -> None:
    call = asked(PASSWORD, sdp()).expect(488, "SRTP .SDES. is required").ack()
    call.run(tmp_path, gateway.port, host="127.0.0.2", remote="127.0.0.1")
    secure = Scenario().invite(sdp(proto="RTP/SAVP", more=CRYPTO)).expect(488, "no SRTP").ack()
    secure.run(tmp_path, gateway.port)
    either = Scenario().invite(sdp(more=CRYPTO)).expect(200, "RTP/AVP", "!a=crypto").ack()
    either.say("BYE").expect(200).run(tmp_path, gateway.port)


def test_keys_are_heard_as_tones_by_a_caller_who_sends_nothing_else(gateway: OwnGateway) -> None:
    sound = MULAW.encode(tones("19#", 8000))
    with gateway.watch() as watch, RawCall(gateway.uri) as call:
        call.talk(0.5)
        for start in range(0, len(sound) // 160 * 160, 160):
            call.talk(0.02, sound[start : start + 160])
        watch.look_until(lambda seen: "dtmf #" in seen.heard, lambda: call.talk(0.1), 3.0)
        assert watch.heard == ["dtmf 1", "dtmf 9", "dtmf #"]


def test_keys_that_are_sent_both_ways_are_heard_once(gateway: OwnGateway) -> None:
    with gateway.watch() as watch, RawCall(gateway.uri) as call:
        call.talk(0.5)
        call.press("5")
        watch.look()
        sound = MULAW.encode(tones("5", 8000))
        for start in range(0, len(sound) // 160 * 160, 160):
            call.talk(0.02, sound[start : start + 160])
        watch.look()
        call.talk(0.6)
        watch.look()
        assert watch.heard == ["dtmf 5"]


def test_we_press_keys_as_tones(gateway: OwnGateway, target: Target) -> None:
    target.sound.clear()
    name = gateway.do(gateway.switchboard.originate(OutboundCall("+1", "pbx")))
    gateway.wait_for(lambda: "answered" in gateway.kinds(name))
    gateway.wait_for(lambda: len(target.sound) > 10)
    gateway.press(name, "42")
    before = len(target.sound)
    gateway.wait_for(lambda: len(target.sound) > before + 40)
    gateway.do(gateway.switchboard.hang_up(name))
    heard = MULAW.decode(b"".join(target.sound))
    ear = ToneEar(8000)
    turns = heard[: len(heard) // 1600 * 1600].reshape(-1, 1600)
    assert "".join(ear.listen(np.asarray(turn)) for turn in turns).startswith("42")


def test_keys_that_a_hold_cuts_off_are_told(gateway: OwnGateway) -> None:
    with gateway.watch() as watch, RawCall(gateway.uri) as call:
        call.talk(0.5)
        gateway.press(gateway.only_call(), "12345")
        call.talk(0.3)
        assert call.negotiate("inactive") == 200
        call.talk(0.1)
        assert "on hold" in gateway.press(gateway.only_call(), "6", status=409)
        watch.look_until(lambda seen: "dtmf-failed 6" in seen.heard, lambda: call.talk(0.1), 3.0)
        cut_off = [event for event in watch.heard if event.startswith("dtmf-failed")]
        assert cut_off in (["dtmf-failed 2345", "dtmf-failed 6"], ["dtmf-failed 345", "dtmf-failed 6"])
        assert call.negotiate("sendrecv") == 200
        call.talk(0.2)


def placed(uri: str) -> CallLog:
    """A call of our own caller, a second of silence long."""

    async def place() -> CallLog:
        async with Caller() as caller:
            return await caller.place(CallPlan(uri, "PCMU", np.zeros(8_000, np.int16), 8_000, 1.0))

    return asyncio.run(place())


@needs_sipp
@pytest.mark.sip
def test_sip_over_ipv6_with_sound_over_ipv4(tmp_path: Path) -> None:
    """Where `rtp_host6` is not set, with any library: of sound over IPv6 `test_interop_ipv6` has more."""
    with OwnGateway.start(rtp_port=52_000, sip_host="::1") as gateway:
        call = Scenario().invite(sdp()).expect(200, "c=IN IP4 127.0.0.1", "m=audio [1-9]").ack().pause(300)
        call.say("BYE").expect(200).run(tmp_path, gateway.port, host="::1")
        offer = sdp(address="::1").replace("IN IP[media_ip_type] ::1", "IN IP6 ::1")
        refused = Scenario().invite(offer).expect(488, "Warning: 301 microturn .sound is IPv4 alone").ack()
        refused.run(tmp_path, gateway.port, host="::1")
        assert (placed(f"sip:[::1]:{gateway.port}").status, gateway.is_idle) == (488, True)
        gateway.wait_for(lambda: gateway.is_idle, 5.0)


@needs_baresip
@needs_openssl
@pytest.mark.sip
def test_we_call_by_tls_with_srtp_and_trust_not_everyone(tmp_path: Path, tls: Tls) -> None:
    """baresip shows a certificate that is ours to trust, and one for another name."""
    both = tmp_path / "both.pem"
    both.write_text((tmp_path / "key.pem").read_text() + (tmp_path / "cert.pem").read_text())
    port = free_port(2)
    account = (
        "<sip:phone@127.0.0.1;transport=tls>;regint=0;audio_codecs=pcmu;answermode=auto;mediaenc=srtp-mand"
    )
    pbx = {"server": f"127.0.0.1:{port + 1}", "transport": "tls", "dial": "phone", "srtp": "required"}
    trunks = {"pbx": pbx, "other": pbx | {"domain": "elsewhere.example"}}
    settings = {name: value for name, value in tls.settings.items()}
    with (
        OwnGateway.start(
            rtp_port=52_000, trunks=trunks, sip_tls_ca=str(tmp_path / "cert.pem"), **settings
        ) as gateway,
        BaresipPhone.start(tmp_path / "phone", account, port, both) as phone,
    ):
        name = gateway.do(gateway.switchboard.originate(OutboundCall("phone", "pbx")))
        gateway.wait_for(lambda: "answered" in gateway.kinds(name))
        phone.wait_for(lambda: "CALL_ESTABLISHED" in phone.kinds)
        gateway.press(name, "7")
        phone.wait_for(lambda: "CALL_DTMF_START" in phone.kinds)
        assert "SRTP is Enabled" in phone.told
        phone.do("hangup")
        gateway.wait_for(lambda: gateway.kinds(name)[-1] == "ended")
        refused = gateway.do(gateway.switchboard.originate(OutboundCall("phone", "other")))
        gateway.wait_for(lambda: gateway.kinds(refused)[-1] == "ended")
        assert gateway.last(refused, "failed").why == "unreachable"


@pytest.mark.long
def test_a_worker_that_dies_takes_its_calls_and_says_so(target: Target) -> None:
    trunks = {"pbx": {"server": f"127.0.0.1:{target.port}", "dial": "+"}}
    with OwnGateway.start(rtp_port=52_000, trunks=trunks) as gateway:
        name = gateway.do(gateway.switchboard.originate(OutboundCall("+1", "pbx")))
        gateway.wait_for(lambda: "answered" in gateway.kinds(name))
        (worker,) = gateway.gateway.fleet.ready
        assert worker.child is not None and worker.child.pid
        os.kill(worker.child.pid, signal.SIGKILL)
        gateway.wait_for(lambda: gateway.kinds(name)[-1] == "ended")
        with pytest.raises(Refused, match="no telephone call"):
            gateway.do(gateway.switchboard.hang_up(name))
        gateway.wait_for(lambda: gateway.gateway.is_ready)
        again = gateway.do(gateway.switchboard.originate(OutboundCall("+1", "pbx")))
        gateway.wait_for(lambda: "answered" in gateway.kinds(again))
        gateway.do(gateway.switchboard.hang_up(again))
        gateway.wait_for(lambda: gateway.is_idle)
