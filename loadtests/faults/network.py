"""The network of live calls: media of one is lost for a while or for good, and strangers send at all of them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
import time
from collections.abc import Iterator

from gateway.caller.calls import CallLog
from gateway.caller.report import report_call
from gateway.caller.stream import RtpStream
from loadtests import beside
from loadtests.faults.calls import S, check_all_free, check_new_call, check_untouched, live_calls
from loadtests.faults.heard import Promise, Span, judge_heard
from loadtests.faults.outcome import Outcome, Plan
from loadtests.faults.stalled import BETWEEN_S, grown
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish

AWAY_S, RTP_TIMEOUT_S = 3.0, 5
ENDED_WITHIN_S = 3.0
"""After the time-out: workers look once a second."""
FLOOD_S, FLOOD_CALLS = 6.0, 8
COUNTED = ("turns_missed", "turns_late", "frames_skipped")
START_S = 10.0
"""Until the strangers' process runs, at most."""
_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # asm-generic/socket.h; the socket module lacks them
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF: return 0 bytes of every packet


class Cut:
    """A call's media falls into a hole, both ways, as in a network that has parted: nobody is told.

    What the caller sends goes to a socket of ours that nobody reads; what comes for it, its kernel drops.
    """

    def __init__(self, stream: RtpStream, hole: tuple[str, int]) -> None:
        self._stream, self._remote, self._hole = stream, stream.remote, hole

    def begin(self) -> int:
        """From now on; monotonic ns."""
        program = ctypes.create_string_buffer(_DROP_ALL, len(_DROP_ALL))
        told = struct.pack("HL", 1, ctypes.addressof(program))  # struct sock_fprog
        self._stream.sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, told)
        self._stream.remote = self._hole
        return time.monotonic_ns()

    def end(self) -> int:
        """The network is whole again; monotonic ns."""
        self._stream.sock.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
        self._stream.remote = self._remote
        return time.monotonic_ns()


@contextlib.contextmanager
def hole() -> Iterator[tuple[str, int]]:
    """Where packets go and nobody answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        yield deaf.getsockname()[:2]


async def network_partition(plan: Plan) -> Outcome:
    """The media of one call is away for 3 s, of another for good: it ends, the first goes on."""
    outcome = Outcome("network-partition")
    count = max(4, plan.calls)
    wish = GatewayWish(calls=count, settings={"rtp_timeout_s": str(RTP_TIMEOUT_S)})
    with GatewayUnderTest.start(wish) as gateway, hole() as nowhere:
        async with live_calls(gateway) as calls:
            await calls.place(count, RTP_TIMEOUT_S + ENDED_WITHIN_S + AWAY_S + BETWEEN_S + 1.0)
            before = await asyncio.to_thread(gateway.metrics)
            first, second = calls.streams()[:2]
            lost = Cut(second, nowhere).begin()
            away = Cut(first, nowhere)
            begin_ns = away.begin()
            await asyncio.sleep(AWAY_S)
            span = begin_ns, away.end()
            timed_out = lambda m: m["microturn_rtp_timeouts_total"] == 1  # noqa: E731
            over_ns = await calls.until(timed_out, RTP_TIMEOUT_S + ENDED_WITHIN_S)
            await asyncio.sleep(BETWEEN_S)
            outcome.figures |= grown(before, await asyncio.to_thread(gateway.metrics), ("rtp_timeouts",))
            logs = await calls.finish()
        await check_all_free(gateway, outcome)
        await check_new_call(gateway, outcome)
    outcome.figures["ended_after_s"] = round((over_ns - lost) / S, 1)
    judge_partition(outcome, logs, span)
    return outcome


def judge_partition(outcome: Outcome, logs: list[CallLog], span: Span) -> None:
    """The first call was away for that time, the second from its begin on for good."""
    away, lost, others = logs[0], logs[1], logs[2:]
    own = Outcome("")
    judge_heard(own, [away], [span], Promise(packets=False, comfort=False))
    outcome.broken += [f"the call that was away for {AWAY_S:.0f} s: {told}" for told in own.broken]
    outcome.expect(lost.ended_by == "peer", f"the call without RTP was ended by {lost.ended_by}")
    check_untouched(outcome, [report_call(log) for log in others])
    outcome.figures["untouched_gap_ms_worst"] = outcome.figures.pop("gap_ms_worst")
    ended = sum(log.ended_by != "us" for log in logs)
    outcome.figures |= own.figures | {"calls": len(logs), "ended_calls": ended}
    outcome.expect(ended == 1, f"{ended} calls were ended, but one should have been")


async def flood(plan: Plan) -> Outcome:
    """RTP of strangers at live calls: locked to their callers (`rtp_source = lock`) they hear nothing of it.

    `learn` follows whoever sends: sound is the strangers' as long as they send, and the caller's again at most 2 s
    later.
    """
    outcome, learn = Outcome("flood"), Outcome("")
    logs, _ = await _flooded(plan, outcome, "lock")
    check_untouched(outcome, [report_call(log) for log in logs])
    logs, span = await _flooded(plan, learn, "learn")
    judge_heard(learn, logs, [span], Promise(packets=False, comfort=False))
    outcome.broken += [f"learn: {told}" for told in learn.broken]
    outcome.figures |= {f"learn_{name}": value for name, value in learn.figures.items()}
    return outcome


async def _flooded(plan: Plan, outcome: Outcome, source: str) -> tuple[list[CallLog], Span]:
    with GatewayUnderTest.start(GatewayWish(calls=16, settings={"rtp_source": source})) as gateway:
        async with live_calls(gateway) as calls:
            await calls.place(FLOOD_CALLS, FLOOD_S + START_S + BETWEEN_S + 1.0)
            ports = [port for worker in gateway.workers() for port in gateway.rtp_ports(worker)]
            arguments = ["--ports", ",".join(map(str, ports)), "--per-s", str(plan.strangers_per_s)]
            before = await asyncio.to_thread(gateway.metrics)
            _, told = await beside.run(
                "loadtests.faults.strangers", *arguments, "--seconds", str(FLOOD_S), nice=10
            )
            outcome.figures |= grown(before, await asyncio.to_thread(gateway.metrics), COUNTED)
            logs = await calls.finish(after_s=BETWEEN_S)
        await check_all_free(gateway, outcome)
        await check_new_call(gateway, outcome)
    span = int(told.get("begin_ns", 0)), int(told.get("end_ns", 0))
    sent, ended = int(told.get("sent", 0)), sum(log.ended_by != "us" for log in logs)
    outcome.figures |= {"calls": len(logs), "ended_calls": ended, "ports": len(ports), "sent": sent}
    outcome.figures["sent_per_s"] = round(sent / max(0.1, (span[1] - span[0]) / S))
    outcome.expect(not ended, f"{ended} calls were ended")
    enough = plan.strangers_per_s * FLOOD_S / 4
    outcome.expect(sent > enough, f"only {sent} packets were sent: little is shown")
    return logs, span
