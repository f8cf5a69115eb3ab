"""`python -m loadtests tau`: tau-voice's ticks of 200 ms against a live call of a gateway of our own.

    python -m loadtests tau                                   the ticks alone, against the engine echo
    python -m loadtests tau --through tau2                    by tau2-bench's own agent class, where there is one
    python -m loadtests tau --engine digits --play a.wav      the shipped model hears a sound, cut into ticks

Each tick is timed; what comes back is laid beside what was said, tick by tick. With `echo` the sound is numbered
tones, so it is found again: the lag is said in ms. A simulated user that thinks for longer than a tick is played by
`--stall`: every tenth tick comes so many ms late. Last on standard output is one line of JSON; a row and a picture
are kept in `loadtests/results/`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import importlib
import importlib.util
import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from gateway.caller.command import read_audio
from gateway.caller.signals import numbered_tones
from gateway.priority import keeping_time
from loadtests import machine, report
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from loadtests.tau.adapter import adapter_of
from loadtests.tau.call import RATE_HZ, TickCall
from loadtests.tau.line import SILENCE, TICK_BYTES, TICK_MS
from media.codecs import g711

READY_S = 120.0
STALLED_EVERY = 10
SPARE_S = 10.0
Samples = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Plan:
    """One run, checked."""

    seconds: float
    engine: str
    through: str
    play: Path | None
    persona: str
    stall_ms: int
    settings: dict[str, str]

    def __post_init__(self) -> None:
        if self.seconds < 1 or self.stall_ms < 0:
            raise ValueError("--seconds must be 1 or more, --stall not negative")
        if self.play is not None and not self.play.is_file():
            raise ValueError(f"--play {self.play}: no such file")


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was said and heard, tick by tick: mu-law, and how long each took."""

    said: list[bytes]
    heard: list[bytes]
    took_ms: list[float]
    counted: dict[str, int]


