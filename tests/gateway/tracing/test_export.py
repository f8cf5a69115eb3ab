"""Spans to a collector: what arrives, what has no room, what nobody takes."""

from __future__ import annotations

import socket
import time

import pytest

pytest.importorskip("opentelemetry.sdk", reason="pip install 'microturn[traces]'")

from structlog.testing import capture_logs

from gateway.tracing import export
from gateway.tracing.export import Exporter
from gateway.tracing.spans import Context, Span
from tests.support.otlp_collector import Collector

CALL = Context(0x1234, 0x56)


def span(number: int, error: str = "") -> Span:
    told = {"microturn.call": "b-1", "number": number, "share": 0.5, "is": True}
    return Span("call", CALL.below(str(number)), CALL, 1_000 + number, 2_000, told, "server", error, True)


def test_what_is_put_arrives() -> None:
    with Collector.start() as collector:
        exporter = Exporter(collector.url, "microturn", "node-1")
        for number in range(600):
            exporter.put(span(number, "gone" if number == 3 else ""))
        exporter.close()
    assert [each.attributes["number"] for each in collector.spans] == list(range(600))
    assert len(collector.bodies) == 3, "in batches"
    third = collector.spans[3]
    assert (third.trace, third.parent, third.failed) == (f"{0x1234:032x}", f"{0x56:016x}", True)
    assert third.attributes == {"microturn.call": "b-1", "number": 3, "share": 0.5, "is": True}
    assert (third.begun_ns, third.ended_ns, third.service) == (1_003, 2_000, "microturn")
    assert (exporter.counters.sent, exporter.counters.dropped, exporter.counters.lost) == (600, 0, 0)


def test_what_has_no_room_and_what_nobody_takes_is_counted_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MOST_WAITING", 10)
    with Collector.start() as collector, capture_logs() as logs:
        collector.status = 400
        exporter = Exporter(collector.url, "microturn", "node-1")
        begun_s = time.monotonic()
        for number in range(15):
            exporter.put(span(number))
        assert time.monotonic() - begun_s < 0.5, "nobody waits"
        exporter.close()
    assert (exporter.counters.sent, exporter.counters.dropped, exporter.counters.lost) == (0, 5, 10)
    [told] = [line for line in logs if line["event"] == "traces are lost"]
    assert (told["dropped"], told["not_taken"]) == (5, 10)


def test_what_a_silent_collector_leaves_at_the_end_is_counted_and_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "CLOSE_S", 0.1)
    monkeypatch.setattr(export, "TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent, capture_logs() as logs:
        exporter = Exporter(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces", "microturn", "node-1")
        for number in range(300):
            exporter.put(span(number))
        exporter.close()
    assert exporter.counters.sent == 0 and exporter.counters.lost == 300
    assert [line["not_taken"] for line in logs if line["event"] == "traces are lost"] == [300]
