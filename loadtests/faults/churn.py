"""Many short calls, and what they leave behind."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass

from gateway.caller.calls import Caller
from loadtests.faults.calls import check_all_free, check_new_call, tones
from loadtests.faults.outcome import Outcome, Plan
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish, Process

CHURN_AT_ONCE = 10
CHURN_WARM_UP_S = (
    40.0  # a UDP transaction is remembered for 64 T1 = 32 s: only then memory is as high as it gets
)
CHURN_SLOTS = 64
CHURN_CALL_S = 0.5
SETTLE_S = 35.0  # and after the last call as long until all is forgotten
PSS_TOLERANCE_KB = 3072  # per process: shared pages move by 1.5 MB when any other process comes or goes
PSS_TOLERANCE_KB_PER_CALL = 1.0


@dataclass(frozen=True, slots=True)
class Holdings:
    """What one process holds."""

    pss_kb: int
    descriptors: int
    threads: int


async def churn(plan: Plan) -> Outcome:
    """Many short calls; everything comes back to where it was."""
    outcome = Outcome("churn")
    # slots are taken in turn, and one is memory from its first call on: the warm-up has them all
    wish = GatewayWish(calls=16, settings={"slots": str(CHURN_SLOTS)})
    with GatewayUnderTest.start(wish) as gateway:
        warm = await _churn_calls(gateway, until_s=time.monotonic() + CHURN_WARM_UP_S)
        before = await _settled(gateway, outcome)
        begin_s = time.monotonic()
        run = await _churn_calls(gateway, count=plan.churn_calls)
        took_s = time.monotonic() - begin_s
        after = await _settled(gateway, outcome)
        counted = gateway.metrics()
        await check_new_call(gateway, outcome)
    statuses = {status: (warm + run).count(status) for status in set(warm + run)}
    outcome.figures |= {
        "calls": len(run),
        "calls_per_s": round(len(run) / took_s, 1),
        "answered": int(counted["microturn_calls_answered_total"]),
        "statuses": "/".join(f"{status}:{count}" for status, count in sorted(statuses.items())),
    }
    outcome.expect(set(statuses) == {200}, "not every call was answered")
    outcome.expect(before.keys() == after.keys(), "a process was replaced")
    grown: dict[str, list[int]] = {}
    for process in before.keys() & after.keys():
        was, now = before[process], after[process]
        grown.setdefault(process.kind, []).append(now.pss_kb - was.pss_kb)
        who = f"{process.kind} {process.name}".rstrip()
        for what, a, b in (
            ("descriptors", was.descriptors, now.descriptors),
            ("threads", was.threads, now.threads),
        ):
            outcome.expect(a == b, f"{who}: {a} {what} before, {b} after")
    for kind, kilobytes in sorted(grown.items()):
        outcome.figures[f"pss_kb_{kind}"] = max(kilobytes)
        bound = PSS_TOLERANCE_KB + PSS_TOLERANCE_KB_PER_CALL * len(run)
        outcome.expect(max(kilobytes) <= bound, f"a {kind} grew by {max(kilobytes)} kB, over {bound:.0f}")
    return outcome


async def _churn_calls(gateway: GatewayUnderTest, count: int = 0, until_s: float = 0.0) -> list[int]:
    """Statuses of `count` short calls, or of as many as there is time for, `CHURN_AT_ONCE` at a time."""
    statuses: list[int] = []
    placed = itertools.count()
    async with Caller() as caller:

        async def one_after_another() -> None:
            for seed in placed:
                if seed >= count and time.monotonic() >= until_s:
                    return
                statuses.append((await caller.place(tones(gateway.uri, CHURN_CALL_S, seed))).status)

        await asyncio.gather(*(one_after_another() for _ in range(CHURN_AT_ONCE)))
    return statuses


async def _settled(gateway: GatewayUnderTest, outcome: Outcome) -> dict[Process, Holdings]:
    """What every process holds once no call lives and SIP has forgotten the last."""
    await check_all_free(gateway, outcome)
    await asyncio.sleep(SETTLE_S)
    return {
        process: Holdings(process.pss_kb(), process.descriptors(), process.threads())
        for process in gateway.processes()
    }
