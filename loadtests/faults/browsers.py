"""Hostile browsers beside live browser calls: over HTTP, at the ports of media, and with keys of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp

from loadtests import machine, processes, report, webrtc_figures
from loadtests.faults.calls import check_untouched
from loadtests.faults.churn import Holdings
from loadtests.faults.outcome import Outcome, Plan
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish, Process
from loadtests.hostile.browser import Browser
from loadtests.hostile.ports import crowd_tcp, flood_udp, paced
from loadtests.hostile.webrtc import authentic_rtcp, mutated_dtls, seeds
from loadtests.hostile.whip import WhipAttack, token
from loadtests.ports import free_port
from loadtests.webrtc_generator import GeneratorPlan, GeneratorResult, Schedule, work

OFFER = Path(__file__).parents[2] / "tests/gateway/webrtc/chromium-156.sdp"
CAPACITY = 40
MOST_LOG_LINES = 200
"""Of all processes, beside those of calls that begin and end."""
BAD_WORDS = (
    "Traceback",
    "never retrieved",
    "call broken",
    "offer broken",
    "worker broken",
    "too much for us",
)
PSS_TOLERANCE_KB, FIRST_PSS_TOLERANCE_KB = 6144, 16_384
"""Of a process: up to 31 calls that are over wait for the worker's sweep. The first attack also makes the process
as large as it gets: decoders, tables, arenas."""
PREPARE_S, FINISH_S, SETTLE_S, REFUSED_S = 60.0, 60.0, 25.0, 15.0


@dataclass(frozen=True, slots=True)
class Strength:
    """How much of everything, and how fast."""

    offers: int = 2000
    datagrams: int = 10_000
    packets: int = 10_000
    """RTP with keys; half as many of RTCP, a fifth of SCTP."""
    streams: int = 500
    per_s: float = 500.0
    """Of each kind. Attackers that fill the machine, which the live callers share, only show that it is full."""
    requests_per_s: float = 120.0
    """Over HTTP."""
    channels: int = 100
    slow: int = 8
    """Heads and bodies that do not come; they are waited for, 10 s."""

    def part(self, share: float) -> Strength:
        """The same, less of it."""
        counts = (self.offers, self.datagrams, self.packets, self.streams, self.channels)
        offers, datagrams, packets, streams, channels = (max(40, int(count * share)) for count in counts)
        return replace(
            self, offers=offers, datagrams=datagrams, packets=packets, streams=streams, channels=channels
        )


@dataclass(slots=True)
class Struck:
    """What an attack was made of, and who is left."""

    sent: dict[str, int] = field(default_factory=dict)
    cut: int = 0
    """Attackers whose connection ended by what they said."""
    victim_lives: bool = False


async def browser_hostile(plan: Plan) -> Outcome:
    """The whole strength, three times: what a process keeps for good, it has after two."""
    share = plan.hostile_web / 2000
    strength = Strength() if share == 1 else Strength().part(share)
    return await strike_beside_calls(strength, calls=6, seconds=60 + 90 * share, attacks=3)


async def strike_beside_calls(strength: Strength, calls: int, seconds: float, attacks: int) -> Outcome:
    """So many attacks on a gateway of its own, beside so many live calls that talk for so long.

    Of the last attack is told what was counted, logged and kept; gaps are those of all of them.
    """
    secret, port = secrets.token_hex(32), free_port()
    settings = {"webrtc_calls": str(CAPACITY), "webrtc_workers": "1", "jwt_secret": secret}
    settings |= {"webrtc_udp_port": str(port), "webrtc_tcp_port": str(port), "log_level": "info"}
    outcome = Outcome("browser-hostile", {"calls": calls, "attacks": attacks})
    begun_ns = time.monotonic_ns()
    with contextlib.ExitStack() as stack:
        witness = stack.enter_context(contextlib.ExitStack())
        stalls = witness.enter_context(machine.witnessed())
        gateway = stack.enter_context(GatewayUnderTest.start(GatewayWish(calls=1, settings=settings)))
        callers = stack.enter_context(live_callers(gateway, token(secret), calls, seconds))
        await _until(gateway, lambda m: m["microturn_webrtc_calls_live"] == calls)
        aim = Aim(gateway, secret, port)
        await aim.greet()
        for seed in range(attacks - 1):
            await aim.attack(strength, seed)
        ended_ns = await _last_attack(outcome, aim, strength, calls, attacks)
        over = await asyncio.to_thread(callers.result)
        witness.close()
    early = [log for log in over.logs if log.listened_until_ns < ended_ns or log.ended_by != "us"]
    outcome.expect(not early, f"{len(early)} calls were over before the attack was")
    outcome.figures["generator_late_ms"] = round(over.max_late_ms, 1)
    reports = webrtc_figures.report_calls(over.logs, over.voices)
    check_untouched(outcome, reports)
    span = begun_ns, time.monotonic_ns()
    outcome.figures["machine"] = stalls.figures(span, report.gap_starts(reports))
    gaps_ns = [int(at) for one in reports if one.windows is not None for at in one.windows.gap_starts_ns]
    outcome.figures["gaps_before_end_s"] = [
        round((ended_ns - at_ns) / 1e9, 1) for at_ns in sorted(gaps_ns)[:24]
    ]
    _check_http(outcome, aim.whip)
    return outcome


async def _last_attack(outcome: Outcome, aim: Aim, strength: Strength, calls: int, seed: int) -> int:
    """The one that is judged; when it ended, monotonic ns."""
    gateway = aim.gateway
    before = await _settled(gateway, calls)
    gateway.lines.clear()
    worker = gateway.only("webrtc-worker").pid
    counted, began_s, used_s = gateway.metrics(), time.monotonic(), processes.sample(worker)[0].cpu_s
    struck = await aim.attack(strength, seed)
    ended_ns = time.monotonic_ns()
    attack_s, used_s = ended_ns / 1e9 - began_s, processes.sample(worker)[0].cpu_s - used_s
    outcome.figures |= {"attack_s": round(attack_s, 1), "worker_core_percent": round(100 * used_s / attack_s)}
    outcome.figures |= struck.sent
    outcome.figures["attackers_cut"] = struck.cut
    outcome.expect(struck.victim_lives, "the caller whose address was forged lost its call")
    tolerance_kb = PSS_TOLERANCE_KB if outcome.figures["attacks"] > 1 else FIRST_PSS_TOLERANCE_KB
    _check_holdings(outcome, before, await _settled(gateway, calls), tolerance_kb)
    _check_counters(outcome, _grown(counted, gateway.metrics()), slow=strength.slow > 0)
    _check_log(outcome, list(gateway.lines))
    return ended_ns


class Aim:
    """A gateway to strike at."""

    def __init__(self, gateway: GatewayUnderTest, secret: str, port: int) -> None:
        self.gateway, self.port = gateway, port
        self.token = token(secret)
        self.whip = WhipAttack(gateway.http, secret, OFFER.read_bytes(), seeds("sdp"), 1)

    async def attack(self, strength: Strength, seed: int) -> Struck:
        """Everything at once; whoever it was is gone afterwards."""
        struck = Struck()
        async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
            group.create_task(self.whip.run(http, strength.offers, strength.slow, strength.requests_per_s))
            udp = group.create_task(flood_udp(self.port, strength.datagrams, strength.per_s, seed))
            tcp = group.create_task(crowd_tcp(self.port, strength.streams, seed))
            group.create_task(self._forge(http, strength, struck, seed))
            for work in (self._speak_media, self._speak_sctp):
                group.create_task(work(http, strength, struck, seed))
        struck.sent |= {"offers": strength.offers, "udp": udp.result(), "tcp": tcp.result()}
        return struck

    async def greet(self) -> None:
        """A caller with pictures, so that what is only made for the first one is there."""
        rng = random.Random("greet")
        async with aiohttp.ClientSession() as http:
            caller = await self._connect(http)
            await paced(300, 1000.0, lambda: caller.send_rtp(caller.media(rng).packet()))
            await caller.hang_up(http, self.token)

    async def _connect(self, http: aiohttp.ClientSession) -> Browser:
        return await Browser.connect(http, f"{self.gateway.http}/whip", self.token)

    async def _forge(
        self, http: aiohttp.ClientSession, strength: Strength, struck: Struck, seed: int
    ) -> None:
        """From the address of a live caller, what it did not sign; its call has to go on."""
        rng = random.Random(f"forge {seed}")
        victim = await self._connect(http)
        victim.channel.send(json.dumps({"type": "subscribe", "every_turns": 5}))

        def strike() -> None:
            rtp = bytes([0x80, rng.choice((96, 111, 200, 201))]) + rng.randbytes(rng.randrange(10, 2040))
            victim.forge(rng.choice((mutated_dtls(rng), rtp, rng.randbytes(rng.randrange(1, 2048)))))

        try:
            await paced(strength.datagrams // 2, strength.per_s / 2, strike)
            heard = len(victim.messages)
            await asyncio.sleep(2.5)
            struck.victim_lives = sum(m["type"] == "turns" for m in victim.messages[heard:]) >= 2
        except ConnectionError:
            struck.victim_lives = False
        struck.sent["forged"] = strength.datagrams // 2
        await victim.hang_up(http, self.token)

    async def _speak_media(
        self, http: aiohttp.ClientSession, strength: Strength, struck: Struck, seed: int
    ) -> None:
        """RTP and RTCP that are authentic, and nothing else."""
        rng, known = random.Random(f"media {seed}"), seeds("rtcp")

        async def speak(caller: Browser) -> None:
            media, ssrcs = caller.media(rng), [caller.audio_type, *caller.video_types, 7]
            await paced(20, strength.per_s, lambda: caller.send_rtp(media.packet()))
            await paced(10, strength.per_s, lambda: caller.send_rtcp(authentic_rtcp(rng, known, ssrcs)))

        await self._go_on(http, struck, strength.packets // 20, speak)
        struck.sent |= {"rtp": strength.packets, "rtcp": strength.packets // 2}

    async def _speak_sctp(
        self, http: aiohttp.ClientSession, strength: Strength, struck: Struck, seed: int
    ) -> None:
        """The data channel: too many, too long, no JSON; then SCTP that is none, in one record or twenty."""
        rng = random.Random(f"sctp {seed}")

        async def speak(caller: Browser) -> None:
            await paced(10, strength.per_s / 4, lambda: caller.send_sctp(rng))
            caller.send_records(rng)

        await self._open_and_shout(http, strength.channels, rng)
        await self._go_on(http, struck, strength.packets // 50, speak)
        struck.sent["sctp"] = strength.packets // 5

    async def _open_and_shout(self, http: aiohttp.ClientSession, channels: int, rng: random.Random) -> None:
        caller = await self._connect(http)
        for message in _messages(rng):
            caller.channel.send(message)
        refused = "microturn_transport_channels_refused_total"
        before = (await asyncio.to_thread(self.gateway.metrics)).get(refused, 0.0)
        for number in range(channels):
            caller.peer.createDataChannel(f"x{number}")
        with contextlib.suppress(
            TimeoutError
        ):  # they wait behind what was shouted; the judge says what is missing
            await asyncio.to_thread(self.gateway.wait_for, lambda m: m.get(refused, 0.0) > before, REFUSED_S)
        await asyncio.sleep(1.0)
        await caller.hang_up(http, self.token)

    async def _go_on(
        self,
        http: aiohttp.ClientSession,
        struck: Struck,
        times: int,
        speak: Callable[[Browser], Awaitable[None]],
    ) -> None:
        """So often; a caller that was cut off for it is followed by another."""
        caller = await self._connect(http)
        for _ in range(times):
            try:
                await speak(caller)
            except ConnectionError:
                struck.cut += 1
                await caller.hang_up(http, self.token)
                caller = await self._connect(http)
        await caller.hang_up(http, self.token)


def _messages(rng: random.Random) -> Iterator[str | bytes]:
    yield "x" * 60_000
    yield '{"type":"hello","version":1,"x":' + "[" * 3000
    for _ in range(300):
        yield rng.choice(
            ("", "{", "[]", "null", rng.randbytes(900), '{"type":"text"}', '{"type":"dance"}', "\0" * 5000,
             '{"type":"text","text":"' + "é" * 900 + '"}', '{"type":"subscribe","every_turns":1e99}')
        )  # fmt: skip


# -- the live calls


class Callers:
    """The load generator's process, while it talks."""

    def __init__(self, child: Connection) -> None:
        self._child = child

    def result(self) -> GeneratorResult:
        """When all have hung up. Raises RuntimeError when they failed."""
        if not self._child.poll(FINISH_S + PREPARE_S):
            raise RuntimeError("the live callers said nothing in time")
        said = self._child.recv()
        if not isinstance(said, GeneratorResult):
            raise RuntimeError(f"the live callers failed: {said}")
        return said


