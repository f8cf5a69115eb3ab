"""People say digits on the telephone, the model that ships says them back, and one of them is forbidden: what
callers hear, what is recorded, and what programs are told. An endpoint elsewhere ends what no rule knows."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.report import report_call
from gateway.engines import choose
from gateway.events.records import decode
from gateway.priority import keeping_time
from gateway.state import embedded
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from media.timebase import MODEL_HZ
from tests.gateway.events.support import SECRET
from tests.gateway.events.test_courier import Endpoint
from tests.gateway.safety.test_moderation import served
from tests.stories.test_calls_by_the_api import ask, until
from tests.stories.test_forbidden_words_are_not_heard import CUT_WITHIN_S, loud_s
from tests.support.webrtc_caller import HZ, calling

pytestmark = [pytest.mark.processes, pytest.mark.long]

DATA = Path(__file__).parents[2].parent / "shared" / "data"
RATE_HZ, TAIL_S = 8_000, 7.0
FORBIDDEN = "seven"
POLICY = f"""
lookahead: %d
rules: [{{name: no-seven, words: [{FORBIDDEN}], do: cut}}]
"""


def strings() -> list[tuple[NDArray[np.int16], str]]:
    """Somebody says digits, a forbidden one in the middle; and the persona."""
    from model_server.training import cases

    found = []
    for case in (*cases.connected(DATA, 12), *cases.paused(DATA, 24)):
        labels = [word.label for word in case.words]
        if FORBIDDEN in labels[2:5]:
            found.append((case.caller[: round((case.end_s + 0.2) * MODEL_HZ)], case.persona))
    return found[-4:]


def read(pcm: NDArray[np.int16], rate_hz: int) -> list[str]:
    """Words of our voice, off the sound."""
    from model_server.training.mouth import table_of
    from model_server.training.reading import Reader
    from model_server.training.voice_table import load_voice

    voice = load_voice()
    reader = Reader(table_of(dict(zip(voice.words, voice.sounds, strict=True))))
    return [spoken.word for spoken in reader.read(soxr.resample(pcm, rate_hz, MODEL_HZ))]


@pytest.mark.parametrize("lookahead", [0, 2])
def test_callers_hear_what_comes_before_and_no_more(tmp_path: Path, lookahead: int) -> None:
    if choose("auto")[0] != "digits" or not DATA.is_dir():
        pytest.skip("needs the trained model, and recordings that are not part of this tree")
    said = strings()
    assert len(said) == 4
    (tmp_path / "policy.yaml").write_text(POLICY % lookahead)
    rules = [
        {"called": str(100 + at), "persona": persona, "recording": True}
        for at, (_, persona) in enumerate(said)
    ]
    settings = {
        "rules": json.dumps(rules), "safety_policy": str(tmp_path / "policy.yaml"),
        "recording_dir": str(tmp_path / "calls"), "recording_encryption": "off",
    }  # fmt: skip
    with GatewayUnderTest.start(GatewayWish(4, "digits", settings=settings, ready_timeout_s=90.0)) as gateway:
        logs = asyncio.run(_call_all(gateway, [pcm for pcm, _ in said]))
        gateway.wait_for(lambda m: m["microturn_recordings_kept_finished_total"] == len(said), 20.0)
        metrics = gateway.metrics()
    heard = [read(_recording(log), RATE_HZ) for log in logs]
    recorded = []
    for path in sorted((tmp_path / "calls" / "done").iterdir()):
        pcm, rate_hz = soundfile.read(path, dtype="int16")
        recorded.append(read(pcm[:, 1], rate_hz))
    cuts = int(metrics["microturn_safety_cuts_total"])
    assert cuts >= 2, "the model did not say it"
    assert not any("7" in words for words in heard), heard
    assert sum(len(words) >= 2 for words in heard) >= 2, "nothing was heard before it"
    assert sorted(recorded) == sorted(heard)


async def _call_all(gateway: GatewayUnderTest, sounds: list[NDArray[np.int16]]) -> list[CallLog]:
    """One after another: a machine that is busy refuses the second."""
    logs: list[CallLog] = []
    with keeping_time():
        async with Caller() as caller:
            for at, pcm in enumerate(sounds):
                uri = gateway.uri.replace("sip:", f"sip:{100 + at}@", 1)
                plan = CallPlan(uri, "PCMU", pcm, MODEL_HZ, lead_in_s=0.4, tail_s=TAIL_S)
                logs.append(await caller.place(plan))
    return logs


def _recording(log: CallLog) -> NDArray[np.int16]:
    recording = report_call(log).recording
    assert log.answered and recording is not None
    return recording


class Receiver(Endpoint):
    """Of webhooks."""

    def data(self) -> list[dict[str, Any]]:
        events = {event.id: event for event in map(decode, self.bodies)}
        return [event.data for event in events.values() if event.type == "call.safety"]


@contextlib.asynccontextmanager
async def calling_itself(uri: str, seconds: float) -> AsyncIterator[asyncio.Task[CallLog]]:
    """A call that says nothing."""
    async with Caller() as caller:
        plan = CallPlan(uri, "PCMU", np.zeros(RATE_HZ, np.int16), RATE_HZ, seconds=seconds)
        task = asyncio.create_task(caller.place(plan))
        try:
            yield task
        finally:
            await task


def test_programs_are_told_and_an_endpoint_cuts(tmp_path: Path) -> None:
    """The model says a number every so many seconds; one is forbidden by a rule, another one is flagged."""
    if choose("auto")[0] != "digits" or embedded.find_server() is None:
        pytest.skip("needs the trained model, and a state server")
    (tmp_path / "policy.yaml").write_text("rules: [{name: no-three, words: [three], do: hang-up}]\n")
    rules = [{"called": "103", "persona": "every 3"}, {"called": "102", "persona": "every 2"}]

    async def story() -> None:
        receiver = Receiver()
        async with served() as endpoint, receiver.up() as url:
            settings = {
                "rules": json.dumps(rules), "safety_policy": str(tmp_path / "policy.yaml"), "redis": "auto",
                "webhooks": json.dumps({"crm": {"url": url, "secret": SECRET}}),
                "moderation_url": endpoint.url, "moderation_do": "hang-up",
            }  # fmt: skip
            wish = GatewayWish(4, "digits", settings=settings, ready_timeout_s=90.0)
            starting = GatewayUnderTest.start(wish)
            gateway = await asyncio.to_thread(starting.__enter__)
            try:
                async with calling_itself(gateway.uri.replace("sip:", "sip:103@"), 8.0) as call:
                    log = await call
                assert log.ended_by == "peer"
                await asyncio.to_thread(until, lambda: len(receiver.data()) == 1)
                (told,) = receiver.data()
                assert (told["rule"], told["did"]) == ("no-three", "hang-up") and 10 < told["turn"] < 30
                await asyncio.to_thread(until, lambda: ask(gateway, "GET", "/cdrs")[1]["cdrs"])
                (cdr,) = (await asyncio.to_thread(ask, gateway, "GET", "/cdrs"))[1]["cdrs"]
                assert cdr["cause"] == "safety" and cdr["figures"]["cuts"] == 1
                assert not any("three" in asked["input"] for asked in endpoint.inputs)
                endpoint.word = "two"
                async with calling_itself(gateway.uri.replace("sip:", "sip:102@"), 12.0) as call:
                    log = await call
                assert log.ended_by == "peer", "the endpoint had no say"
                await asyncio.to_thread(until, lambda: len(receiver.data()) == 2)
                assert receiver.data()[1] | {"turn": 0} == {
                    "rule": "moderation", "did": "hang-up", "turn": 0,
                    "categories": ["hate/threatening", "violence"],
                }  # fmt: skip
                assert gateway.metrics()["microturn_moderation_flagged_total"] == 1
            finally:
                await asyncio.to_thread(starting.__exit__, None, None, None)

    asyncio.run(story())


def test_what_an_endpoint_flags_is_cut_while_it_is_said() -> None:
    """A browser's noise comes back as an echo; what is typed is what the model said. No state is kept here."""
    noise = np.random.default_rng(5).integers(-6_000, 6_000, 8 * HZ).astype(np.int16)

    async def story() -> None:
        async with served() as endpoint:
            settings = {"webrtc_calls": "1", "moderation_url": endpoint.url}
            starting = GatewayUnderTest.start(GatewayWish(calls=1, settings=settings))
            gateway = await asyncio.to_thread(starting.__enter__)
            try:
                async with calling(gateway.http, noise) as caller:
                    await caller.message("hello")
                    caller.say(type="text", text="something fine ")
                    await caller.message("caption")
                    caller.say(type="text", text="something bad ")
                    cut = await caller.message("cut")
                    cut_s = len(caller.pcm()) / HZ
                    await asyncio.sleep(1.0)
                    loud = loud_s(caller.pcm(), HZ)
                    assert cut["why"] == "safety" and cut_s - 0.1 < max(loud) < cut_s + CUT_WITHIN_S
                assert endpoint.inputs[-1]["input"].startswith("something fine something bad")
                assert gateway.metrics()["microturn_moderation_flagged_total"] == 1
            finally:
                await asyncio.to_thread(starting.__exit__, None, None, None)

    asyncio.run(story())
