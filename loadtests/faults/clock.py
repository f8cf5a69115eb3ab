"""The wall clock of a gateway jumps by an hour, and back, under live calls.

A library of a few lines (`clock_shift.c`, compiled here) is preloaded into all of its processes; the callers, the
state server and the kernel keep the right time. So what a gateway writes and whom it believes is laid beside the
truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import secrets
import shutil
import struct
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from gateway.caller.calls import CallLog, CallPlan
from gateway.caller.report import report_call
from gateway.state.records import Cdr, decode
from loadtests.faults.calls import LiveCalls, check_all_free, check_new_call, check_untouched, live_calls
from loadtests.faults.outcome import Outcome, Plan
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from loadtests.hostile.whip import token
from loadtests.state_cases import state_server

HOUR_S = 3600
AWAY_S = 6.0
"""For so long the clock is wrong."""
CALL_S = 4.0
LENGTH_TOLERANCE_S = 1.5
"""From the answer at the caller's to its BYE, and what the gateway makes of it."""
_SOURCE = Path(__file__).with_name("clock_shift.c")


class WallClock:
    """What the clock of the processes is off by."""

    def __init__(self, library: Path, file: Path) -> None:
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(file)}
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), 8)

    def shift(self, seconds: int) -> None:
        """From now on."""
        self._map[:] = struct.pack("<q", seconds * 1_000_000_000)


@contextlib.contextmanager
def wall_clock() -> Iterator[WallClock]:
    """Compiled, and right until it is shifted. `FileNotFoundError` without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError(
            "no C compiler (cc) here, and the clock cannot be shifted without: apt-get install gcc"
        )
    with tempfile.TemporaryDirectory(prefix="mt-clock-") as folder:
        library, file = Path(folder) / "clock_shift.so", Path(folder) / "shift"
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(_SOURCE), "-ldl"], check=True
        )
        file.write_bytes(bytes(8))
        yield WallClock(library, file)


async def clock_jump(plan: Plan) -> Outcome:
    """No call hears of it; each is charged for as long as it was; tokens are good by the clock that there is."""
    outcome = Outcome("clock-jump")
    secret = secrets.token_hex(32)
    with contextlib.ExitStack() as stack:
        try:
            clock = stack.enter_context(wall_clock())
        except FileNotFoundError as wrong:
            outcome.skipped = str(wrong)
            return outcome
        server = stack.enter_context(state_server())
        settings = {"redis": server.url, "background_workers": "0", "jwt_secret": secret}
        wish = GatewayWish(calls=plan.calls + 4, settings=settings, environment=clock.environment)
        gateway = stack.enter_context(GatewayUnderTest.start(wish))
        async with live_calls(gateway) as calls:
            short = [calls.plan(CALL_S, seed=500 + number) for number in range(2)]
            await calls.place(plan.calls, 2 * AWAY_S + 2.0)
            statuses = await _jump(clock, calls, short, gateway, secret)
            logs = await calls.finish()
        await check_all_free(gateway, outcome)
        await check_new_call(gateway, outcome)
        settled = lambda m: not m["microturn_state_buffered"] and not m["microturn_state_leases"]  # noqa: E731
        await asyncio.to_thread(gateway.wait_for, settled, 10.0)
        cdrs = [decode(Cdr, record) for record in server.records("cdr")]
    judge_statuses(outcome, statuses)
    judge_lengths(outcome, logs, cdrs)
    ended = sum(log.ended_by != "us" for log in logs)
    outcome.figures |= {"calls": len(logs), "ended_calls": ended}
    outcome.expect(not ended, f"{ended} calls were ended")
    check_untouched(outcome, [report_call(log) for log in logs])
    return outcome


async def _jump(
    clock: WallClock, calls: LiveCalls, short: Sequence[CallPlan], gateway: GatewayUnderTest, secret: str
) -> dict[str, int]:
    """One call ends while the clock is wrong, one begins then and ends after. What tokens got."""
    young, old = (token(secret, scope="calls:read", exp=int(time.time()) + s) for s in (600, 2 * HOUR_S))
    statuses = {}

    async def ask(when: str) -> None:
        for name, bearer in (("of 10 minutes", young), ("of 2 hours", old)):
            statuses[f"{when}, {name}"] = await asyncio.to_thread(_status, gateway, bearer)

    await ask("before")
    calls.begin(short[0])
    await asyncio.sleep(CALL_S / 2)
    clock.shift(HOUR_S)
    await asyncio.sleep(AWAY_S - CALL_S / 2)
    await ask("an hour ahead")
    calls.begin(short[1])
    await asyncio.sleep(CALL_S / 2)
    clock.shift(0)
    await asyncio.sleep(AWAY_S)
    await ask("after")
    return statuses


def _status(gateway: GatewayUnderTest, bearer: str) -> int:
    """Of a request for live calls; 0 without an answer."""
    asked = urllib.request.Request(f"{gateway.http}/v1/calls", headers={"Authorization": f"Bearer {bearer}"})
    try:
        with urllib.request.urlopen(asked, timeout=5.0) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return 0


def judge_statuses(outcome: Outcome, statuses: dict[str, int]) -> None:
    """A token of ten minutes is over for a clock that is an hour ahead, and good again when that is right."""
    wanted = {name: 401 if name == "an hour ahead, of 10 minutes" else 200 for name in statuses}
    wrong = {name: status for name, status in statuses.items() if status != wanted[name]}
    outcome.figures["tokens"] = "/".join(map(str, statuses.values()))
    outcome.expect(not wrong, f"tokens got {wrong}")


def judge_lengths(outcome: Outcome, logs: Sequence[CallLog], cdrs: Sequence[Cdr]) -> None:
    """There is a record of every call, and one of the probe at the end, and each is as long as its call was."""
    true_s = sorted(
        (log.listened_until_ns - log.answered_ns) / 1e9 for log in logs if log.answered_ns is not None
    )
    told_s = sorted((cdr.ended_ms - cdr.began_ms) / 1e3 for cdr in cdrs)
    outcome.expect(len(cdrs) == len(logs) + 1, f"{len(cdrs)} records of {len(logs) + 1} calls")
    off_s = [min((abs(told - true) for true in (*true_s, 3.0)), default=0.0) for told in told_s]
    outcome.figures["cdr_off_s_worst"] = round(max(off_s, default=0.0), 2)
    wrong = [round(told, 1) for told, off in zip(told_s, off_s, strict=True) if off > LENGTH_TOLERANCE_S]
    outcome.expect(not wrong, f"records say that calls took {wrong[:4]} s, which none did")
