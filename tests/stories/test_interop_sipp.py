"""The interop matrix, rows with sipp: one line of `HELD` or one test is a row, and passes or says what differs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.sip.outbound import OutboundCall, Refused
from loadtests.ports import free_port
from tests.support.own_gateway import OwnGateway
from tests.support.sipp import Scenario, kill_started, may_play, needs_sipp, sdp
from tests.support.table_watch import TableWatch

pytestmark = [pytest.mark.processes, pytest.mark.sip, needs_sipp]

SALES = "sip:sales@127.0.0.1:9"


@pytest.fixture(scope="module")
def port() -> int:
    """Where sipp waits to be called."""
    return free_port()


@pytest.fixture(scope="module")
def gateway(port: int) -> Iterator[OwnGateway]:
    pbx = {"server": f"127.0.0.1:{port}", "dial": "+", "user": "4930"}
    trunks = {"pbx": pbx, "timed": pbx | {"session_expires_s": 90, "codecs": "PCMA"}}
    with OwnGateway.start(transfers={"sales": SALES}, trunks=trunks) as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_is_left(gateway: OwnGateway) -> Iterator[None]:
    yield
    kill_started()
    gateway.wait_for(lambda: gateway.is_idle, 5.0, "idle")
    counters = gateway.gateway.telephones.edge.counters
    assert (counters.errors, counters.calls_lost) == (0, 0)


@pytest.fixture
def watch(gateway: OwnGateway) -> Iterator[TableWatch]:
    with gateway.watch() as opened:
        yield opened


def answered(body: str = sdp()) -> Scenario:
    """A call that is up."""
    return Scenario().invite(body).expect(200, "m=audio").ack()


def ended(call: Scenario) -> Scenario:
    return call.say("BYE").expect(200)


def run_watched(call: Scenario, folder: Path, port: int, watch: TableWatch) -> None:
    """What the model is told lies in its slot for some turns only."""
    running = call.start(folder, port)
    while running.process.poll() is None:
        watch.look()
        time.sleep(0.03)
    running.finish()
    watch.look()


# -- hold, and offers within a call (RFC 3264 6.1, 8.4)

HELD = {
    "sendonly": (sdp(direction="sendonly", version=2), ["a=recvonly", "!a=sendrecv"]),
    "inactive": (sdp(direction="inactive", version=2), ["a=inactive"]),
    "recvonly": (sdp(direction="recvonly", version=2), ["a=sendonly"]),
    "sendonly above the media line": (
        sdp(direction="", session="sendonly", version=2), ["a=recvonly", "!a=sendrecv"],
    ),
    "inactive above the media line": (sdp(direction="", session="inactive", version=2), ["a=inactive"]),
    "0.0.0.0 (RFC 2543)": (sdp(address="0.0.0.0", version=2), ["m=audio [1-9]"]),
    "0.0.0.0 and inactive": (sdp(direction="inactive", address="0.0.0.0", version=2), ["a=inactive"]),
}  # fmt: skip


@pytest.mark.parametrize("way", list(HELD))
def test_held_and_resumed(gateway: OwnGateway, watch: TableWatch, tmp_path: Path, way: str) -> None:
    offer, patterns = HELD[way]
    call = answered().pause(300).invite(offer).expect(200, *patterns).ack().pause(300)
    call.invite(sdp(version=3)).expect(200, "m=audio [1-9]", "!a=recvonly", "!a=inactive").ack().pause(600)
    run_watched(ended(call), tmp_path, gateway.port, watch)
    expected = [] if way == "recvonly" else ["hold", "resume"]  # who only listens is still talked to
    assert watch.heard == expected


def test_held_from_the_beginning(gateway: OwnGateway, watch: TableWatch, tmp_path: Path) -> None:
    call = Scenario().invite(sdp(direction="sendonly")).expect(200, "a=recvonly").ack().pause(600)
    call.invite(sdp(version=2)).expect(200, "a=sendrecv").ack().pause(500)
    run_watched(ended(call), tmp_path, gateway.port, watch)
    assert watch.heard == ["hold", "resume"]


def test_held_twice_is_held_once(gateway: OwnGateway, watch: TableWatch, tmp_path: Path) -> None:
    call = answered().pause(400)
    for version in (2, 3):
        call.invite(sdp(direction="sendonly", version=version)).expect(200, "a=recvonly").ack().pause(300)
    call.say("UPDATE", sdp(version=4)).expect(200, "a=sendrecv").pause(600)
    run_watched(ended(call), tmp_path, gateway.port, watch)
    assert watch.heard == ["hold", "resume"]


def test_late_offer_and_late_offer_within_the_call(gateway: OwnGateway, tmp_path: Path) -> None:
    call = Scenario().invite().expect(200, "m=audio [1-9].* 0 ", "telephone-event", "!m=text").ack(sdp())
    call.pause(300).invite().expect(200, "m=audio [1-9].* 0 ").ack(sdp(version=2)).pause(300)
    ended(call).run(tmp_path, gateway.port)


def test_hold_by_a_late_offer(gateway: OwnGateway, watch: TableWatch, tmp_path: Path) -> None:
    call = answered().pause(400).invite().expect(200, "m=audio").ack(sdp(direction="inactive", version=2))
    call.pause(400).invite().expect(200, "m=audio", "!a=inactive").ack(sdp(version=3)).pause(600)
    run_watched(ended(call), tmp_path, gateway.port, watch)
    assert watch.heard == ["hold", "resume"]


def test_codec_changes_and_comes_back(gateway: OwnGateway, tmp_path: Path) -> None:
    call = answered(sdp("0 8 101")).pause(200)
    call.invite(sdp("8 101", version=2)).expect(200, "m=audio [1-9][0-9]* RTP/AVP 8 ", "!RTP/AVP 0").ack()
    call.pause(300).invite(sdp("0 101", version=3)).expect(200, "m=audio [1-9][0-9]* RTP/AVP 0 ").ack()
    ended(call.pause(200)).run(tmp_path, gateway.port)


def test_an_offer_that_nobody_can_take_leaves_the_call_as_it_is(gateway: OwnGateway, tmp_path: Path) -> None:
    call = answered().pause(200).invite(sdp("3", version=2)).expect(488).ack()
    call.say("OPTIONS").expect(200)
    ended(call.invite(sdp(version=3)).expect(200, "a=sendrecv").ack().pause(200)).run(tmp_path, gateway.port)


def test_fax_is_refused_and_the_call_goes_on(gateway: OwnGateway, tmp_path: Path) -> None:
    fax = sdp(version=2).split("m=audio")[0] + "m=image 6000 udptl t38\na=T38FaxVersion:0\n"
    call = answered().pause(200).invite(fax).expect(488).ack()
    ended(call.say("OPTIONS").expect(200).pause(200)).run(tmp_path, gateway.port)


def test_sound_that_is_taken_away_is_refused_and_the_call_goes_on(
    gateway: OwnGateway, tmp_path: Path
) -> None:
    """What differs: RFC 3264 8.2 would have port 0 answered with port 0; the library says 488."""
    off = sdp(version=2).replace("m=audio [media_port]", "m=audio 0")
    call = answered().pause(200).invite(off).expect(488).ack().say("OPTIONS").expect(200)
    ended(call).run(tmp_path, gateway.port)


def test_video_beside_audio_is_refused_and_audio_taken(gateway: OwnGateway, tmp_path: Path) -> None:
    video = "m=video 6000 RTP/AVP 96\na=rtpmap:96 VP8/90000"
    call = Scenario().invite(sdp(more=video)).expect(200, "m=audio [1-9]", "m=video 0 ").ack().pause(200)
    ended(call).run(tmp_path, gateway.port)


# -- session timers (RFC 4028)


def test_session_timer_is_as_the_caller_has_it(gateway: OwnGateway, tmp_path: Path) -> None:
    timer = ("Supported: timer", "Session-Expires: 120;refresher=uac")
    call = (
        Scenario().invite(sdp(), *timer).expect(200, "Session-Expires: *120;refresher=uac", "Require:.*timer")
    )
    call.ack().pause(100).say("UPDATE", "", *timer).expect(200, "Session-Expires: *120")
    ended(call).run(tmp_path, gateway.port)


def test_session_timer_that_is_too_short_is_422(gateway: OwnGateway, tmp_path: Path) -> None:
    timer = ("Supported: timer", "Session-Expires: 30")
    Scenario().invite(sdp(), *timer).expect(422, "Min-SE: *90").ack().run(tmp_path, gateway.port)


def test_no_session_timer_without_being_asked(gateway: OwnGateway, tmp_path: Path) -> None:
    ended(Scenario().invite(sdp()).expect(200, "!Session-Expires").ack()).run(tmp_path, gateway.port)


# -- keys


@pytest.mark.parametrize(
    ("kind", "bodies"),
    [
        ("application/dtmf-relay", ["Signal=1\nDuration=100", "Signal= *\nDuration= 250", "Signal=11"]),
        ("application/dtmf", ["1", "*", "11"]),
    ],
)
def test_keys_by_info(
    gateway: OwnGateway, watch: TableWatch, tmp_path: Path, kind: str, bodies: list[str]
) -> None:
    call = answered().pause(400)
    for body in bodies:
        call.say("INFO", body, kind=kind).expect(200)
    run_watched(ended(call.pause(500)), tmp_path, gateway.port, watch)
    assert watch.heard == ["dtmf 1", "dtmf *", "dtmf #"]


@pytest.mark.skipif(not may_play(), reason="sipp plays RTP for root alone")
def test_keys_by_rfc_4733(gateway: OwnGateway, watch: TableWatch, tmp_path: Path) -> None:
    """sipp's own recordings of a telephone that pressed 1, 5 and #."""
    call = Scenario().invite(sdp()).expect(200, "telephone-event").ack().pause(400)
    for key in ("1", "5", "pound"):
        call.play(f"dtmf_2833_{key}.pcap").pause(450)
    run_watched(ended(call), tmp_path, gateway.port, watch)
    assert watch.heard == ["dtmf 1", "dtmf 5", "dtmf #"]