@contextlib.contextmanager
def live_callers(gateway: GatewayUnderTest, bearer: str, calls: int, seconds: float) -> Iterator[Callers]:
    """`calls` that talk numbered tones for `seconds`, in a process of their own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    plan = GeneratorPlan(
        schedule=Schedule(calls, ramp=4.0, settle_s=2.0, seconds=seconds),
        first=0, step=1, whip_url=f"{gateway.http}/whip", token=bearer, sounds=None, clip=None,
        voices=min(calls, 4), voice_s=20.0, ptime_ms=20, loss=0.0, seed=1, channel=True,
    )  # fmt: skip
    process = context.Process(target=work, args=(plan, theirs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(PREPARE_S) or ours.recv() != "ready":
            raise RuntimeError("the live callers did not get ready")
        ours.send(time.monotonic_ns() + 500_000_000)
        yield Callers(ours)
    finally:
        ours.close()
        process.join(5.0)
        process.kill()
        process.join()


# -- what is checked


async def _until(gateway: GatewayUnderTest, holds: Callable[[dict[str, float]], bool]) -> None:
    await asyncio.to_thread(gateway.wait_for, holds, SETTLE_S)


async def _settled(gateway: GatewayUnderTest, calls: int) -> dict[Process, Holdings]:
    """What gateway and worker hold once only the live calls are left, and slow strangers were closed."""
    await _until(gateway, lambda m: m["microturn_webrtc_calls_live"] == calls)
    await asyncio.sleep(1.0)
    kinds = ("gateway", "webrtc-worker", "model-server")
    return {
        process: Holdings(process.pss_kb(), process.descriptors(), process.threads())
        for process in gateway.processes()
        if process.kind in kinds
    }


def _grown(before: dict[str, float], after: dict[str, float]) -> dict[str, int]:
    """Counters that moved, without prefix and suffix."""
    grown: dict[str, int] = {}
    for name, value in after.items():
        if "_total" in name and value != before.get(name, 0.0):
            short = name.removeprefix("microturn_").replace("_total", "", 1)
            grown[short] = int(value - before.get(name, 0.0))
    return grown


HAVE_TO_COUNT = (
    'admission_refused{by="http",reason="unauthorised"}', 'admission_refused{by="http",reason="malformed"}',
    "http_refused_gone", "http_refused_precondition", "http_server_connections_too_slow",
    'admission_refused{by="browsers",reason="worker"}', "offers_malformed", "ice_bad_stun",
    "ice_unmatched", "ice_tcp_bad_frames", "ice_tcp_silent", "transport_srtp_refused",
    "transport_rtcp_malformed", "transport_sctp_refused", "transport_sources_refused",
    "transport_channels_refused", "http_server_requests_malformed", "messages_refused", "jitter_malformed",
    "video_packets_bad",
)  # fmt: skip
MUST_NOT_COUNT = ("calls_broken", "calls_lost", "worker_restarts", "ice_errors")


def _check_counters(outcome: Outcome, grown: dict[str, int], *, slow: bool) -> None:
    uncounted = [name for name in HAVE_TO_COUNT if grown.get(name, 0) <= 0 and (slow or "slow" not in name)]
    outcome.expect(not uncounted, f"not counted: {', '.join(uncounted)}")
    broken = {name: grown[name] for name in MUST_NOT_COUNT if grown.get(name)}
    outcome.expect(not broken, f"counted: {broken}")
    fallen = {name: value for name, value in grown.items() if value < 0}
    outcome.expect(not fallen, f"counters fell: {fallen}")
    outcome.figures["counted"] = "/".join(f"{name}:{grown.get(name, 0)}" for name in HAVE_TO_COUNT)
    outcome.figures |= {
        name: grown.get(name, 0) for name in ("turns_missed", "turns_late")
    }  # of attackers, too


def _check_http(outcome: Outcome, whip: WhipAttack) -> None:
    outcome.figures["http"] = "/".join(
        f"{kind}:{'+'.join(f'{count}x{status}' for status, count in sorted(counts.items()))}"
        for kind, counts in whip.statuses.items()
    )
    for wrong in whip.wrong:
        outcome.expect(False, wrong)


def _check_holdings(
    outcome: Outcome, before: dict[Process, Holdings], after: dict[Process, Holdings], tolerance_kb: int
) -> None:
    outcome.expect(before.keys() == after.keys(), "a process died")
    for process in before.keys() & after.keys():
        was, now = before[process], after[process]
        outcome.figures[f"pss_kb_{process.kind}"] = f"{was.pss_kb}->{now.pss_kb}"
        grown_kb = now.pss_kb - was.pss_kb
        outcome.expect(grown_kb <= tolerance_kb, f"{process.kind} grew by {grown_kb} kB")
        for what in ("descriptors", "threads"):
            a, b = getattr(was, what), getattr(now, what)
            outcome.expect(b <= a, f"{process.kind}: {a} {what} before, {b} after")


def _check_log(outcome: Outcome, log: list[str]) -> None:
    others = [line for line in log if " call " not in line and " call over " not in line]
    outcome.figures["log_lines"] = len(others)
    outcome.expect(len(others) <= MOST_LOG_LINES, f"{len(others)} lines of log, such as {others[-1:]}")
    bad = [line.strip() for line in log if any(word in line for word in BAD_WORDS)]
    outcome.expect(not bad, f"{len(bad)} bad lines of log, such as {bad[:2]}")
