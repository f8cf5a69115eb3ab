"""SIGKILL of each kind of process under live calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from gateway.caller.calls import Caller, CallLog
from gateway.caller.report import report_call
from loadtests.faults.calls import (
    AFTER_S,
    GAP_TOLERANCE_MS,
    MS,
    S,
    check_all_free,
    check_new_call,
    check_untouched,
    lag_ms,
    live_calls,
    loudness,
    tones,
)
from loadtests.faults.outcome import Outcome, Plan
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish

FRAME_MS, FRAME_NS = 20, 20_000_000
MODEL_BACK_S = 2.0  # DESIGN section 6
WORKER_BACK_S = 1.0
LAG_TOLERANCE_MS = 60.0  # a new lease may have another budget, never another turn
COMFORT_RMS = 100.0  # the comfort sound has 16; the quietest stretch of a numbered tone has over 1,000
PLAYED_OUT_MS = 500  # after the kill: a turn in playout, the jitter buffer, and 40 ms
WELL_MS = 500  # so long without a gap, and speech is back


async def model_server_killed(plan: Plan) -> Outcome:
    """SIGKILL of the model server under live calls; its spare takes over."""
    outcome = Outcome("model-server-killed")
    wish = GatewayWish(calls=plan.calls, settings={"spare_model_server": "on"})
    with GatewayUnderTest.start(wish) as gateway:
        spare = await asyncio.to_thread(gateway.spare, "model-server")
        async with live_calls(gateway) as calls:
            await calls.place(plan.calls, AFTER_S)
            victim = gateway.only("model-server")
            killed_ns = victim.kill()
            heir, born_ns = await asyncio.to_thread(gateway.successor, victim)
            outcome.expect(heir.pid == spare.pid, "not the spare, but a new process came after it")
            ready_ns = await calls.until(lambda m: m["microturn_model_slots_leased"] == plan.calls)
            logs = await calls.finish()
        await check_all_free(gateway, outcome)
        outcome.figures["epochs"] = len(gateway.epochs())
        outcome.expect(outcome.figures["epochs"] == 2, "no worker attached to a new slot table")
    judge_model_server_killed(outcome, logs, killed_ns, born_ns, ready_ns)
    return outcome


def judge_model_server_killed(
    outcome: Outcome, logs: Sequence[CallLog], killed_ns: int, born_ns: int, ready_ns: int
) -> None:
    """No call ends, comfort and nothing else until speech is back, then only what was just said."""
    reports = [report_call(log) for log in logs]
    backs, lags, odd, loudest = [], [], [], 0.0
    for log, report in zip(logs, reports, strict=True):
        if report.windows is None:
            outcome.expect(False, f"a call got {report.status} {report.reason}")
            continue
        outcome.expect(report.ended_by == "us", f"a call was ended by {report.ended_by}")
        before = lag_ms(report, 0, killed_ns - S)
        after = lag_ms(report, ready_ns, killed_ns + 60 * S)
        if before is None or after is None:
            outcome.expect(False, "a call was not heard again after the restart")
            continue
        gaps = report.windows.gap_starts_ns
        away = gaps[gaps > killed_ns - S]
        ends = np.flatnonzero(np.diff(away, append=np.iinfo(np.int64).max) > WELL_MS * MS)
        back_ns = int(away[ends[0]]) + FRAME_NS + round(after * MS) if away.size else killed_ns
        backs.append(back_ns)
        of_kill = away[: int(ends[0]) + 1] if away.size else away
        others = gaps[~np.isin(gaps, of_kill)]
        when = [round(float(start - killed_ns) / S, 2) for start in others[:3]]
        outcome.expect(
            len(others) * FRAME_MS <= GAP_TOLERANCE_MS,
            f"{len(others) * FRAME_MS} ms of gaps at other times, s after the kill: {when}",
        )
        lags.append(after - before)
        odd += [d for d in report.windows.delay_ms if abs(d - before) > LAG_TOLERANCE_MS]
        loudest = max(loudest, loudness(log, killed_ns + PLAYED_OUT_MS * MS, back_ns - 2 * FRAME_NS))
    outcome.figures |= {
        "calls": len(logs),
        "ended_calls": sum(log.ended_by != "us" for log in logs),
        "gap_ms_worst": max((report.gap_ms for report in reports), default=0.0),
        "process_s": round((born_ns - killed_ns) / S, 2),
        "speech_after_kill_s": round((max(backs, default=0) - killed_ns) / S, 2),
        "speech_after_kill_s_by_call": [round((back_ns - killed_ns) / S, 2) for back_ns in sorted(backs)],
        "lag_change_ms_worst": round(max((abs(lag) for lag in lags), default=0.0), 2),
        "stale_windows": len(odd),
        "loudest_in_gap_rms": round(loudest, 1),
    }
    outcome.expect(bool(backs), "no call has anything to judge")
    outcome.expect(outcome.figures["speech_after_kill_s"] <= MODEL_BACK_S, "speech was back too late")
    outcome.expect(not odd, f"heard with another lag, in ms: {[round(d) for d in odd[:5]]}")
    outcome.expect(loudest < COMFORT_RMS, "something else than comfort noise was heard in the gap")


async def sip_worker_killed(plan: Plan) -> Outcome:
    """SIGKILL of one of three SIP workers."""
    outcome = Outcome("sip-worker-killed")
    wish = GatewayWish(calls=12, settings={"sip_calls_per_worker": "4"})  # three workers with either pjsua2
    with GatewayUnderTest.start(wish) as gateway:
        async with live_calls(gateway) as calls:
            await calls.place(9, AFTER_S)
            probe_plan = await asyncio.to_thread(tones, gateway.uri, 2.0, 500)
            workers = gateway.workers()
            victim = workers[1]
            theirs = len(gateway.rtp_ports(victim))
            outcome.expect(theirs == 3, f"9 calls on 3 workers, but {theirs} on {victim.name}")
            killed_ns = victim.kill()
            heir, born_ns = await asyncio.to_thread(gateway.successor, victim)
            ready_ns = await calls.until(lambda m: m["microturn_workers_ready"] == len(workers))
            async with Caller() as caller:
                before = {worker: set(gateway.rtp_ports(worker)) for worker in gateway.workers()}
                probe = asyncio.create_task(caller.place(probe_plan))
                await asyncio.sleep(1.0)
                takers = [worker.name for worker in before if set(gateway.rtp_ports(worker)) - before[worker]]
                answer = await probe
            lost_count = gateway.metrics()["microturn_calls_lost_total"]
            logs = await calls.finish()
        await check_all_free(gateway, outcome)
    struck = [log for log in logs if not log.arrivals_ns or log.arrivals_ns[-1] < killed_ns + S]
    answered_s = ((answer.answered_ns or 0) - killed_ns) / S
    outcome.figures |= {
        "calls": len(logs),
        "lost": len(struck),
        "ended_calls": len(struck),
        "lost_in_metrics": int(lost_count),
        "process_s": round((born_ns - killed_ns) / S, 2),
        "ready_s": round((ready_ns - killed_ns) / S, 2),
        "new_call_answered_s": round(answered_s, 2),
        "new_call_on": "/".join(takers),
    }
    outcome.expect(len(struck) == theirs, f"{len(struck)} calls stopped, but {theirs} were the worker's")
    outcome.expect(lost_count == theirs, f"the gateway counts {lost_count:.0f} lost calls")
    outcome.expect(answer.answered, f"a new call got {answer.status} {answer.reason}")
    # the edge gives a call to the least loaded: the others have three, it has none
    outcome.expect(takers == [heir.name], f"the new call went to {takers}, not to the new {heir.name}")
    outcome.expect(answered_s < WORKER_BACK_S, "the worker was back too late")
    check_untouched(outcome, [report_call(log) for log in logs if not any(log is other for other in struck)])
    return outcome


async def gateway_killed(plan: Plan) -> Outcome:
    """SIGKILL of the gateway's main process: media does not pass it."""
    outcome = Outcome("gateway-killed")
    with GatewayUnderTest.start(GatewayWish(calls=12)) as gateway:
        async with live_calls(gateway) as calls:
            await calls.place(8, AFTER_S)
            workers = gateway.workers()
            victim = gateway.only("gateway")
            killed_ns = victim.kill()
            _, born_ns = await asyncio.to_thread(gateway.successor, victim)
            ready_ns = await calls.until(lambda m: m["microturn_ready"] == 1)
            adopted_ns = await calls.until(lambda m: m["microturn_edge_calls_adopted_total"] == 8)
            logs = await calls.finish()
            outcome.expect(gateway.workers() == workers, "workers were replaced")
        await check_all_free(gateway, outcome)
        await check_new_call(gateway, outcome)
        await check_all_free(gateway, outcome)
    unanswered = [log for log in logs if log.ended_by != "us"]
    outcome.figures |= {
        "calls": len(logs),
        "ended_calls": len(unanswered),
        "process_s": round((born_ns - killed_ns) / S, 2),
        "ready_s": round((ready_ns - killed_ns) / S, 2),
        "adopted_s": round((adopted_ns - killed_ns) / S, 2),
    }
    outcome.expect(not unanswered, f"{len(unanswered)} calls' BYE was not answered")
    check_untouched(outcome, [report_call(log) for log in logs])
    return outcome
