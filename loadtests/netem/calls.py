"""Real calls over the wire: SIP by our own caller, with pjmedia behind the gateway's door; WebRTC by aiortc's
transport, with `media/jitter.py` behind it, or by Chromium (`browser.py`) with NetEq. The gateway runs the echo
engine, so a call hears itself.

    3 s | clean: X | 5 s | up bad: X | 5 s | down bad: X | 5 s        X the same sentences each time

While only the way up is bad, what comes back is what the *gateway's* receive path made of it; while only the way
down is, what the *caller's* made of it, for which our `JitterBuffer` stands, fed with the packets and their arrival
times. A bad spell begins a second before X and ends with it: the filler behind it shows how soon delay is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import multiprocessing
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np
import soxr

from gateway.api.tokens import mint
from gateway.caller import calls as sip
from gateway.priority import keeping_time
from loadtests import processes, report, webrtc_figures
from loadtests.aiortc_taps import check_as_browsers_do
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from loadtests.netem import browser, namespaces, speech
from loadtests.netem.cpu import CpuWatch
from loadtests.netem.score import Heard
from loadtests.netem.wire import WirePlan
from loadtests.webrtc_call import CallLog, CallPlan, WebrtcCall
from loadtests.webrtc_loop import CallerLoop
from loadtests.webrtc_media import Voice, encode_opus
from loadtests.webrtc_repairs import REPAIRS
from loadtests.webrtc_streams import Pacer
from loadtests.webrtc_systems import System
from media.timebase import NS_PER_S

LEAD_S: Final = 3.0
GAP_S: Final = 5.0
"""After a bad spell: what DESIGN allows for recovery, and time to see that it lasts."""
EARLY_S: Final = 1.0
LEAST_S: Final = 4.0
STOP_TIMEOUT_S: Final = 10.0
WORKERS_TIMEOUT_S: Final = 20.0
CALL_TIMEOUT_S: Final = 60.0  # beyond the length of the call
LEGS: Final = ("sip", "webrtc", "chromium")
CODECS: Final = ("PCMU", "PCMA")


@dataclass(frozen=True, slots=True)
class Spell:
    """One rendering of X: its name, and when it is said, in seconds from the first packet."""

    name: str
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """What a call says, and when the network is bad."""

    seconds: float  # of X

    @property
    def spells(self) -> tuple[Spell, ...]:
        starts = [LEAD_S + index * (self.seconds + GAP_S) for index in range(3)]
        return tuple(
            Spell(name, at_s, at_s + self.seconds)
            for name, at_s in zip(("clean", "up", "down"), starts, strict=True)
        )

    @property
    def length_s(self) -> float:
        return self.spells[-1].until_s + GAP_S

    @property
    def script(self) -> tuple[tuple[float, bool, bool], ...]:
        """Of the wire: up and down bad from then on."""
        _, up, down = self.spells
        return (
            (up.from_s - EARLY_S, True, False),
            (up.until_s, False, False),
            (down.from_s - EARLY_S, False, True),
            (down.until_s, False, False),
        )

    def said(self) -> speech.Samples:
        """int16 [n] at `speech.RATE`. Raises OSError without speech."""
        everything = speech.joined(speech.sentences(), self.seconds + self.length_s)
        x, filler = np.split(everything, [round(self.seconds * speech.RATE)])
        pcm = filler[: round(self.length_s * speech.RATE)].copy()
        for spell in self.spells:
            at = round(spell.from_s * speech.RATE)
            pcm[at : at + len(x)] = x
        return pcm


@dataclass(frozen=True, slots=True)
class LivePlan:
    """One run: one profile, one kind of leg."""

    profile: str
    leg: str
    calls: int
    seconds: float
    codec: str  # of a SIP leg
    seed: int
    repair: str = "nack"
    engine: str = "echo"

    def __post_init__(self) -> None:
        if self.leg not in LEGS:
            raise ValueError(f"--leg {self.leg!r}: choose from {', '.join(LEGS)}")
        if self.codec not in CODECS:
            raise ValueError(f"--codec {self.codec!r}: choose from {', '.join(CODECS)}")
        if self.repair not in REPAIRS:
            raise ValueError(f"--repair {self.repair!r}: choose from {', '.join(REPAIRS)}")
        if self.leg == "chromium" and (self.calls > 1 or self.repair == "fec"):
            raise ValueError("--leg chromium: one call, and its page always offers repeats (nack, red)")
        if self.calls < 1 or self.seconds < LEAST_S:
            raise ValueError(
                f"--calls must be positive, and --seconds {LEAST_S} or more: PESQ wants that much"
            )

    @property
    def timeline(self) -> Timeline:
        return Timeline(self.seconds)


@dataclass(frozen=True, slots=True)
class LiveCall:
    """One finished call. `datagrams` are RTP as they came, beside `arrivals_ns`."""

    began_ns: int  # the first packet left; 0 when the call did not come about
    datagrams: list[bytes]
    arrivals_ns: list[int]
    reason: str
    repeated: frozenset[int] = frozenset()
    """Which of them came because they were asked for."""
    red: int = 0
    """Payload type of redundant audio; 0 for none."""
    said_ns: int = 0
    """When its first sample was said; 0: with the first packet, which takes 20 ms."""
    counted: Mapping[str, float] = field(default_factory=dict)
    """By the caller itself."""
    heard: Heard | None = None
    """What the caller's own receive path made of it; None: of `datagrams` ours makes it."""


