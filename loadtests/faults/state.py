"""A state server that is slow, then too slow, then behind a line that is cut, and back: calls never wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from gateway.caller.calls import CallPlan
from gateway.caller.report import report_call
from gateway.state import embedded
from gateway.state.records import Cdr, Session, decode
from loadtests.faults.calls import LiveCalls, check_all_free, check_new_call, check_untouched, live_calls
from loadtests.faults.outcome import Outcome, Plan
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from loadtests.slow_line import SlowLine
from loadtests.state_cases import state_server
from loadtests.state_server import StateServer

SLOW_S, TOO_SLOW_S = 0.5, 5.0
"""Of each answer. The gateway waits for 2 s (`gateway.state.client`)."""
PHASE_S, SHORT_PHASE_S = 8.0, 4.0
SHORT_CALL_S = 1.0
SPARE_CALLS = 8
REPLAYED_S = 15.0
LOOK_S = 0.1


async def redis_slow(plan: Plan) -> Outcome:
    """Each phase has live calls and a new one; at the end everything of all of them is written, once."""
    outcome = Outcome("redis-slow")
    phase_s = PHASE_S if len(plan.stalls_s) > 1 else SHORT_PHASE_S
    with state_server() as server:
        socket = embedded.socket_of(server.folder)
        async with SlowLine(socket).listening() as line:
            settings = {"redis": f"redis://127.0.0.1:{line.port}/0", "background_workers": "0"}
            wish = GatewayWish(calls=plan.calls + SPARE_CALLS, settings=settings | {"log_level": "info"})
            with await asyncio.to_thread(_Started, wish) as started:
                gateway = started.gateway
                async with live_calls(gateway) as calls:
                    short = [calls.plan(SHORT_CALL_S, seed=500 + number) for number in range(3)]
                    await calls.place(plan.calls, 4 * phase_s + 2.0)
                    await _phases(outcome, line, calls, short, gateway, phase_s)
                    logs = await calls.finish()
                await check_all_free(gateway, outcome)
                await check_new_call(gateway, outcome)
                await _check_written(outcome, server, gateway, len(logs) + 1)
    ended = [log for log in logs if log.ended_by != "us"]
    refused = [log for log in logs if not log.answered]
    outcome.figures |= {"calls": len(logs), "ended_calls": len(ended), "connections": line.connections}
    outcome.expect(not ended, f"{len(ended)} calls were ended, or not answered")
    outcome.expect(not refused, f"{len(refused)} new calls were refused")
    outcome.expect(outcome.figures["buffered_most"] > 0, "no write had to wait: nothing is shown")
    check_untouched(outcome, [report_call(log) for log in logs])
    setups = [(log.answered_ns - log.invited_ns) / 1e6 for log in logs if log.answered_ns is not None]
    outcome.figures["setup_ms_worst"] = round(max(setups, default=0.0))
    return outcome


class _Started:
    """A gateway whose start and stop, which take seconds, hold up no event loop: its state server is ours."""

    def __init__(self, wish: GatewayWish) -> None:
        self._stack = contextlib.ExitStack()
        self.gateway = self._stack.enter_context(GatewayUnderTest.start(wish))

    def __enter__(self) -> _Started:
        return self

    def __exit__(self, *wrong: object) -> None:
        self._stack.close()


async def _phases(
    outcome: Outcome, line: SlowLine, calls: LiveCalls, short: Sequence[CallPlan],
    gateway: GatewayUnderTest, phase_s: float,
) -> None:  # fmt: skip
    most = 0.0
    for delay_s, one in zip((SLOW_S, TOO_SLOW_S, None), short, strict=True):
        line.delay_s = delay_s or 0.0
        if delay_s is None:
            line.cut()
        begun_s = time.monotonic()
        calls.begin(one)
        while time.monotonic() < begun_s + phase_s:
            seen = await asyncio.to_thread(gateway.metrics)
            most = max(most, seen.get("microturn_state_buffered", 0.0))
            await asyncio.sleep(5 * LOOK_S)
    line.delay_s = 0.0
    line.mend()
    mended_s = time.monotonic()
    with contextlib.suppress(TimeoutError):
        await calls.until(lambda m: not m["microturn_state_buffered"], phase_s)
    outcome.figures |= {"buffered_most": int(most), "replayed_s": round(time.monotonic() - mended_s, 1)}
    await asyncio.sleep(max(0.0, mended_s + phase_s - time.monotonic()))


async def _check_written(
    outcome: Outcome, server: StateServer, gateway: GatewayUnderTest, calls: int
) -> None:
    settled = lambda m: not m["microturn_state_buffered"] and not m["microturn_state_leases"]  # noqa: E731
    try:
        await asyncio.to_thread(gateway.wait_for, settled, REPLAYED_S)
    except TimeoutError as wrong:
        outcome.expect(False, f"writes still wait: {wrong}")
    seen = await asyncio.to_thread(gateway.metrics)
    sessions = [decode(Session, record) for record in server.records("session")]
    cdrs = [decode(Cdr, record) for record in server.records("cdr")]
    outcome.figures |= {
        "sessions_complete": sum(one.ended_ms > one.began_ms for one in sessions),
        "cdrs_complete": sum(one.ended_ms > one.began_ms and one.reason == "over" for one in cdrs),
        "writes_dropped": int(seen["microturn_state_dropped_total"]),
        "reconnects": int(seen["microturn_state_reconnects_total"]),
    }
    for name in ("sessions_complete", "cdrs_complete"):
        outcome.expect(outcome.figures[name] == calls, f"{name}: {outcome.figures[name]} of {calls}")
    outcome.expect(
        not outcome.figures["writes_dropped"], f"{outcome.figures['writes_dropped']} writes dropped"
    )