# -- transfers


def test_refer_of_a_caller_is_refused_and_the_call_goes_on(gateway: OwnGateway, tmp_path: Path) -> None:
    call = answered().pause(100).say("REFER", "", "Refer-To: <sip:premium@192.0.2.1>").expect(603)
    ended(call.say("OPTIONS").expect(200)).run(tmp_path, gateway.port)


def notify(call: Scenario, line: str, state: str) -> Scenario:
    headers = ("Event: refer", f"Subscription-State: {state}")
    return call.say("NOTIFY", f"SIP/2.0 {line}\n", *headers, kind="message/sipfrag;version=2.0").expect(200)


def referred() -> Scenario:
    """A call that is asked to call sales."""
    call = answered().hear("REFER", "Refer-To: <sip:sales@127.0.0.1:9>", "X-Microturn-Call: t-[0-9a-f]{32}")
    return call.reply_within(202)


def test_a_caller_is_handed_to_a_person(gateway: OwnGateway, tmp_path: Path) -> None:
    call = notify(
        notify(referred(), "100 Trying", "active;expires=60"), "200 OK", "terminated;reason=noresource"
    )
    running = call.hear("BYE").reply_within(200).start(tmp_path, gateway.port)
    name = gateway.only_call()
    gateway.transfer(name, "sales")
    running.finish()
    gateway.wait_for(lambda: gateway.kinds(name) == ["transferring", "transferred", "ended"])
    assert gateway.last(name, "transferred").target == "sales"


