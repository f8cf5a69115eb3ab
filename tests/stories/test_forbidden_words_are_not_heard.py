"""What the policy forbids is not heard: in calls with the model that ships, on the telephone and in a browser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.report import report_call
from gateway.engines import choose
from gateway.priority import keeping_time
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.support.webrtc_caller import HZ, calling

pytestmark = pytest.mark.processes

Pcm = NDArray[np.int16]

RATE_HZ = 8_000
CALL_S, APART_S, TRIES = 4.0, 0.13, 5
SAID = 500
"""Of a voice; what a line of silence comes back as is far below it."""
CUT_WITHIN_S = 0.2
"""Of its turn's text: what is forbidden is silent by then, our jitter buffer included."""
TONE_HZ, TONE_S = 1_000, 0.8
COUNTED = ("reported", "cuts", "replaced", "hung_up")
KINDS = ("report", "cut", "replace", "hang-up")
"""What becomes of the word, by the tenant whose number is called."""
POLICY = """
rules:
  - {name: seen, words: [two], do: report, tenants: [report]}
  - {name: no-two, words: [Two!], do: cut, tenants: [cut]}
  - {name: other, words: [two], do: replace, sound: tone.wav, tenants: [rep*e]}
  - {name: never, pattern: ' t[w]o ', do: hang-up, tenants: [hang-up]}
"""


def tone(rate_hz: int, seconds: float) -> Pcm:
    wave = 6_000 * np.sin(2 * np.pi * TONE_HZ * np.arange(round(seconds * rate_hz)) / rate_hz)
    return np.asarray(wave, np.int16)


def write_policy(folder: Path, text: str) -> str:
    soundfile.write(folder / "tone.wav", tone(16_000, TONE_S), 16_000)
    (folder / "policy.yaml").write_text(text)
    return str(folder / "policy.yaml")


def loud_s(pcm: Pcm, rate_hz: int, hz: float = 0.0) -> list[float]:
    """Where its 20 ms pieces are loud; with `hz`, those in which nearly all of it is that tone."""
    size = rate_hz // 50
    pieces = pcm[: len(pcm) // size * size].reshape(-1, size).astype(float)
    wave = np.exp(-2j * np.pi * hz * np.arange(size) / rate_hz)
    share = 2 * np.abs(pieces @ wave) ** 2 / size / np.maximum(1.0, np.sum(pieces**2, 1))
    loud = np.abs(pieces).max(1) > SAID
    return [at / 50 for at in np.flatnonzero(loud & ((share > 0.8) if hz else True))]


def test_on_the_telephone(tmp_path: Path) -> None:
    """The model says "two" every two seconds: to one caller it is heard, to others it is cut, replaced, and the end
    of the call."""
    if choose("auto")[0] != "digits":
        pytest.skip(f"no trained model here: {choose('auto')[1]}")
    rules = [{"called": kind, "persona": "every 2", "tenant": kind} for kind in KINDS]
    settings = {
        "rules": json.dumps(rules), "tenants": json.dumps(dict.fromkeys(KINDS, {})),
        "safety_policy": write_policy(tmp_path, POLICY), "model_realtime_priority": "false",
    }  # fmt: skip
    wish = GatewayWish(len(KINDS), "digits", settings=settings, ready_timeout_s=90.0)
    with GatewayUnderTest.start(wish) as gateway:
        logs = asyncio.run(_call_all(gateway, KINDS))
        gateway.wait_for(lambda m: all(m[f"microturn_safety_{name}_total"] for name in COUNTED), 5.0)
        told = [line for line in gateway.lines if " safety " in line]
    heard, cut, replaced, ended = (_heard(log) for log in logs)
    said = [at for at in loud_s(heard, RATE_HZ) if at > 1.0]
    assert said, "the model said nothing"
    assert not loud_s(cut, RATE_HZ), "what is forbidden was heard"
    tones = loud_s(replaced, RATE_HZ, TONE_HZ)
    assert TONE_S - 0.2 < len(tones) / 50 < TONE_S + 0.1
    assert len(loud_s(replaced, RATE_HZ)) - len(tones) <= 2, "something else was heard"  # but its edges
    assert abs(tones[0] - said[0]) < 1.0  # in place of the word
    assert not loud_s(ended, RATE_HZ)
    assert [log.ended_by for log in logs] == ["us", "us", "us", "peer"]
    assert any("no-two" in line and "cut" in line for line in told)


async def _call_all(gateway: GatewayUnderTest, called: Sequence[str]) -> list[CallLog]:
    with keeping_time():
        async with Caller() as caller:
            placed = []
            for number in called:
                uri = gateway.uri.replace("sip:", f"sip:{number}@", 1)
                placed.append(asyncio.create_task(_place(caller, uri)))
                await asyncio.sleep(APART_S)
            return await asyncio.gather(*placed)


async def _place(caller: Caller, uri: str) -> CallLog:
    """A machine that is busy refuses the third; it is called again when the first are over."""
    plan = CallPlan(uri, "PCMU", np.zeros(RATE_HZ, np.int16), RATE_HZ, seconds=CALL_S)
    for _ in range(TRIES):
        log = await caller.place(plan)
        if log.status != 503:
            break
        await asyncio.sleep(CALL_S / 2)
    return log


def _heard(log: CallLog) -> Pcm:
    recording = report_call(log).recording
    assert log.answered and recording is not None
    return recording


@pytest.mark.long
def test_in_a_browser(tmp_path: Path) -> None:
    """The echo says what is typed, and goes on with what it hears: noise of ours, until that pauses."""
    policy = "rules: [{name: rude, words: [forbidden word], do: cut}]\n"
    settings = {"webrtc_calls": "1", "safety_policy": write_policy(tmp_path, policy)}
    noise = np.random.default_rng(5).integers(-6_000, 6_000, 2 * HZ).astype(np.int16)
    track = np.concatenate([noise, np.zeros(HZ // 2, np.int16), noise])

    async def story(gateway: GatewayUnderTest) -> tuple[list[dict[str, Any]], Pcm, float]:
        async with calling(gateway.http, track) as caller:
            await caller.message("hello")
            caller.say(type="text", text="a fine word ")
            await caller.message("caption")
            while not loud_s(caller.pcm(), HZ):
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.5)
            caller.say(type="text", text="a forbidden ")
            caller.say(type="text", text="word ")
            await caller.message("cut")
            cut_s = len(caller.pcm()) / HZ
            async with asyncio.timeout(8.0):
                while not any(at > cut_s + 0.6 for at in loud_s(caller.pcm(), HZ)):
                    await asyncio.sleep(0.05)
            return caller.messages, caller.pcm(), cut_s

    with GatewayUnderTest.start(GatewayWish(calls=1, settings=settings)) as gateway:
        messages, pcm, cut_s = asyncio.run(story(gateway))
        gateway.wait_for(lambda m: m["microturn_safety_cuts_total"] == 1, 5.0)
    captions = "".join(m["text"] for m in messages if m["type"] == "caption").split()
    assert captions == ["a", "fine", "word"], captions
    (cut,) = (m for m in messages if m["type"] == "cut")
    assert cut["why"] == "safety" and cut["heard_ms"] == 0
    loud = loud_s(pcm, HZ)
    end_s = max(at for at in loud if at < cut_s + 0.6) + 0.02
    assert end_s - cut_s <= CUT_WITHIN_S, "it went on"
    assert len([at for at in loud if cut_s - 0.5 < at < cut_s]) > 20, "nothing was heard before"
    again_s = min(at for at in loud if at > end_s)
    assert again_s > end_s + 0.5, "heard before the utterance was over"