@dataclass(frozen=True, slots=True)
class LiveRun:
    """All that was seen of one run."""

    calls: list[LiveCall]
    said: speech.Samples
    turns: Mapping[str, int | None]
    counted: Mapping[str, int]
    wire: Mapping[str, Any]
    cpu_percent: Mapping[str, float]
    watch: CpuWatch
    """Of the workers that carry calls of this leg."""


def run(plan: LivePlan) -> LiveRun:
    """Start a gateway behind the wire, make the calls, stop it. Raises RuntimeError where that is not possible."""
    said = plan.timeline.said()
    with namespaces.wired() as (caller, gateway_end), gateway_end.entered(), _gateway(plan) as gateway:
        port = int(gateway.uri.rpartition(":")[2].partition(";")[0])
        with _wire(_wire_plan(plan, port), (caller.tun, gateway_end.tun)) as told:
            before, first, began_s = _metrics(gateway), _sample(gateway), time.monotonic()
            kind = "sip-worker" if plan.leg == "sip" else "webrtc-worker"
            watch = CpuWatch([process.pid for process in first if process.kind == kind])
            with caller.entered(), watch:
                calls = _made(plan, gateway, said)
            after, last, ended_s = _metrics(gateway), _sample(gateway), time.monotonic()
    if plan.leg == "chromium":
        calls = [dataclasses.replace(call, began_ns=told.pop("began_ns", 0)) for call in calls]
    usage = processes.usage_by_kind(first, last)
    cpu = {
        kind: round(100 * used.cpu_s / (ended_s - began_s) / plan.calls, 2) for kind, used in usage.items()
    }
    counted = webrtc_figures.counted_between(
        *(webrtc_figures.parse_counters(text) for text in (before, after))
    )
    turns = report.turns_between(report.parse_turns(before), report.parse_turns(after))
    return LiveRun(calls, said, turns, counted, told, cpu, watch)


def _made(plan: LivePlan, gateway: GatewayUnderTest, said: speech.Samples) -> list[LiveCall]:
    """The calls, when they are over."""
    if plan.leg == "sip":
        return _sip_calls(plan, gateway.uri, said)
    if plan.leg == "chromium":
        found = browser.call(gateway.http.rstrip("/"), mint(SECRET, "netem", 3600), said)
        return [LiveCall(0, [], [], "", said_ns=found.said_ns, counted=found.statistics, heard=found.heard)]
    return _web_calls(plan, gateway, said)


# -- gateway and wire


SECRET: Final = secrets.token_hex(32)


@contextlib.contextmanager
def _gateway(plan: LivePlan) -> Iterator[GatewayUnderTest]:
    """`microturn up` at the gateway's end of the wire, ready for this kind of leg."""
    host = namespaces.GATEWAY
    settings = {"rtp_host": host, "webrtc_host": host, "http_host": host, "jwt_secret": SECRET}
    if plan.leg != "sip":
        settings["webrtc_calls"] = str(plan.calls)
        settings["red"] = "on" if plan.repair == "red" else "off"
    wish = GatewayWish(calls=max(2, plan.calls), engine=plan.engine, host=host, settings=settings)
    with GatewayUnderTest.start(wish) as gateway:
        deadline_s = time.monotonic() + WORKERS_TIMEOUT_S
        while plan.leg != "sip" and "webrtc-worker" not in {process.kind for process in gateway.processes()}:
            if time.monotonic() > deadline_s:
                raise RuntimeError(
                    "microturn up has no webrtc-worker:\n" + "".join(list(gateway.lines)[-12:])
                )
            time.sleep(0.05)
        workers = sum(process.kind.endswith("-worker") for process in gateway.processes())
        gateway.wait_for(lambda metrics: metrics["microturn_workers_ready"] >= workers)
        yield gateway


def _wire_plan(plan: LivePlan, sip_port: int) -> WirePlan:
    return WirePlan((-1, -1), plan.profile, plan.seed, frozenset({sip_port}), plan.timeline.script)