def test_the_model_hands_a_caller_over_with_what_was_said(gateway: OwnGateway, tmp_path: Path) -> None:
    call = answered().pause(300).say("INFO", "7", kind="application/dtmf").expect(200).pause(900)
    call.say("INFO", "A", kind="application/dtmf").expect(200)  # with the echo engine: transfer
    call.hear("REFER", "Refer-To: <sip:sales@127.0.0.1:9>", "X-Microturn-Said: model: *dtmf *7")
    notify(call.reply_within(202), "200 OK", "terminated;reason=noresource").hear("BYE").reply_within(200)
    running = call.start(tmp_path, gateway.port)
    name = gateway.only_call()
    running.finish()
    gateway.wait_for(lambda: gateway.kinds(name) == ["transferring", "transferred", "ended"])


def test_the_model_presses_keys_and_hangs_up(gateway: OwnGateway, tmp_path: Path) -> None:
    call = answered(sdp("0")).pause(300).say("INFO", "B", kind="application/dtmf").expect(200)
    call.hear("INFO", "Signal=5").reply_within(200)
    call.say("INFO", "D", kind="application/dtmf").expect(200).hear("BYE").reply_within(200)
    call.run(tmp_path, gateway.port)


@pytest.mark.parametrize(("line", "why"), [("486 Busy Here", "busy"), ("603 Decline", "rejected")])
def test_whom_nobody_answers_comes_back_to_the_model(
    gateway: OwnGateway, watch: TableWatch, tmp_path: Path, line: str, why: str
) -> None:
    call = notify(notify(referred(), "100 Trying", "active;expires=60"), line, "terminated;reason=noresource")
    running = ended(call.pause(500)).start(tmp_path, gateway.port)
    name = gateway.only_call()
    gateway.transfer(name, "sales")
    expected = f"transfer failed {line[:3]}"
    assert watch.look_until(lambda seen: expected in seen.heard, lambda: None, 5.0)
    running.finish()
    gateway.wait_for(lambda: gateway.kinds(name) == ["transferring", "transfer-failed"])
    assert gateway.last(name, "transfer-failed").why == why


