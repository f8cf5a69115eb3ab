"""The call that does not fit gets 503 and is told when to come back; those that fit hear nothing of it."""

from __future__ import annotations

import asyncio

import pytest

from gateway.caller.calls import Caller, CallLog, CallPlan
from gateway.caller.report import report_call
from gateway.caller.signals import numbered_tones
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish

pytestmark = pytest.mark.processes


def test_five_callers_for_four_places() -> None:
    pcm = numbered_tones(3.0, 8000, seed=4)
    with GatewayUnderTest.start(GatewayWish(calls=4)) as gateway:

        async def all_at_once() -> list[CallLog]:
            async with Caller() as caller:
                plans = [CallPlan(gateway.uri, "PCMU", pcm, 8000) for _ in range(5)]
                return list(await asyncio.gather(*(caller.place(plan) for plan in plans)))

        reports = [report_call(log) for log in asyncio.run(all_at_once())]
        refused = [report for report in reports if not report.answered]
        assert [(r.status, r.retry_after_s) for r in refused] == [(503, 2)]
        assert all(r.media_came_back for r in reports if r.answered)
        gateway.wait_for(lambda m: m["microturn_calls_live"] == 0)
        assert gateway.metrics()['microturn_admission_refused_total{by="edge",reason="busy"}'] == 1
