"""Live calls of a case, and what is checked of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np

from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.report import CallReport, report_call
from gateway.caller.signals import numbered_tones
from gateway.caller.stream import RtpStream
from gateway.priority import keeping_time
from loadtests.faults.outcome import Outcome
from loadtests.gateway_under_test import GatewayUnderTest
from media.rtp import BadPacket, parse_packet

RATE_HZ = 8000
MS, S = 1_000_000, 1_000_000_000
PLACED_PER_S = 20.0  # the wheel takes ten INVITEs a second per process, and there are at least two of them
BEFORE_S, AFTER_S = 3.0, 6.0  # of steady calls on either side of the fault
GAP_TOLERANCE_MS = (
    20.0  # a call: one frame, which a clock thread that is late once costs; a missed turn is 200
)
SILENCE_MS = 100.0  # between two packets of a call that nothing happened to


class LiveCalls:
    """Calls that are up together and play numbered tones, each its own, until their time is over."""

    def __init__(self, caller: Caller, gateway: GatewayUnderTest) -> None:
        self._caller = caller
        self._gateway = gateway
        self._tasks: list[asyncio.Task[CallLog]] = []

    async def place(self, count: int, seconds: float, number: str = "") -> None:
        """To that number of the gateway's. Returns when `count` more calls are up and have been so for `BEFORE_S`,
        or TimeoutError."""
        wanted = len(self._tasks) + count
        ramp_s = count / PLACED_PER_S
        # made before anybody speaks: it would hold up the pacing
        plans = [
            await asyncio.to_thread(
                tones, self._uri(number), seconds + BEFORE_S + ramp_s - index / PLACED_PER_S, index
            )
            for index in range(len(self._tasks), wanted)
        ]
        for plan in plans:  # they all end together
            self._tasks.append(asyncio.create_task(self._caller.place(plan), name=f"call-{len(self._tasks)}"))
            await asyncio.sleep(1 / PLACED_PER_S)
        await self.until(lambda m: m["microturn_calls_live"] == wanted)
        await asyncio.sleep(BEFORE_S)

    def plan(self, seconds: float, number: str = "", seed: int = 500) -> CallPlan:
        """For `begin`. To be made before anybody speaks: it would hold up the pacing."""
        return tones(self._uri(number), seconds, seed)

    def begin(self, plan: CallPlan) -> None:
        """One more call, which is not waited for."""
        self._tasks.append(asyncio.create_task(self._caller.place(plan), name=f"call-{len(self._tasks)}"))

    def _uri(self, number: str) -> str:
        return self._gateway.uri.replace("sip:", f"sip:{number}@") if number else self._gateway.uri

    def streams(self) -> list[RtpStream]:
        """Their media, in the order in which they were placed."""
        return self._caller.streams()

    async def until(self, holds: Callable[[dict[str, float]], bool], timeout_s: float = 10.0) -> int:
        """As `GatewayUnderTest.wait_for`, without holding up the calls."""
        return await asyncio.to_thread(self._gateway.wait_for, holds, timeout_s)

    async def finish(self, after_s: float | None = None) -> list[CallLog]:
        """Wait for all to end by themselves; with `after_s` no longer than that, and the tail of their plans."""
        if after_s is not None:
            await asyncio.wait(self._tasks, timeout=after_s)
            self._caller.wind_up()
        return list(await asyncio.gather(*self._tasks))

    async def cancel(self) -> None:
        """Hang up what is left when something failed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def tones(uri: str, seconds: float, seed: int) -> CallPlan:
    """A call of `seconds` whose every 200 ms are unlike all others."""
    pcm = numbered_tones(seconds, RATE_HZ, seed + 1000)
    return CallPlan(uri, "PCMU", pcm, play_rate_hz=RATE_HZ, seconds=seconds, lead_in_s=0.2, tail_s=1.0)


@contextlib.asynccontextmanager
async def live_calls(gateway: GatewayUnderTest) -> AsyncIterator[LiveCalls]:
    """A caller, and the certainty that no call of it outlives the block."""
    with keeping_time():  # a caller that is late would be taken for a gateway that is
        async with Caller() as caller:
            calls = LiveCalls(caller, gateway)
            try:
                yield calls
            finally:
                await calls.cancel()


async def check_new_call(gateway: GatewayUnderTest, outcome: Outcome) -> None:
    """A call after it all: answered, and heard again."""
    with keeping_time():
        async with Caller() as caller:
            log = await caller.place(await asyncio.to_thread(tones, gateway.uri, 3.0, 77))
    report = report_call(log)
    outcome.figures["new_call"] = report.status
    heard = f"{report.received_packets} packets came, {report.gap_ms:.0f} ms of sound did not come back"
    outcome.expect(report.answered, f"a new call got {report.status} {report.reason}")
    outcome.expect(
        report.media_came_back and report.gap_ms <= GAP_TOLERANCE_MS, f"a new call is not whole: {heard}"
    )


async def check_all_free(gateway: GatewayUnderTest, outcome: Outcome) -> None:
    """No call lives and no slot is leased: every BYE was taken."""
    free = lambda m: m["microturn_calls_live"] == 0 and m["microturn_model_slots_leased"] == 0  # noqa: E731
    try:
        await asyncio.to_thread(gateway.wait_for, free, 5.0)
    except (TimeoutError, KeyError) as wrong:
        outcome.expect(False, f"calls or slots are left over: {wrong}")


def lag_ms(report: CallReport, begin_ns: int, end_ns: int) -> float | None:
    """Median delay of what was sent in a time, or None."""
    assert report.windows is not None
    sent = report.windows.sent_ns
    within = report.windows.delay_ms[(sent >= begin_ns) & (sent < end_ns)]
    return float(np.median(within)) if within.size else None


def loudness(log: CallLog, begin_ns: int, end_ns: int) -> float:
    """The loudest packet's RMS among those that arrived in a time; 0 without any."""
    loudest = 0.0
    for datagram, arrival_ns in zip(log.datagrams, log.arrivals_ns, strict=True):
        if not begin_ns <= arrival_ns < end_ns:
            continue
        packet = parse_packet(datagram)
        if not isinstance(packet, BadPacket) and packet.payload_type == log.received_type:
            pcm = log.codec.decode(packet.payload).astype(np.float64)
            loudest = max(loudest, float(np.sqrt(np.mean(pcm**2))))
    return loudest


def check_untouched(outcome: Outcome, reports: Sequence[CallReport]) -> None:
    """These calls heard nothing of it."""
    gaps = [report.gap_ms for report in reports]
    silences = [report.longest_silence_ms for report in reports]
    outcome.gap_starts_ns += [one.windows.gap_starts_ns for one in reports if one.windows is not None]
    outcome.figures["untouched"] = len(reports)
    outcome.figures["gap_ms_worst"] = max(gaps, default=0.0)
    outcome.figures["silence_ms_worst"] = round(max(silences, default=0.0), 1)
    outcome.figures["calls_with_gaps"] = sum(gap > 0 for gap in gaps)
    outcome.expect(
        max(gaps, default=0.0) <= GAP_TOLERANCE_MS,
        f"gaps of {sorted(gaps)[-3:]} ms where there should be none",
    )
    outcome.expect(
        max(silences, default=0.0) < SILENCE_MS, f"{max(silences, default=0.0):.0f} ms without a packet"
    )