def test_a_peer_that_takes_no_refer(gateway: OwnGateway, watch: TableWatch, tmp_path: Path) -> None:
    call = answered().hear("REFER").reply_within(405).pause(500)
    running = ended(call).start(tmp_path, gateway.port)
    name = gateway.only_call()
    gateway.transfer(name, "sales")
    assert watch.look_until(lambda seen: "transfer failed 405" in seen.heard, lambda: None, 5.0)
    running.finish()


def test_a_peer_that_leaves_with_the_caller(gateway: OwnGateway, tmp_path: Path) -> None:
    """No NOTIFY, as many carriers do: the BYE says that it went well."""
    running = ended(referred().pause(100)).start(tmp_path, gateway.port)
    name = gateway.only_call()
    gateway.transfer(name, "sales")
    with pytest.raises(Refused, match="not among the transfers"):
        gateway.do(gateway.switchboard.transfer(name, "premium"))
    running.finish()
    gateway.wait_for(lambda: gateway.kinds(name) == ["transferring", "transferred", "ended"])


@pytest.mark.parametrize("by", ["the caller", "us"])
def test_a_call_that_ends_before_its_transfer_was_taken_is_not_transferred(
    gateway: OwnGateway, tmp_path: Path, by: str
) -> None:
    call = answered().hear("REFER")
    call = ended(call) if by == "the caller" else call.reply_within(202).hear("BYE").reply_within(200)
    running = call.start(tmp_path, gateway.port)
    name = gateway.only_call()
    gateway.transfer(name, "sales")
    if by == "us":
        gateway.do(gateway.switchboard.hang_up(name))
    running.finish()
    gateway.wait_for(lambda: gateway.kinds(name) == ["transferring", "transfer-failed"])
    assert gateway.last(name, "transfer-failed").why == "cancelled"


# -- calls of ours


def ringing(call: Scenario | None = None) -> Scenario:
    """Somebody is called, and it rings."""
    return (call or Scenario()).hear("INVITE", "INVITE sip:.4930123@127.0.0.1").reply(100).reply(180)


def picked_up(body: str = sdp()) -> Scenario:
    """And answered."""
    return ringing().reply(200, body).hear("ACK")


def place(gateway: OwnGateway, **more: Any) -> str:
    wish = OutboundCall(**({"to": "+4930123", "trunk": "pbx"} | more))
    return gateway.do(gateway.switchboard.originate(wish))


def wait_bound(port: int) -> None:
    """Until sipp listens."""
    line = f":{port:04X} "
    for _ in range(500):
        if line in Path("/proc/net/udp").read_text():
            return
        time.sleep(0.01)
    raise TimeoutError("sipp does not listen")


def test_we_call_somebody_who_answers_and_hangs_up(gateway: OwnGateway, port: int, tmp_path: Path) -> None:
    call = Scenario().hear(
        "INVITE", 'From: "Hotline" <sip:77@127.0.0.1>', "m=audio [1-9]", "!Session-Expires"
    )
    call.reply(180).reply(200, sdp()).hear("ACK").pause(500)
    call.cseq = 1  # within the call
    running = call.hang_up().expect(200).start(tmp_path, None, port=port)
    wait_bound(port)
    name = place(gateway, caller_id="77", caller_name="Hotline", persona="count")
    running.finish()
    gateway.wait_for(lambda: gateway.kinds(name) == ["dialled", "ringing", "answered", "ended"])


def test_we_hang_up(gateway: OwnGateway, port: int, tmp_path: Path) -> None:
    running = picked_up().hear("BYE").reply_within(200).start(tmp_path, None, port=port)
    wait_bound(port)
    name = place(gateway)
    gateway.wait_for(lambda: "answered" in gateway.kinds(name))
    gateway.do(gateway.switchboard.hang_up(name))
    running.finish()
    with pytest.raises(Refused, match="no telephone call"):
        gateway.do(gateway.switchboard.hang_up(name))


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (486, "busy"),
        (404, "not-found"),
        (603, "rejected"),
        (503, "unreachable"),
        (403, "forbidden"),
        (488, "not-acceptable"),
    ],
)
def test_nobody_answers_and_why(
    gateway: OwnGateway, port: int, tmp_path: Path, status: int, why: str
) -> None:
    running = Scenario().hear("INVITE").reply(100).reply(status).hear("ACK").start(tmp_path, None, port=port)
    wait_bound(port)
    name = place(gateway)
    running.finish()
    gateway.wait_for(lambda: gateway.kinds(name) == ["dialled", "failed", "ended"])
    failed = gateway.last(name, "failed")
    assert (failed.status, failed.why) == (status, why)


