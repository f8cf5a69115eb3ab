"""A new model server takes over from the shipped model while it speaks in telephone and browser calls.

Every call has a persona of its own and says its own number every so many seconds: what is said twice, left out, cut
short, or said by somebody else, is heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import soxr

from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.report import report_call
from gateway.engines import choose
from gateway.priority import keeping_time
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from media.timebase import MODEL_HZ
from tests.support.upgrades import upgraded
from tests.support.webrtc_caller import HZ, WebrtcCaller, calling

pytestmark = [pytest.mark.processes, pytest.mark.long]

RATE_HZ = 8_000
TELEPHONES, BROWSERS = (2, 3, 4), (2,)
"""Seconds between two words, which is the word, too."""
WORDS = {2: "two", 3: "three", 4: "four"}
CALL_S, APART_S = 20.0, 0.13
EARLY_S, LATE_S = 0.5, 0.8
"""Of a word, against the one before it: turns, and passes that wait for one another."""
MISSED, BROKEN = 0.04, 1
"""Turns of all, and words of a call, that the machine may cost, which loads and measures a network meanwhile."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One call, from its caller's end."""

    every_s: int
    words: tuple[str, ...]
    starts_s: tuple[float, ...]
    seconds: float


def test_everybody_goes_on_with_its_own_words() -> None:
    if choose("auto")[0] != "digits":
        pytest.skip(f"no trained model here: {choose('auto')[1]}")
    personas = {str(100 + s): f"every {s}" for s in WORDS}
    calls = len(TELEPHONES) + len(BROWSERS)
    settings = {"personas": json.dumps(personas), "webrtc_calls": "4", "slots": "8"}
    wish = GatewayWish(len(TELEPHONES), "digits", settings=settings, ready_timeout_s=90.0)
    with GatewayUnderTest.start(wish) as gateway:
        old = gateway.only("model-server")
        logs, callers = asyncio.run(_story(gateway, calls))
        metrics = gateway.metrics()
        lines = list(gateway.lines)
        gateway.wait_for(lambda m: m["microturn_calls_live"] == 0 and m["microturn_model_slots_leased"] == 0)
        assert not old.alive
    heard = _read(logs, callers)
    assert metrics["microturn_calls_moved_total"] == calls
    assert metrics["microturn_calls_lost_total"] == metrics["microturn_moves_given_up_total"] == 0
    assert metrics["microturn_turns_missed_total"] <= MISSED * metrics["microturn_turns_cut_total"], metrics
    assert not any("model server gone" in line and "warning" in line for line in lines)
    for each in heard:
        _check(each)
    for caller, every_s in zip(callers, BROWSERS, strict=True):
        captions = [message["text"].strip() for message in caller.of_type("caption")]
        assert set(captions) == {WORDS[every_s]}, captions
        assert [message["reason"] for message in caller.of_type("bye")] == ["hangup"], "ours"


async def _story(gateway: GatewayUnderTest, calls: int) -> tuple[list[CallLog], list[WebrtcCaller]]:
    silence = np.zeros(HZ, np.int16)
    with keeping_time():
        async with Caller() as telephone, contextlib.AsyncExitStack() as browsers:
            upgrading = asyncio.create_task(upgraded(gateway, calls))
            await _loading(gateway)
            placed = []
            for every_s in TELEPHONES:
                uri = gateway.uri.replace("sip:", f"sip:{100 + every_s}@", 1)
                plan = CallPlan(uri, "PCMU", silence, HZ, seconds=CALL_S)
                placed.append(asyncio.create_task(telephone.place(plan)))
                await asyncio.sleep(APART_S)
            callers = []
            for every_s in BROWSERS:
                call = calling(gateway.http, silence, called=str(100 + every_s))
                callers.append(await browsers.enter_async_context(call))
            await upgrading
            logs = await asyncio.gather(*placed)
    return logs, callers


async def _loading(gateway: GatewayUnderTest) -> None:
    """The new model server is: calls are young when it is ready, so none waits until the model is silent."""
    while not any(process.kind == "loading" for process in gateway.processes()):
        await asyncio.sleep(0.02)


def _read(logs: Sequence[CallLog], callers: Sequence[WebrtcCaller]) -> list[Heard]:
    """Their words, off the sound."""
    from model_server.training.mouth import table_of
    from model_server.training.reading import Reader
    from model_server.training.voice_table import load_voice

    voice = load_voice()
    reader = Reader(table_of(dict(zip(voice.words, voice.sounds, strict=True))))
    sounds = [(s, _recording(log), RATE_HZ) for s, log in zip(TELEPHONES, logs, strict=True)]
    sounds += [(s, caller.pcm(), HZ) for s, caller in zip(BROWSERS, callers, strict=True)]
    heard = []
    for every_s, pcm, rate_hz in sounds:
        spoken = reader.read(soxr.resample(pcm, rate_hz, MODEL_HZ))
        starts_s = tuple(round(each.start_s, 2) for each in spoken)
        heard.append(Heard(every_s, tuple(each.word for each in spoken), starts_s, pcm.size / rate_hz))
    return heard


def _recording(log: CallLog) -> np.ndarray[Any, np.dtype[np.int16]]:
    assert log.ended_by == "us"
    recording = report_call(log).recording
    assert recording is not None
    return recording


def _check(heard: Heard) -> None:
    """Every word at its time, from the first one to the last one."""
    times = [at for word, at in zip(heard.words, heard.starts_s, strict=True) if word == str(heard.every_s)]
    due = np.arange(times[0], heard.seconds - heard.every_s / 2, heard.every_s)
    said = [any(-EARLY_S < at - due_s < LATE_S for at in times) for due_s in due]
    assert len(due) >= heard.seconds / heard.every_s - 2, heard
    assert said.count(False) <= BROKEN and len(heard.words) - said.count(True) <= BROKEN, heard
