"""`python -m loadtests.dialogues PLAN`: calls that each play a sound, and what was heard on the same clock.

The plan is a JSON file, the answer one JSON object on the last line:

    {"engine": "digits", "settings": {"model_realtime_priority": "false"}, "at_once": 4, "codec": "PCMU",
     "calls": [{"play": "a.wav", "record": "a-heard.wav", "persona": "interpret"}, ...]}
    -> {"calls": [{"status": 200, "record": "a-heard.wav", "received_packets": 512, "lost_packets": 0,
                   "told": []}, ...], "turns": {"total": 61, "missed": 0, "late": 0}}

The codec `opus` is a browser's call, any other one a telephone's; who names a persona calls a number that has it.
A browser may show and type something, too: "camera": "a.npy", "typed": [[3.2, "seven"]], in seconds of its sound;
and it is told something: "told": [[3.4, {"type": "caption", "turn": 17, "text": "seven "}]].

A recording is as long as what was played and time-synchronous with it, as Full-Duplex-Bench wants it: its sample n
was heard when sample n of the played sound was sent. It starts the gateway that it calls; judging is for others.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from gateway.caller.analysis import ReceivedAudio, Times, received_audio
from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.command import read_audio
from gateway.priority import keeping_time
from loadtests.browser_dialogues import BrowserDialogues, Side
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from loadtests.webrtc_figures import received_audio as received_browser
from loadtests.webrtc_loop import CallerLoop
from media.timebase import FRAME_MS

Samples = NDArray[np.int16]

LEAD_IN_S, TAIL_S = 0.4, 0.6
READY_S = 120.0
APART_S = 0.13
"""Between the beginnings of calls: they fall into all phase groups and packet slots."""


BROWSER = "opus"
Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One call."""

    play: Path
    record: Path
    persona: str = ""
    camera: Path | None = None
    typed: tuple[tuple[float, str], ...] = ()

    @classmethod
    def of(cls, call: dict[str, Any]) -> Dialogue:
        """ValueError or KeyError for what is none."""
        camera = Path(call["camera"]) if call.get("camera") else None
        typed = tuple((float(seconds), str(line)) for seconds, line in call.get("typed", ()))
        return cls(Path(call["play"]), Path(call["record"]), str(call.get("persona", "")), camera, typed)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be called and how."""

    engine: str
    settings: dict[str, str]
    at_once: int
    codec: str
    calls: tuple[Dialogue, ...]

    @classmethod
    def of(cls, text: str) -> Plan:
        """ValueError or KeyError for what is no plan."""
        given = json.loads(text)
        calls = tuple(map(Dialogue.of, given["calls"]))
        plan = cls(
            given["engine"],
            dict(given.get("settings", {})),
            int(given.get("at_once", 4)),
            str(given.get("codec", "PCMU")),
            calls,
        )
        if not calls or plan.at_once < 1:
            raise ValueError("a plan needs calls, and at_once of 1 or more")
        if plan.codec != BROWSER and any(call.camera or call.typed for call in calls):
            raise ValueError(f"codec {plan.codec}: a telephone neither shows nor types; {BROWSER} does")
        return plan

    @property
    def numbers(self) -> dict[str, str]:
        """The setting `personas`: a number for each of them."""
        named = dict.fromkeys(call.persona for call in self.calls if call.persona)
        return {str(100 + at): persona for at, persona in enumerate(named)}

    def called(self) -> list[str]:
        """The number that each call calls; "" is anybody."""
        numbers = {persona: number for number, persona in self.numbers.items()}
        return [numbers.get(call.persona, "") for call in self.calls]

    def groups(self) -> list[range]:
        """Calls that are live at the same time, by their places."""
        count = len(self.calls)
        return [range(start, min(start + self.at_once, count)) for start in range(0, count, self.at_once)]


async def call_all(plan: Plan, uri: str) -> list[Answer]:
    """All calls by telephone, `at_once` at a time; what was heard is written when no call is live."""
    logs: list[CallLog] = []
    sounds, called = [read_audio(call.play) for call in plan.calls], plan.called()
    with keeping_time():
        async with Caller() as caller:
            for group in plan.groups():
                tasks = []
                for at in group:
                    whom = uri.replace("sip:", f"sip:{called[at]}@", 1) if called[at] else uri
                    call = CallPlan(whom, plan.codec, *sounds[at], lead_in_s=LEAD_IN_S, tail_s=TAIL_S)
                    tasks.append(asyncio.create_task(caller.place(call)))
                    await asyncio.sleep(APART_S)
                logs += await asyncio.gather(*tasks)
    return [_of_telephone(log, call.record) for log, call in zip(logs, plan.calls, strict=True)]


async def browse_all(plan: Plan, http: str) -> list[Answer]:
    """The same as browsers."""
    sounds = [read_audio(call.play) for call in plan.calls]
    sides = [
        Side(*sound, called, call.camera, call.typed)
        for sound, called, call in zip(sounds, plan.called(), plan.calls, strict=True)
    ]
    async with BrowserDialogues(f"{http}/whip", LEAD_IN_S, TAIL_S) as browsers:
        for group in plan.groups():
            await browsers.talk(sides[group.start : group.stop], APART_S)
    answers = []
    for log, call, (pcm, rate_hz) in zip(browsers.logs(), plan.calls, sounds, strict=True):
        if not log.datagrams:
            answers.append(_unheard(log.status))
            continue
        received = received_browser(log.datagrams, log.arrivals_ns)
        sent_ns = np.array(log.sent_ns, np.int64)
        heard = synchronous(received, sent_ns, log.ptime_ms, pcm.size / rate_hz)
        answer = _written(log.status, received, heard, call.record)
        answers.append(answer | {"told": _told(log.told, begun_ns(sent_ns, log.ptime_ms))})
    return answers


def _of_telephone(log: CallLog, record: Path) -> Answer:
    if not log.answered or not log.datagrams:
        return _unheard(log.status)
    received = received_audio(log.datagrams, log.arrivals_ns, log.received_type, log.codec)
    seconds = log.plan.play_pcm.size / log.plan.play_rate_hz
    heard = synchronous(received, np.array(log.sent_ns, np.int64), FRAME_MS, seconds)
    return _written(log.status, received, heard, record)


def _unheard(status: int) -> Answer:
    return {"status": status, "record": "", "received_packets": 0, "lost_packets": 0, "told": []}


def _written(status: int, received: ReceivedAudio, heard: Samples, record: Path) -> Answer:
    soundfile.write(record, heard, received.rate_hz, subtype="PCM_16", format="WAV")
    told = {"received_packets": received.packets, "lost_packets": received.lost}
    return {"status": status, "record": str(record), **told, "told": []}


def _told(messages: Iterable[tuple[int, str]], since_ns: int | None) -> list[tuple[float, Any]]:
    """What the data channel brought, in seconds of what was played."""
    if since_ns is None:
        return []
    return [(round((at_ns - since_ns) / 1e9, 3), json.loads(message)) for at_ns, message in messages]


def begun_ns(sent_ns: Times, ptime_ms: int) -> int | None:
    """When the first sample behind the lead-in left; None where the call was over before."""
    packet, offset_us = divmod(round(LEAD_IN_S * 1e6), ptime_ms * 1000)
    return int(sent_ns[packet]) + offset_us * 1000 if packet < len(sent_ns) else None


def synchronous(received: ReceivedAudio, sent_ns: Times, ptime_ms: int, seconds: float) -> Samples:
    """int16 [n], as long as what was played: sample i was heard when sample i of it was sent.

    It was played for `seconds`, behind the lead-in, in packets that left at `sent_ns`. What came is laid by its RTP
    time; the middle of all packets' arrivals says when that time was.
    """
    rate_hz = received.rate_hz
    count = round(seconds * rate_hz)
    out = np.zeros(count, np.int16)
    since_ns = begun_ns(sent_ns, ptime_ms)
    if since_ns is None:
        return out
    laid_ns = np.median(received.arrival_ns - received.start * 1_000_000_000 / rate_hz)
    shift = round((laid_ns - since_ns) * rate_hz / 1e9)
    start, end = max(0, shift), min(count, shift + received.pcm.size)
    if end > start:
        out[start:end] = received.pcm[start - shift : end - shift]
    return out


def carry_out(plan: Plan) -> dict[str, Any]:
    """Start the gateway, call it, stop it; the answer. RuntimeError when it does not come up."""
    places = max(16, plan.at_once)
    browsers = places if plan.codec == BROWSER else 0
    settings = {"personas": json.dumps(plan.numbers), "webrtc_calls": str(browsers)} | plan.settings
    wish = GatewayWish(calls=places, engine=plan.engine, settings=settings, ready_timeout_s=READY_S)
    with GatewayUnderTest.start(wish) as gateway:
        if plan.codec == BROWSER:
            with asyncio.Runner(loop_factory=CallerLoop) as runner:
                calls = runner.run(browse_all(plan, gateway.http))
        else:
            calls = asyncio.run(call_all(plan, gateway.uri))
        metrics = gateway.metrics()
    names = {"total": "turns_total", "missed": "turns_missed_total", "late": "turns_late_total"}
    turns = {name: int(metrics.get(f"microturn_{metric}", 0)) for name, metric in names.items()}
    return {"calls": calls, "turns": turns}


def main(argv: list[str]) -> int:
    """0 when every call was answered, 1 when not, 2 for a plan that is none."""
    if len(argv) != 1:
        print("usage: python -m loadtests.dialogues PLAN", file=sys.stderr)
        return 2
    try:
        plan = Plan.of(Path(argv[0]).read_text())
    except (OSError, ValueError, KeyError) as wrong:
        print(f"loadtests.dialogues: {argv[0]}: {wrong}", file=sys.stderr)
        return 2
    done = carry_out(plan)
    print(json.dumps(done))
    return 0 if all(call["record"] for call in done["calls"]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