@pytest.mark.parametrize(("rings", "why"), [(True, "no-answer"), (False, "no-ringing")])
def test_we_do_not_wait_for_ever(
    gateway: OwnGateway, port: int, tmp_path: Path, rings: bool, why: str
) -> None:
    call = ringing() if rings else Scenario().hear("INVITE").reply(100)
    call.cancelled()
    running = call.start(tmp_path, None, port=port)
    wait_bound(port)
    name = place(gateway, answer_s=1.0) if rings else place(gateway, ring_s=1.0)
    running.finish()
    gateway.wait_for(lambda: gateway.kinds(name)[-1:] == ["ended"])
    assert gateway.last(name, "failed").why == why


def test_a_trunk_with_a_session_timer_and_one_codec(gateway: OwnGateway, port: int, tmp_path: Path) -> None:
    call = Scenario().hear("INVITE", "Session-Expires: *90", "m=audio [0-9]* RTP/AVP 8 1[0-9]*")
    call.reply(200, sdp("8 101")).hear("ACK").hear("BYE").reply_within(200)
    running = call.start(tmp_path, None, port=port)
    wait_bound(port)
    name = place(gateway, trunk="timed")
    gateway.wait_for(lambda: "answered" in gateway.kinds(name))
    gateway.do(gateway.switchboard.hang_up(name))
    running.finish()


def test_keys_to_a_peer_without_telephone_events_go_by_info(
    gateway: OwnGateway, port: int, tmp_path: Path
) -> None:
    call = picked_up(sdp("0"))
    for key in "4#":
        call.hear("INFO", "application/dtmf-relay", f"Signal={key}").reply_within(200)
    running = call.hear("BYE").reply_within(200).start(tmp_path, None, port=port)
    wait_bound(port)
    name = place(gateway)
    gateway.wait_for(lambda: "answered" in gateway.kinds(name))
    gateway.press(name, "4#")
    gateway.do(gateway.switchboard.hang_up(name))
    running.finish()


def test_a_caller_is_handed_to_whom_we_asked_first(gateway: OwnGateway, port: int, tmp_path: Path) -> None:
    """Attended: whom we called is replaced in our call by the caller (RFC 3891)."""
    asked = picked_up().hear("BYE").reply_within(200).start(tmp_path, None, port=port)
    wait_bound(port)
    other = place(gateway)
    gateway.wait_for(lambda: "answered" in gateway.kinds(other))
    call = answered().hear(
        "REFER", f"Refer-To: <sip:.4930123@127.0.0.1:{port}.Replaces=[^ ]*%3Bto-tag%3Ds1%3Bfrom-tag%3D[^%]+>"
    )
    notify(call.reply_within(202), "200 OK", "terminated;reason=noresource").hear("BYE").reply_within(200)
    running = call.start(tmp_path, gateway.port)
    edge = gateway.gateway.telephones.edge
    gateway.wait_for(lambda: len(edge.live) == 2)
    (caller,) = [name for name in gateway.names() if name != other]
    gateway.retry(lambda: gateway.switchboard.transfer_to_call(caller, other))
    running.finish()
    asked.finish()
    gateway.wait_for(lambda: gateway.kinds(caller) == ["transferring", "transferred", "ended"])
    gateway.wait_for(lambda: gateway.kinds(other)[-1] == "ended")
    assert gateway.last(caller, "transferred").target == other


def test_an_invite_with_replaces_is_a_call_of_its_own(gateway: OwnGateway, tmp_path: Path) -> None:
    wanted = "Replaces: nobody@nowhere;to-tag=1;from-tag=2"
    ended(Scenario().invite(sdp(), wanted).expect(200).ack().pause(100)).run(tmp_path, gateway.port)
    refused = Scenario().invite(sdp(), wanted, "Require: replaces").expect(420, "Unsupported: replaces").ack()
    refused.run(tmp_path, gateway.port)


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"to": "4930"}, 403),
        ({"trunk": "none"}, 404),
        ({"to": "x@y"}, 400),
        ({"caller_name": 'a"b'}, 400),
        ({"persona": "x\n"}, 400),
    ],
)
def test_what_is_not_called(gateway: OwnGateway, wish: dict[str, str], status: int) -> None:
    with pytest.raises(Refused) as refused:
        place(gateway, **wish)
    assert refused.value.status == status
