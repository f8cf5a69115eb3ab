"""`python -m loadtests.dialogues PLAN`: calls that each play a sound, and what was heard on the same clock.

The plan is a JSON file, the answer one JSON object on the last line:

    {"engine": "digits", "settings": {"model_persona": "interpret"}, "at_once": 4, "codec": "PCMU",
     "calls": [{"play": "a.wav", "record": "a-heard.wav"}, ...]}
    -> {"calls": [{"status": 200, "record": "a-heard.wav", "received_packets": 512, "lost_packets": 0}, ...]}

A recording is as long as what was played and time-synchronous with it, as Full-Duplex-Bench wants it: its sample n
was heard when sample n of the played sound was sent. It starts the gateway that it calls; judging is for others.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from gateway.caller.analysis import ReceivedAudio, received_audio
from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.codec import FRAME_TICKS
from gateway.caller.command import read_audio
from gateway.priority import keeping_time
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish

Samples = NDArray[np.int16]

LEAD_IN_S, TAIL_S = 0.4, 0.6
READY_S = 120.0
APART_S = 0.13
"""Between the beginnings of calls: they fall into all phase groups and packet slots."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be called and how."""

    engine: str
    settings: dict[str, str]
    at_once: int
    codec: str
    calls: tuple[tuple[Path, Path], ...]
    """(play, record)."""

    @classmethod
    def of(cls, text: str) -> Plan:
        """ValueError or KeyError for what is no plan."""
        given = json.loads(text)
        calls = tuple((Path(call["play"]), Path(call["record"])) for call in given["calls"])
        plan = cls(
            given["engine"],
            dict(given.get("settings", {})),
            int(given.get("at_once", 4)),
            str(given.get("codec", "PCMU")),
            calls,
        )
        if not calls or plan.at_once < 1:
            raise ValueError("a plan needs calls, and at_once of 1 or more")
        return plan


async def call_all(plan: Plan, uri: str) -> list[dict[str, Any]]:
    """All calls, `at_once` at a time; what was heard is written when no call is live."""
    logs: list[CallLog] = []
    sounds = [read_audio(play) for play, _ in plan.calls]
    with keeping_time():
        async with Caller() as caller:
            for start in range(0, len(sounds), plan.at_once):
                group = sounds[start : start + plan.at_once]
                tasks = []
                for pcm, rate_hz in group:
                    call = CallPlan(uri, plan.codec, pcm, rate_hz, lead_in_s=LEAD_IN_S, tail_s=TAIL_S)
                    tasks.append(asyncio.create_task(caller.place(call)))
                    await asyncio.sleep(APART_S)
                logs += await asyncio.gather(*tasks)
    return [_written(log, record) for log, (_, record) in zip(logs, plan.calls, strict=True)]


def _written(log: CallLog, record: Path) -> dict[str, Any]:
    answer: dict[str, Any] = {"status": log.status, "record": "", "received_packets": 0, "lost_packets": 0}
    if not log.answered or not log.datagrams:
        return answer
    received = received_audio(log.datagrams, log.arrivals_ns, log.received_type, log.codec)
    answer |= {"received_packets": received.packets, "lost_packets": received.lost, "record": str(record)}
    soundfile.write(record, synchronous(log, received), received.rate_hz, subtype="PCM_16", format="WAV")
    return answer


def synchronous(log: CallLog, received: ReceivedAudio) -> Samples:
    """int16 [n], as long as what was played: sample i was heard when sample i of it was sent.

    Samples are laid by their RTP time; the middle of all packets' arrivals says when that time was.
    """
    rate_hz = received.rate_hz
    count = round(log.plan.play_pcm.size * rate_hz / log.plan.play_rate_hz)
    out = np.zeros(count, np.int16)
    packet, offset = divmod(round(LEAD_IN_S * rate_hz), FRAME_TICKS * log.codec.samples_per_tick)
    if packet >= len(log.sent_ns):
        return out
    begun_ns = log.sent_ns[packet] + offset * 1_000_000_000 // rate_hz
    laid_ns = np.median(received.arrival_ns - received.start * 1_000_000_000 / rate_hz)
    shift = round((laid_ns - begun_ns) * rate_hz / 1e9)
    start, end = max(0, shift), min(count, shift + received.pcm.size)
    if end > start:
        out[start:end] = received.pcm[start - shift : end - shift]
    return out


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
    wish = GatewayWish(
        calls=max(16, plan.at_once), engine=plan.engine, settings=plan.settings, ready_timeout_s=READY_S
    )
    with GatewayUnderTest.start(wish) as gateway:
        calls = asyncio.run(call_all(plan, gateway.uri))
        metrics = gateway.metrics()
    names = {"total": "turns_total", "missed": "turns_missed_total", "late": "turns_late_total"}
    turns = {name: int(metrics.get(f"microturn_{metric}", 0)) for name, metric in names.items()}
    print(json.dumps({"calls": calls, "turns": turns}))
    return 0 if all(call["record"] for call in calls) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
