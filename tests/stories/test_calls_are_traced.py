"""What is seen of calls: one trace each, at a collector that reads what OpenTelemetry's exporter sends it, and
lines of the log. None of it has a number, a name or a word of a caller. Real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("opentelemetry.sdk", reason="pip install 'microturn[traces]'")

from gateway.caller.calls import CallPlan, place_call
from gateway.caller.signals import numbered_tones
from gateway.state.keys import is_name, name_of_telephone_call
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from tests.support.otlp_collector import Collector, Seen
from tests.support.raw_call import RawCall
from tests.support.webrtc_caller import HZ, calling

pytestmark = [pytest.mark.redis, pytest.mark.processes]

TONE = (3_000 * np.sin(2 * np.pi * 440 * np.arange(60 * HZ) / HZ)).astype(np.int16)
SENT, LOST = (f'microturn_traces_spans_total{{outcome="{told}"}}' for told in ("sent", "lost"))
TRACE, ASKED = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
NUMBER, CALLED, TARGET, SECRET_WORD = "4915112345678", "493098765432", "493055555555", "xylophone"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector.start() as found:
        yield found


@pytest.fixture(scope="module")
def gateway(collector: Collector) -> Iterator[GatewayUnderTest]:
    settings = {"webrtc_calls": "2", "redis": "auto", "background_workers": "1"}
    settings |= {"traces_endpoint": collector.url, "log_format": "json"}
    with GatewayUnderTest.start(GatewayWish(calls=2, settings=settings, ready_timeout_s=60.0)) as found:
        yield found


def only(spans: list[Seen], name: str) -> Seen:
    [found] = [span for span in spans if span.name == name]
    return found


def roots(spans: list[Seen], door: str) -> list[Seen]:
    return [span for span in spans if span.name == "call" and span.attributes["microturn.door"] == door]


def test_a_telephone_call_is_a_trace(gateway: GatewayUnderTest, collector: Collector) -> None:
    uri = gateway.uri.replace("sip:", f"sip:{NUMBER}@")
    began_ns = time.time_ns()
    tones = numbered_tones(2.0, 8000, 1)
    report = asyncio.run(place_call(CallPlan(uri, "PCMU", tones, 8000, seconds=2.0)))
    assert report.answered
    collector.wait_for(lambda spans: roots(spans, "sip"))
    [call] = roots(collector.spans, "sip")
    spans = collector.of(call.attributes["microturn.call"])
    assert {span.trace for span in spans} == {call.trace} and call.parent == ""
    told = call.attributes
    wanted = {"microturn.codec": "PCMU", "microturn.reason": "over", "microturn.cause": "caller"}
    assert wanted.items() <= told.items()
    assert 8 <= told["microturn.turns"] <= 13 and told["microturn.mos"] > 3
    assert began_ns <= call.begun_ns < began_ns + 2e9 and 1.9 < call.seconds < 5
    setup = only(spans, "set-up")
    assert setup.parent == call.span and setup.begun_ns == call.begun_ns
    assert setup.attributes["microturn.media"] and 0 < setup.seconds < 1.5
    assert NUMBER.encode() not in b"".join(collector.bodies)


def test_what_the_collector_has_and_what_it_did_not_take_is_counted(
    gateway: GatewayUnderTest, collector: Collector
) -> None:
    def spans(outcome: str) -> float:
        return gateway.metrics()[f'microturn_traces_spans_total{{outcome="{outcome}"}}']

    def call() -> None:
        tones = numbered_tones(1.0, 8000, 1)
        assert asyncio.run(place_call(CallPlan(gateway.uri, "PCMU", tones, 8000, seconds=1.0))).answered

    taken, there, lost = spans("sent"), len(collector.spans), spans("lost")
    call()
    gateway.wait_for(lambda m: m[SENT] > taken, 20.0)
    assert spans("sent") - taken == len(collector.spans) - there >= 2 and spans("lost") == lost
    collector.status, taken = 400, spans("sent")
    try:
        call()
        gateway.wait_for(lambda m: m[LOST] >= lost + 2, 20.0)
    finally:
        collector.status = 200
    assert spans("sent") == taken and spans("dropped") == 0


def test_a_browser_call_goes_on_in_the_trace_of_who_asked_for_it(
    gateway: GatewayUnderTest, collector: Collector
) -> None:
    async def until(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(15.0):
            while not condition():
                await asyncio.sleep(0.02)

    async def story() -> None:
        headers = {"traceparent": f"00-{TRACE}-{ASKED}-01"}
        async with calling(gateway.http, TONE, headers=headers) as caller:
            await caller.message("hello")
            caller.say(type="text", text=f"delegate {SECRET_WORD} 3 plus 4")
            await until(lambda: [m["state"] for m in caller.of_type("task")][-1:] in (["done"], ["failed"]))

    asyncio.run(story())
    collector.wait_for(lambda spans: roots(spans, "webrtc") and any(span.name == "work" for span in spans))
    [call] = roots(collector.spans, "webrtc")
    assert (call.trace, call.parent) == (TRACE, ASKED)
    spans = collector.of(call.attributes["microturn.call"])
    assert {span.trace for span in spans} == {TRACE}
    task, work = only(spans, "task"), only(spans, "work")
    assert (task.parent, work.parent) == (call.span, task.span), "the worker's is below the task's"
    assert (task.service, work.service) == ("microturn", "microturn-worker")
    assert task.begun_ns <= work.begun_ns and work.ended_ns <= task.ended_ns + 1e9
    assert task.attributes["microturn.outcome"] == work.attributes["microturn.outcome"]
    assert only(spans, "set-up").parent == call.span
    assert call.attributes["microturn.tasks"] == 1 and call.attributes["microturn.codec"] == "OPUS"
    assert SECRET_WORD.encode() not in b"".join(collector.bodies)


def test_lines_of_the_log_are_json_and_say_nothing_of_callers(gateway: GatewayUnderTest) -> None:
    """Of the calls above, and of one that is odd: held, transferred to nobody, without a word."""
    with RawCall(gateway.uri.replace("sip:", f"sip:{CALLED}@"), user=NUMBER) as call:
        call.talk(1.0)
        call.press("7")
        assert call.refer(f"sip:{TARGET}@127.0.0.1") >= 400
        assert call.info("text/plain", SECRET_WORD.encode()) >= 200
        call.talk(0.5)
        call_id = call.call_id
    gateway.wait_for(lambda m: m["microturn_calls_live"] == 0)
    text = "".join(gateway.lines)
    for private in (NUMBER, CALLED, TARGET, SECRET_WORD, call_id):
        assert private not in text, private
    lines = [json.loads(line) for line in gateway.lines if not line.startswith("ready ")]
    assert len(lines) > 10 and all(
        {"event", "level", "timestamp", "process"} <= line.keys() for line in lines
    )
    of_calls = [line for line in lines if "call" in line]
    assert all(is_name(line["call"]) for line in of_calls)
    told = [line["event"] for line in of_calls if line["call"] == name_of_telephone_call(call_id)]
    assert [event for event in told if event != "late turns"] == ["call", "call over"]


@pytest.mark.long
def test_turns_that_are_missed_are_shown_and_bounded(gateway: GatewayUnderTest, collector: Collector) -> None:
    """Its model server stands still for a second."""
    before = {span.span for span in roots(collector.spans, "sip")}

    async def story() -> None:
        plan = CallPlan(gateway.uri, "PCMU", numbered_tones(5.0, 8000, 1), 8000, seconds=5.0)
        placed = asyncio.create_task(place_call(plan))
        await asyncio.to_thread(gateway.wait_for, lambda m: m["microturn_calls_live"] == 1)
        await asyncio.sleep(1.5)
        server = gateway.only("model-server").pid
        os.kill(server, signal.SIGSTOP)
        try:
            await asyncio.sleep(1.0)
        finally:
            os.kill(server, signal.SIGCONT)
        await placed

    asyncio.run(story())
    collector.wait_for(lambda spans: len(roots(spans, "sip")) > len(before))
    [call] = [span for span in roots(collector.spans, "sip") if span.span not in before]
    spans = collector.of(call.attributes["microturn.call"])
    turns = [span for span in spans if span.name.startswith("turn ")]
    assert 1 <= len(turns) <= 32 and call.attributes["microturn.missed_turns"] >= 3
    shown = sum(span.attributes["microturn.turns"] for span in turns)
    assert 3 <= shown <= call.attributes["microturn.missed_turns"]
    for span in turns:
        assert span.parent == call.span and span.failed
        assert call.begun_ns < span.begun_ns < span.ended_ns < call.ended_ns