@contextlib.contextmanager
def _wire(plan: WirePlan, tuns: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """The wire's process; what it tells is in the dictionary when the block is left."""
    plan = dataclasses.replace(plan, tuns=tuns)
    told: dict[str, Any] = {}
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtests.netem.wire", plan.as_json()],
        pass_fds=tuns,
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("the wire between the namespaces did not come up")
        yield told
        told |= json.loads(process.communicate("", STOP_TIMEOUT_S)[0])
    finally:
        process.kill()
        process.wait()


def _metrics(gateway: GatewayUnderTest) -> str:
    return System("gateway", "", f"{gateway.http.rstrip('/')}/metrics", None).metrics()


def _sample(gateway: GatewayUnderTest) -> list[processes.ProcessSample]:
    return processes.sample(gateway.only("up").pid)


# -- SIP


def _sip_calls(plan: LivePlan, uri: str, said: speech.Samples) -> list[LiveCall]:
    return asyncio.run(_all_sip_calls(plan, uri, said))


async def _all_sip_calls(plan: LivePlan, uri: str, said: speech.Samples) -> list[LiveCall]:
    call = sip.CallPlan(
        uri, plan.codec, said, speech.RATE, len(said) / speech.RATE, record=False, lead_in_s=0.0, tail_s=0.0
    )
    with keeping_time():
        async with sip.Caller() as caller:
            logs = await asyncio.gather(*(caller.place(call) for _ in range(plan.calls)))
    return [
        LiveCall(
            log.sent_ns[0] if log.answered and log.sent_ns else 0,
            log.datagrams,
            list(log.arrivals_ns),
            "" if log.answered else f"{log.status} {log.reason}",
        )
        for log in logs
    ]


# -- WebRTC: a process, since a CallerLoop and its aiortc are best thrown away


def _web_calls(plan: LivePlan, gateway: GatewayUnderTest, said: speech.Samples) -> list[LiveCall]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    url, token = f"{gateway.http.rstrip('/')}/whip", mint(SECRET, "netem", 3600)
    process = context.Process(target=work, args=(theirs, url, token, said, plan))
    process.start()
    theirs.close()
    try:
        if not ours.poll(plan.timeline.length_s + CALL_TIMEOUT_S):
            raise RuntimeError("the browsers' process said nothing in time")
        found = ours.recv()
    except EOFError:
        raise RuntimeError("the browsers' process ended early") from None
    finally:
        ours.close()
        process.join(5.0)
        process.kill()
        process.join()
    if isinstance(found, str):
        raise RuntimeError(found)
    calls: list[LiveCall] = found
    return calls


def work(parent: Connection, url: str, token: str, said: speech.Samples, plan: LivePlan) -> None:
    """The browsers' process: encodes, calls, talks once through, hands over what came."""
    packets = encode_opus(soxr.resample(said, speech.RATE, speech.OPUS_HZ), 20, speech.EXPECTED_LOSS / 100)
    voice = Voice(np.zeros(0, np.int16), tuple(packets), 20)
    check_as_browsers_do()
    try:
        with asyncio.Runner(loop_factory=CallerLoop) as runner:
            parent.send(runner.run(_all_web_calls(url, token, voice, plan)))
    except (OSError, ValueError) as error:
        parent.send(f"{type(error).__name__}: {error}")


async def _all_web_calls(url: str, token: str, voice: Voice, plan: LivePlan) -> list[LiveCall]:
    plans = [
        CallPlan(index, url, token, voice, 0, 0, None, 0.0, plan.seed, False, plan.repair)
        for index in range(plan.calls)
    ]
    async with Pacer() as pacer, aiohttp.ClientSession() as http:
        calls = [WebrtcCall(plan, pacer, http) for plan in plans]
        until_s = time.monotonic() + len(voice.packets) * 0.02 + 1.0
        with keeping_time():
            await asyncio.gather(*(call.run(until_s) for call in calls))
    return [_live(call.finish()) for call in calls]


def _live(log: CallLog) -> LiveCall:
    began_ns = log.sent_ns[0] if len(log.sent_ns) else 0
    return LiveCall(
        began_ns,
        log.datagrams,
        list(log.arrivals_ns),
        log.reason,
        repeated=frozenset(log.repeated),
        red=log.red,
        counted={"asked": log.asked, "repeated": len(log.repeated), "resent": log.resent},
    )


def spell_ns(call: LiveCall, spell: Spell) -> tuple[int, int]:
    """When it was said, monotonic ns."""
    first_ns = call.said_ns or call.began_ns
    return first_ns + round(spell.from_s * NS_PER_S), first_ns + round(spell.until_s * NS_PER_S)


def ended(calls: Sequence[LiveCall]) -> list[LiveCall]:
    """Those that came about and heard something."""
    return [call for call in calls if call.began_ns and (call.datagrams or call.heard)]
