"""A caller asks to be transferred (RFC 3515): refused unless configured, else the model goes with it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

from gateway.caller.signals import numbered_tones
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from loadtests.ports import free_port
from tests.stories.test_baresip_calls import CONFIG, MODULES, RATE_HZ, best_match, needs_baresip
from tests.support.raw_call import RawCall
from tests.support.referring_call import ReferringCall, Target

pytestmark = pytest.mark.processes

PLACES = 4
ACTIVE = ("active", "SIP/2.0 100 Trying")


@pytest.fixture(scope="module")
def transferring() -> Iterator[GatewayUnderTest]:
    """Four places: what the smallest build takes in a process."""
    settings = {"refer": "accept", "refer_targets": "127.0.0.1,localhost", "rtp_timeout_s": "3"}
    with GatewayUnderTest.start(GatewayWish(calls=PLACES, rtp_port=44_000, settings=settings)) as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_is_left(transferring: GatewayUnderTest) -> Iterator[None]:
    """Every story ends with no call, no lease, no error and no dead worker."""
    yield
    transferring.wait_for(lambda m: m["microturn_calls_live"] == 0 and m["microturn_model_slots_leased"] == 0)
    now = transferring.metrics()
    assert now["microturn_edge_errors_total"] == now["microturn_edge_calls_lost_total"] == 0
    assert not [line for line in transferring.lines if "callback failed" in line or "Traceback" in line]


@pytest.mark.parametrize(
    ("host", "transport"), [("127.0.0.1", "udp"), ("localhost", "udp"), ("localhost", "tcp")]
)
def test_the_target_takes_the_conversation_over(
    transferring: GatewayUnderTest, host: str, transport: str
) -> None:
    leases = transferring.metrics()["microturn_model_leases_total"]
    with Target() as target, ReferringCall(transferring.uri) as call:
        call.talk(0.5)
        wanted = f"sip:other@{host}:{target.port};transport={transport}"
        assert call.refer(wanted) == 202
        call.talk_until(lambda: call.hung_up)
        assert call.notified[0] == ACTIVE
        assert call.notified[-1][0] == "terminated" and call.notified[-1][1].startswith("SIP/2.0 200")
        (invite,) = target.seen("INVITE")
        assert (target.transports, invite.uri) == ({transport}, wanted)
        assert "refer-" not in f"{invite.headers}" and target.seen("ACK")
        assert invite.body.count(b"\r\nm=") == 1
        before = target.packets
        time.sleep(1.0)
        assert target.packets - before > 40
        now = transferring.metrics()
        assert now["microturn_model_slots_leased"] == 1  # the slot that the caller had
        assert now["microturn_model_leases_total"] == leases + 1
        target.hang_up()
        transferring.wait_for(lambda m: m["microturn_calls_live"] == 0)


@needs_baresip
@pytest.mark.sip
def test_baresip_as_the_target_hears_itself(transferring: GatewayUnderTest, tmp_path: Path) -> None:
    said = numbered_tones(6, RATE_HZ, seed=22)
    soundfile.write(tmp_path / "said.wav", said, RATE_HZ, subtype="PCM_16")
    port = free_port()
    config = CONFIG.format(modules=MODULES, folder=tmp_path).replace("127.0.0.1:0", f"127.0.0.1:{port}")
    (tmp_path / "config").write_text(config)
    (tmp_path / "accounts").write_text("<sip:phone@127.0.0.1>;regint=0;audio_codecs=pcmu;answermode=auto\n")
    (tmp_path / "contacts").touch()
    phone = subprocess.Popen(
        ["baresip", "-f", str(tmp_path), "-t", "6"],
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        with ReferringCall(transferring.uri) as call:
            call.talk(1.5)
            assert call.refer(f"sip:phone@127.0.0.1:{port}") == 202
            call.talk_until(lambda: call.hung_up)
        told = phone.communicate(timeout=20)[0].decode(errors="replace")
    finally:
        phone.kill()
    (recording,) = tmp_path.glob("dump-*-dec.wav")
    heard, _ = soundfile.read(recording, dtype="int16")
    half = RATE_HZ // 2
    matches = [best_match(said[half * at : half * (at + 1)], heard) for at in range(2, 8)]
    assert max(matches) > 0.9, (matches, told)


def test_a_target_that_is_busy_leaves_the_call_as_it_is(transferring: GatewayUnderTest) -> None:
    with Target(486) as target, ReferringCall(transferring.uri) as call:
        call.talk(1.0)
        since_ns = time.monotonic_ns()
        for _ in range(2):  # and again: nothing is pending any more
            call.notified.clear()
            assert call.refer(f"sip:busy@127.0.0.1:{target.port}") == 202
            call.talk_until(lambda: call.is_decided)
            assert call.notified[0] == ACTIVE and call.notified[-1][1].startswith("SIP/2.0 486")
        assert call.talk(1.0) > 45 and not call.hung_up
        assert call.longest_gap_ms(since_ns) < 100
        assert call.bye() == 200


def test_one_transfer_at_a_time_and_not_to_everyone(transferring: GatewayUnderTest) -> None:
    with Target(0) as target, ReferringCall(transferring.uri) as call:
        call.talk(0.3)
        assert call.refer("sip:x@192.0.2.1") == 403
        assert call.refer(f"sips:x@127.0.0.1:{target.port}") == 403
        assert call.refer(f"sip:x@127.0.0.1:{target.port};method=BYE") == 403
        assert call.refer(f"sip:x@127.0.0.1:{target.port}") == 202
        call.talk_until(lambda: bool(target.seen("INVITE")))
        assert call.refer(f"sip:y@127.0.0.1:{target.port}") == 491
        target.answer(603)
        call.talk_until(lambda: call.is_decided)
        assert call.bye() == 200


def test_a_target_that_cannot_be_reached_is_told(transferring: GatewayUnderTest) -> None:
    with socket.socket() as closed, ReferringCall(transferring.uri) as call:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        call.talk(0.3)
        assert call.refer(f"sip:x@127.0.0.1:{closed.getsockname()[1]};transport=tcp") == 202
        call.talk_until(lambda: call.is_decided)
        assert call.notified[-1][1].startswith("SIP/2.0 503")
        assert call.talk(0.5) > 20 and not call.hung_up


@pytest.mark.parametrize("status", [200, 486])
def test_caller_that_leaves_at_once_leaves_the_target_ringing(
    transferring: GatewayUnderTest, status: int
) -> None:
    with Target(0) as target, ReferringCall(transferring.uri) as call:
        call.talk(0.5)
        assert call.refer(f"sip:x@127.0.0.1:{target.port}") == 202
        assert call.bye() == 200
        call.talk(1.0)
        assert transferring.metrics()["microturn_model_slots_leased"] == 1
        target.answer(status)
        if status == 200:
            time.sleep(1.5)
            assert target.packets > 40
            target.hang_up()
        transferring.wait_for(lambda m: m["microturn_calls_live"] == 0)


def test_a_full_worker_transfers_nobody(transferring: GatewayUnderTest) -> None:
    with contextlib.ExitStack() as stack, ReferringCall(transferring.uri) as call:
        for _ in range(PLACES - 1):
            stack.enter_context(RawCall(transferring.uri))
        assert call.refer("sip:x@127.0.0.1:9") == 503
        assert call.talk(0.5) > 20


@pytest.mark.sip
@pytest.mark.skipif(not shutil.which("sipp"), reason="sipp is not installed: apt-get install sip-tester")
@pytest.mark.long
def test_sipp_as_the_target(transferring: GatewayUnderTest, tmp_path: Path) -> None:
    port = free_port()
    sipp = subprocess.Popen(
        ["sipp", "-sn", "uas", "-i", "127.0.0.1", "-p", str(port), "-m", "1", "-timeout", "20"],
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(0.5)
        with ReferringCall(transferring.uri) as call:
            call.talk(0.5)
            assert call.refer(f"sip:sipp@127.0.0.1:{port}") == 202
            call.talk_until(lambda: call.hung_up)
        # sipp sends no sound: the gateway hangs up, and sipp has seen a whole call
        assert sipp.wait(40) == 0
    finally:
        sipp.kill()
