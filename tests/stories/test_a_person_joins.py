"""A person joins a caller and the model: each sends a tone of his own, and what each side hears is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gateway.sip.outbound import Model, OutboundCall, Refused
from gateway.state.keys import name_of_telephone_call
from tests.stories.test_baresip_calls import needs_baresip
from tests.stories.test_recordings import SECRET
from tests.support.baresip_phone import BaresipPhone
from tests.support.own_gateway import OwnGateway
from tests.support.raw_call import RawCall
from tests.support.speaking import LOUD, SpeakingCall, SpeakingTarget, Voice, level
from tests.support.table_watch import TableWatch

pytestmark = [pytest.mark.processes, pytest.mark.sip]

CALLER_HZ, PERSON_HZ, QUIET_HZ = 450.0, 1_150.0, 750.0
PATIENCE_S = 6.0


@pytest.fixture(scope="module")
def person() -> Iterator[SpeakingTarget]:
    with SpeakingTarget() as started:
        yield started


@pytest.fixture(scope="module")
def gateway(person: SpeakingTarget) -> Iterator[OwnGateway]:
    trunks = {"pbx": {"server": f"127.0.0.1:{person.port}", "dial": "+"}}
    joins = {"supervisor": {"to": "+200", "trunk": "pbx", "model": "listens"}}
    with OwnGateway.start(calls=3, trunks=trunks, joins=joins) as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_is_left(gateway: OwnGateway) -> Iterator[None]:
    yield
    gateway.wait_for(lambda: gateway.is_idle, 5.0, "idle")


def join(gateway: OwnGateway, call: str, model: Model = "speaks", **more: float) -> str:
    """Whom the gateway calls for it: the name of that call."""
    wish = OutboundCall("+1", "pbx", model=model, **more)  # type: ignore[arg-type]
    found: list[str] = []

    async def ask() -> None:
        found.append(await gateway.switchboard.join(call, wish))

    gateway.retry(ask)
    return found[0]


def soon(holds: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


def delay_ms(speaker: Voice, listener: Voice, hz: float) -> float:
    """From the first packet with that tone to the first one in which it is heard."""
    soon(lambda: listener.hears(hz), f"{hz} Hz is heard")
    since_ns = speaker.said_ns[hz]
    return (listener.first_heard_ns(hz, since_ns) - since_ns) / 1e6


def strongest(watch: TableWatch, hz: float) -> float:
    """Of the newest second that the model has heard."""
    sound = [samples[::2] for _, samples in list(watch.sound)[-5:]]
    return max((level(pcm[at : at + 160], hz) for pcm in sound for at in range(0, 1_600, 160)), default=0.0)


def test_all_hear_each_other_and_nobody_himself(gateway: OwnGateway, person: SpeakingTarget) -> None:
    with gateway.watch() as watch, SpeakingCall(gateway.uri) as caller:
        call = gateway.only_call()
        caller.voice.say(QUIET_HZ)
        soon(lambda: caller.voice.hears(QUIET_HZ), "the echo")
        caller.voice.say(0)
        guest = join(gateway, call, "listens")
        gateway.wait_for(lambda: "joined" in gateway.kinds(call))
        assert gateway.last(call, "joined").person == guest
        time.sleep(0.5)  # lines settle, and the echo of before is over
        began_ns = time.monotonic_ns()
        person.voice.say(PERSON_HZ)
        caller.voice.say(CALLER_HZ)
        to_caller = delay_ms(person.voice, caller.voice, PERSON_HZ)
        to_person = delay_ms(caller.voice, person.voice, CALLER_HZ)
        print(f"person to caller {to_caller:.0f} ms, caller to person {to_person:.0f} ms")
        watch.look_until(lambda seen: bool(seen.sound), lambda: None, 1.0)
        for _ in range(20):
            watch.look()
            time.sleep(0.05)
        assert to_caller < 200 and to_person < 200
        assert "joined" in watch.heard
        assert strongest(watch, PERSON_HZ) > LOUD / 2 and strongest(watch, CALLER_HZ) > LOUD / 2
        assert max(caller.voice.levels(CALLER_HZ, began_ns)) < LOUD / 20, "the caller hears himself"
        assert max(person.voice.levels(PERSON_HZ, began_ns)) < LOUD / 20, "the person hears himself"
        assert person.seen("INVITE")[-1].header("x-microturn-call") == call

        person.ask("INFO", 1, ("content-type", "application/dtmf"), body=b"5")
        assert watch.look_until(lambda seen: "person-dtmf 5" in seen.heard, lambda: None, 2.0)
        assert "dtmf 5" not in watch.heard, "whose key it was is told"

        person.hang_up()
        gateway.wait_for(lambda: "left" in gateway.kinds(call))
        soon(lambda: caller.voice.hears(CALLER_HZ), "the model speaks again")
        assert watch.look_until(lambda seen: "left" in seen.heard, lambda: None, 2.0)
        gone = "what the model had heard of the person is over"
        soon(lambda: max(caller.voice.levels(PERSON_HZ)[-10:]) < LOUD / 20, gone)
        assert gateway.kinds(guest)[-2:] == ["answered", "ended"]


def test_the_model_is_heard_by_both(gateway: OwnGateway, person: SpeakingTarget) -> None:
    with gateway.watch() as watch, SpeakingCall(gateway.uri) as caller:
        call = gateway.only_call()
        join(gateway, call)
        gateway.wait_for(lambda: "joined" in gateway.kinds(call))
        caller.voice.say(CALLER_HZ)
        person.voice.say(PERSON_HZ)  # each hears the other, and himself by the model, which is an echo
        for voice in (caller.voice, person.voice):
            for hz in (CALLER_HZ, PERSON_HZ):
                soon(lambda voice=voice, hz=hz: voice.hears(hz), f"{hz} Hz")  # type: ignore[misc]

        # on hold the caller hears nothing, and is not heard
        assert caller.negotiate("sendonly") == 200
        soon(lambda: max(person.voice.levels(CALLER_HZ)[-10:]) < LOUD / 20, "the caller is not heard")
        watch.look()
        watch.sound.clear()
        only_person = watch.look_until(
            lambda seen: strongest(seen, PERSON_HZ) > LOUD / 2 and strongest(seen, CALLER_HZ) < LOUD / 20,
            lambda: None, 2.0,
        )  # fmt: skip
        assert only_person, "the model hears who has not gone"
        assert caller.negotiate("sendrecv") == 200
        soon(lambda: person.voice.hears(CALLER_HZ) and caller.voice.hears(PERSON_HZ), "all are back")

        byes = len(person.seen("BYE"))
        caller.bye()
        soon(lambda: len(person.seen("BYE")) > byes, "the person gets a BYE", 2.0)


def test_a_person_who_is_busy_or_does_not_answer_changes_nothing(
    gateway: OwnGateway, person: SpeakingTarget
) -> None:
    with gateway.watch() as watch, SpeakingCall(gateway.uri) as caller:
        call = gateway.only_call()
        caller.voice.say(CALLER_HZ)
        soon(lambda: caller.voice.hears(CALLER_HZ), "the echo")
        began_ns = time.monotonic_ns()
        try:
            person.status = 486
            guest = join(gateway, call)
            gateway.wait_for(lambda: "join-failed" in gateway.kinds(call))
            failed = gateway.last(call, "join-failed")
            assert (failed.status, failed.why, failed.person) == (486, "busy", guest)
            person.status = 0
            join(gateway, call, answer_s=1.0)
            gateway.wait_for(lambda: gateway.kinds(call).count("join-failed") == 2)
            assert gateway.last(call, "join-failed").why == "no-answer"
            join(gateway, call)
            with pytest.raises(Refused) as refused:
                gateway.do(gateway.switchboard.join(call, OutboundCall("+1", "pbx")))
            assert refused.value.status == 409
            gateway.do(gateway.switchboard.leave(call))
            gateway.wait_for(lambda: gateway.kinds(call).count("join-failed") == 3)
            assert gateway.last(call, "join-failed").why == "cancelled"
        finally:
            person.status = 200
        watch.look()
        assert min(caller.voice.levels(CALLER_HZ, began_ns)) > LOUD / 2, "the caller's echo has a gap"
        assert not {"joined", "left"} & set(watch.heard)


def test_the_model_has_somebody_join_and_is_told_where_it_may_not(
    gateway: OwnGateway, person: SpeakingTarget
) -> None:
    with gateway.watch() as watch, SpeakingCall(gateway.uri) as caller:
        call = gateway.only_call()
        caller.info("application/dtmf", b"C")  # with the echo engine: join
        gateway.wait_for(lambda: "joined" in gateway.kinds(call))
        assert person.seen("INVITE")[-1].uri.startswith("sip:+200@")
        assert watch.look_until(lambda seen: "joined" in seen.heard, lambda: None, 2.0)
        caller.info("application/dtmf", b"C")
        assert watch.look_until(lambda seen: "join failed 491" in seen.heard, lambda: None, 2.0)
        person.hang_up()
        assert watch.look_until(lambda seen: "left" in seen.heard, lambda: None, 2.0)
        try:
            person.status = 486
            caller.info("application/dtmf", b"C")
            assert watch.look_until(lambda seen: "join failed 486" in seen.heard, lambda: None, 2.0)
        finally:
            person.status = 200


def test_where_the_worker_is_full_nobody_is_called(gateway: OwnGateway, person: SpeakingTarget) -> None:
    with gateway.watch() as watch, SpeakingCall(gateway.uri) as caller:
        call = gateway.only_call()
        with RawCall(gateway.uri), RawCall(gateway.uri):
            calls = len(person.seen("INVITE"))
            with pytest.raises(Refused) as refused:
                join(gateway, call)
            assert (refused.value.status, refused.value.code) == (503, "no-room")
            failed = gateway.last(call, "join-failed")
            assert (failed.status, failed.why) == (503, "no-room")
            caller.info("application/dtmf", b"C")
            assert watch.look_until(lambda seen: "join failed 503" in seen.heard, lambda: None, 2.0)
            assert len(person.seen("INVITE")) == calls


def test_who_joins_a_call_that_is_recorded_hears_that_first(person: SpeakingTarget, tmp_path: Path) -> None:
    announcement = 6_000 * np.sin(2 * np.pi * QUIET_HZ * np.arange(5_600) / 8_000)
    soundfile.write(tmp_path / "consent.wav", announcement.astype(np.int16), 8_000)
    trunks = {"pbx": {"server": f"127.0.0.1:{person.port}", "dial": "+"}}
    settings = {
        "rules": [{"called": "100", "recording": True}, {}], "recording_dir": str(tmp_path / "calls"),
        "recording_key": SECRET, "recording_consent": str(tmp_path / "consent.wav"),
    }  # fmt: skip
    with OwnGateway.start(calls=3, rtp_port=56_000, trunks=trunks, **settings) as here:
        announced: list[tuple[str, bool, bool]] = []
        here.gateway.recordings.announced.append(lambda *told: announced.append(told))
        with SpeakingCall(here.uri.replace("sip:", "sip:100@")) as caller:
            call = here.only_call()
            guest = join(here, call, "listens")
            caller.voice.say(CALLER_HZ)
            soon(lambda: person.voice.hears(QUIET_HZ), "that it is recorded")
            assert "joined" not in here.kinds(call) and here.kinds(guest)[-1] == "answered"
            assert max(person.voice.levels(CALLER_HZ)) < LOUD / 4
            soon(lambda: person.voice.hears(CALLER_HZ), "the caller")
            assert here.kinds(call)[-1] == "joined" and (guest, False, True) in announced
            person.hang_up()
            here.wait_for(lambda: "left" in here.kinds(call))

            guest = join(here, call)
            soon(lambda: person.voice.hears(QUIET_HZ), "that it is recorded, again")
            person.hang_up()
            here.wait_for(lambda: "join-failed" in here.kinds(call))
            assert here.last(call, "join-failed").why == "cancelled"
            assert here.kinds(guest)[-2:] == ["answered", "ended"]
        with SpeakingCall(here.uri) as caller:  # of which no recording is allowed
            call = here.only_call()
            caller.voice.say(CALLER_HZ)
            join(here, call)
            here.wait_for(lambda: "joined" in here.kinds(call))
            soon(lambda: person.voice.hears(CALLER_HZ), "the caller, at once")
            assert max(person.voice.levels(QUIET_HZ)) < LOUD / 4
        here.wait_for(lambda: here.is_idle, 5.0)


@pytest.mark.long
def test_in_a_wideband_worker_they_hear_each_other_just_as_soon(person: SpeakingTarget) -> None:
    trunks = {"pbx": {"server": f"127.0.0.1:{person.port}", "dial": "+"}}
    with OwnGateway.start(calls=4, rtp_port=52_000, sip_wideband_calls=3, trunks=trunks) as wide:
        attached = wide.gateway.telephones.attached
        wide.wait_for(lambda: len(attached) == 2 and all(attached.values()), what="both workers")
        with RawCall(wide.uri), wide.watch() as watch, SpeakingCall(wide.uri) as caller:
            others, call = (name_of_telephone_call(call_id) for call_id in wide.gateway.telephones.edge.live)
            assert others != call  # it has the narrowband place
            join(wide, call, "listens")
            wide.wait_for(lambda: "joined" in wide.kinds(call))
            time.sleep(0.3)
            began_ns = time.monotonic_ns()
            person.voice.say(PERSON_HZ)
            caller.voice.say(CALLER_HZ)
            assert delay_ms(person.voice, caller.voice, PERSON_HZ) < 200
            assert delay_ms(caller.voice, person.voice, CALLER_HZ) < 200
            assert watch.look_until(lambda seen: strongest(seen, PERSON_HZ) > LOUD / 2, lambda: None, 3.0)
            assert max(caller.voice.levels(CALLER_HZ, began_ns)) < LOUD / 20


@pytest.mark.long
@needs_baresip
def test_a_phone_that_is_not_ours_joins_holds_and_comes_back(tmp_path: Path) -> None:
    account = "<sip:person@127.0.0.1>;regint=0;audio_codecs=pcmu;answermode=auto"
    with BaresipPhone.start(tmp_path / "phone", account) as phone:
        trunks = {"pbx": {"server": f"127.0.0.1:{phone.port}", "dial": "person"}}
        with (
            OwnGateway.start(calls=3, rtp_port=54_000, trunks=trunks) as here,
            SpeakingCall(here.uri) as caller,
        ):
            call = here.only_call()
            wish = OutboundCall("person", "pbx", model="listens")
            here.do(here.switchboard.join(call, wish))
            here.wait_for(lambda: "joined" in here.kinds(call))
            soon(lambda: loudness(caller.voice) > 500, "the phone's tones")
            phone.do("hold")
            soon(lambda: loudness(caller.voice) < 50, "silence: the model listens, the phone holds")
            phone.do("resume")
            soon(lambda: loudness(caller.voice) > 500, "the phone's tones again")
            phone.do("hangup")
            here.wait_for(lambda: "left" in here.kinds(call))
            caller.voice.say(CALLER_HZ)
            soon(lambda: caller.voice.hears(CALLER_HZ), "the model speaks again")
            assert list(here.names()) == [call]


def loudness(voice: Voice) -> float:
    """Of the newest 200 ms."""
    newest = [pcm for _, pcm in list(voice.heard)[-10:]]
    return float(np.std(np.concatenate(newest))) if newest else 0.0
