"""A process with many calls in it: encodes, waits for the word, calls, hangs up, hands the logs back.

    parent -> GeneratorPlan            (argument)
    child  -> "ready"                  voices and clip are encoded
    parent -> begin_ns                 monotonic, the same clock in both
    child  -> GeneratorResult, or str  what went wrong

One rule: it must cost little beside what it measures, so it does nothing between two ticks that could be done
before the first call or after the last.
"""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp

from gateway.priority import keeping_time
from loadtests.aiortc_taps import allow_loopback
from loadtests.webrtc_call import CallLog, CallPlan, WebrtcCall
from loadtests.webrtc_loop import CallerLoop
from loadtests.webrtc_media import Clip, Samples, Voice, load_sounds, make_clip, make_voice
from loadtests.webrtc_streams import Pacer

TAIL_S = 1.0  # after the steady state: what was said in it is still on its way back, and the talk goes on


@dataclass(frozen=True, slots=True)
class Schedule:
    """When things happen, in seconds after the beginning."""

    calls: int
    ramp: float  # calls per second
    settle_s: float
    seconds: float

    def call_s(self, index: int) -> float:
        """When a call is offered."""
        return index / self.ramp

    @property
    def steady_s(self) -> float:
        """All calls are up."""
        return self.call_s(self.calls - 1) + self.settle_s

    @property
    def end_s(self) -> float:
        return self.steady_s + self.seconds


@dataclass(frozen=True, slots=True)
class GeneratorPlan:
    """What one process does: calls `first`, `first + step` ... of the schedule."""

    schedule: Schedule
    first: int
    step: int
    whip_url: str
    token: str
    sounds: Path | None
    clip: Path | None
    voices: int
    voice_s: float
    ptime_ms: int
    loss: float
    seed: int
    channel: bool

    @property
    def indices(self) -> range:
        return range(self.first, self.schedule.calls, self.step)


@dataclass(frozen=True, slots=True)
class GeneratorResult:
    """What came of it."""

    logs: list[CallLog]
    voices: list[Samples]  # at ANALYSIS_HZ
    steady_cpu_s: float  # user and system, in the steady state
    max_late_ms: float  # the latest that a packet left, in it
    video_bitrate: int


def work(plan: GeneratorPlan, parent: Connection) -> None:
    """The process. Ends when the result is handed over, or the parent is gone."""
    try:
        voices, clip = _prepare(plan)
        parent.send("ready")
        begin_ns: int = parent.recv()
        with asyncio.Runner(loop_factory=CallerLoop) as runner:
            result = runner.run(_call_all(plan, voices, clip, begin_ns))
        parent.send(result)
    except EOFError:
        return
    except (OSError, ValueError) as error:
        parent.send(f"{type(error).__name__}: {error}")


def _prepare(plan: GeneratorPlan) -> tuple[list[Voice], Clip | None]:
    sounds = load_sounds(plan.sounds)
    voices = [
        make_voice(sounds, plan.voice_s, plan.ptime_ms, plan.seed, number, plan.loss)
        for number in range(plan.voices)
    ]
    return voices, make_clip(plan.clip) if plan.clip is not None else None


async def _call_all(
    plan: GeneratorPlan, voices: Sequence[Voice], clip: Clip | None, begin_ns: int
) -> GeneratorResult:
    allow_loopback()
    begin_s, schedule = begin_ns / 1e9, plan.schedule
    async with Pacer() as pacer, aiohttp.ClientSession() as http:
        calls = [WebrtcCall(_call_plan(plan, index, voices, clip), pacer, http) for index in plan.indices]
        with keeping_time():
            tasks = [asyncio.create_task(_one_call(call, schedule, begin_s)) for call in calls]
            await asyncio.sleep(begin_s + schedule.steady_s - time.monotonic())
            pacer.max_late_ns, before_s = 0, _cpu_s()
            await asyncio.sleep(begin_s + schedule.end_s - time.monotonic())
            max_late_ms, steady_cpu_s = pacer.max_late_ns / 1e6, _cpu_s() - before_s
            await asyncio.gather(*tasks)
    logs = [call.finish() for call in calls]
    bitrate = clip.bitrate if clip is not None else 0
    return GeneratorResult(logs, [voice.pcm for voice in voices], steady_cpu_s, max_late_ms, bitrate)


async def _one_call(call: WebrtcCall, schedule: Schedule, begin_s: float) -> None:
    await asyncio.sleep(begin_s + schedule.call_s(call.log.index) - time.monotonic())
    await call.run(begin_s + schedule.end_s + TAIL_S)


def _call_plan(plan: GeneratorPlan, index: int, voices: Sequence[Voice], clip: Clip | None) -> CallPlan:
    number = index % len(voices)
    rng = random.Random(f"{plan.seed} {index} place")
    return CallPlan(
        index=index,
        whip_url=plan.whip_url,
        token=plan.token,
        voice=voices[number],
        voice_number=number,
        offset=rng.randrange(len(voices[number].packets)),
        clip=clip,
        loss=plan.loss,
        seed=plan.seed,
        channel=plan.channel,
    )


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