def main(argv: Sequence[str]) -> int:
    """See `report.carry_out`."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests tau",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
    )
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--engine", default="echo")
    parser.add_argument("--through", choices=("ticks", "tau2"), default="ticks")
    parser.add_argument("--play", type=Path, help="a sound file; default: numbered tones")
    parser.add_argument("--persona", default="", help="what the model is to be")
    parser.add_argument("--stall", type=int, default=0, help="every tenth tick is so many ms late")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the gateway"
    )
    asked = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "loadtests", "tau", *argv])
    return report.carry_out("tau", lambda: _plan(asked), lambda plan: run(plan, command))


def _plan(asked: argparse.Namespace) -> Plan:
    settings = dict(one.partition("=")[::2] for one in asked.set)
    return Plan(asked.seconds, asked.engine, asked.through, asked.play, asked.persona, asked.stall, settings)


def run(plan: Plan, command: str, results: Path = report.RESULTS) -> dict[str, Any]:
    """Call, tick, and keep what was found. RuntimeError when the gateway or tau2 does not come up."""
    ticks = ticks_of(plan)
    load, begun_ns = os.getloadavg()[0], time.monotonic_ns()
    settings = dict(plan.settings)
    if plan.persona:
        settings["personas"] = f'{{"100": "{plan.persona}"}}'
    wish = GatewayWish(4, plan.engine, settings=settings, ready_timeout_s=READY_S)
    with machine.witnessed() as stalls, GatewayUnderTest.start(wish) as gateway:
        uri = gateway.uri.replace("sip:", "sip:100@", 1) if plan.persona else gateway.uri
        exchange = exchanged(uri, ticks, plan)
        metrics = gateway.metrics()
    result: dict[str, Any] = {
        "engine": plan.engine, "through": plan.through, "ticks": len(exchange.heard), "tick_ms": TICK_MS,
        "took_ms": report.percentiles(np.array(exchange.took_ms)), "stall_ms": plan.stall_ms, **exchange.counted,
        "sounding_ticks": sum(one != SILENCE * TICK_BYTES and _loud(one) for one in exchange.heard),
        "lag_ms": lag_ms(exchange) if plan.engine == "echo" and not plan.stall_ms else None,
        "turns": {
            "total": int(metrics.get("microturn_turns_total", 0)),
            "missed": int(metrics.get("microturn_turns_missed_total", 0)),
            "late": int(metrics.get("microturn_turns_late_total", 0)),
        },
        "load_before": round(load, 2), "machine": stalls.figures((begun_ns, time.monotonic_ns()), ()),
    }  # fmt: skip
    report.append_row(results / "tau.csv", report.surroundings(command) | report.flatten(result))
    stalls_too = f"-stall-{plan.stall_ms}" if plan.stall_ms else ""
    drawn = results / f"tau-{plan.engine}-{plan.through}{stalls_too}.png"
    if draw(exchange, drawn, f"200 ms ticks against a call: {plan.engine}, by {plan.through}"):
        result["picture"] = report.shown(drawn)
    return result


def ticks_of(plan: Plan) -> list[bytes]:
    """The sound, cut."""
    if plan.play is None:
        pcm: Samples = numbered_tones(plan.seconds, RATE_HZ, seed=1)
    else:
        played, rate_hz = read_audio(plan.play)
        pcm = soxr.resample(played, rate_hz, RATE_HZ)
    count = round(plan.seconds * 1000) // TICK_MS
    whole = np.zeros(count * TICK_BYTES, np.int16)
    whole[: min(len(whole), len(pcm))] = pcm[: len(whole)]
    encoded = g711.encode_mulaw(whole)
    return [encoded[at : at + TICK_BYTES] for at in range(0, len(encoded), TICK_BYTES)]


def exchanged(uri: str, ticks: Sequence[bytes], plan: Plan) -> Exchange:
    """All of them against one call."""
    longest_s = len(ticks) * (TICK_MS + plan.stall_ms / STALLED_EVERY) / 1000 + SPARE_S
    with keeping_time():
        if plan.through == "tau2":
            return _by_tau2(uri, ticks, plan, longest_s)
        return asyncio.run(_by_ticks(uri, ticks, plan, longest_s))


async def _by_ticks(uri: str, ticks: Sequence[bytes], plan: Plan, longest_s: float) -> Exchange:
    heard, took_ms = [], []
    try:
        async with TickCall(uri, longest_s) as call:
            for number, tick in enumerate(ticks):
                if plan.stall_ms and number % STALLED_EVERY == STALLED_EVERY - 1:
                    await asyncio.sleep(plan.stall_ms / 1000)
                begun_s = time.monotonic()
                heard.append(await call.tick(tick))
                took_ms.append((time.monotonic() - begun_s) * 1000)
    except ConnectionError as wrong:
        raise RuntimeError(str(wrong)) from wrong
    return Exchange(list(ticks), heard, took_ms, _counted(call))


def _by_tau2(uri: str, ticks: Sequence[bytes], plan: Plan, longest_s: float) -> Exchange:
    """`DiscreteTimeAudioNativeAgent` as its orchestrator drives it: a state, and a chunk each way a tick."""
    try:
        agents: Any = importlib.import_module("tau2.agent.discrete_time_audio_native_agent")
        messages: Any = importlib.import_module("tau2.data_model.message")
        adapter = adapter_of(uri, longest_s)
    except ImportError as wrong:
        raise RuntimeError(f"--through tau2: {wrong}") from wrong
    quiet: Callable[[str], None] = importlib.import_module("loguru").logger.disable
    quiet("tau2")  # a page of log a tick
    agent = agents.DiscreteTimeAudioNativeAgent(
        tools=[], domain_policy="", tick_duration_ms=TICK_MS, adapter=adapter, vad_config=object()
    )
    heard, took_ms = [], []
    state = agent.get_init_state()
    call: TickCall = adapter.call
    try:
        for number, tick in enumerate(ticks):
            if plan.stall_ms and number % STALLED_EVERY == STALLED_EVERY - 1:
                time.sleep(plan.stall_ms / 1000)
            begun_s = time.monotonic()
            chunk = messages.UserMessage(
                role="user", content="", is_audio=True, audio_format=agent.audio_format, contains_speech=True,
                audio_content=base64.b64encode(tick).decode(),
            )  # fmt: skip
            answer, state = agent.get_next_chunk(state, chunk)
            heard.append(answer.get_audio_bytes())
            took_ms.append((time.monotonic() - begun_s) * 1000)
    finally:
        agent.stop()
        adapter.disconnect()
    told = {"refused_tool_results": adapter.refused_tool_results}
    return Exchange(list(ticks), heard, took_ms, _counted(call) | told)


def _counted(call: TickCall) -> dict[str, int]:
    return {
        "late_ticks": call.said.late_ticks,
        "silent_packets": call.said.silent_packets,
        "missing_bytes": call.heard.missing_bytes,
        "skipped_bytes": call.heard.skipped_bytes,
        "dropped_bytes": call.heard.dropped_bytes,
        "late_packets": call.heard.late_packets,
    }


def lag_ms(exchange: Exchange) -> float | None:
    """How much later the same sound comes back, ms: where the two fit best; None where nothing came."""
    said, heard = (
        g711.decode_mulaw(b"".join(ticks)).astype(np.float64) for ticks in (exchange.said, exchange.heard)
    )
    if not np.abs(heard).max(initial=0) > 200:
        return None
    size = 1 << (len(said) + len(heard)).bit_length()
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(said, size)), size)
    return round(int(product[: 2 * RATE_HZ].argmax()) * 1000 / RATE_HZ, 1)


def _loud(tick: bytes) -> bool:
    return bool(np.abs(g711.decode_mulaw(tick)).max() > 400)


def draw(exchange: Exchange, path: Path, title: str) -> bool:
    """Both sides over time, and what each tick took. False where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (sides, times) = pyplot.subplots(2, 1, figsize=(11, 4.5), sharex=True)
    for ticks, height, name in ((exchange.said, 1, "said"), (exchange.heard, -1, "heard")):
        pcm = g711.decode_mulaw(b"".join(ticks)).astype(np.float32)
        level = np.abs(pcm[: len(pcm) // 80 * 80].reshape(-1, 80)).max(1) / 32768
        sides.fill_between(np.arange(len(level)) / 100, height * level, label=name, linewidth=0)
    sides.set(yticks=[], title=title)
    sides.legend(loc="upper right")
    times.plot(np.arange(len(exchange.took_ms)) * TICK_MS / 1000, exchange.took_ms, ".", markersize=3)
    times.set(xlabel="ticks' time [s]", ylabel="a tick took [ms]")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
