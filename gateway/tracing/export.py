"""Spans to a collector, by OpenTelemetry's exporter in a thread of its own. The only place that imports it.

    put -> queue of MOST_WAITING -> thread -> batches of MOST_BATCH, at least every PAUSE_S -> OTLP over HTTP

Whoever puts never waits. What has no room, and what the collector did not take, is counted and told in the log,
once in `TELL_S`; `/metrics` has the counters. Further settings are the exporter's own: OTEL_EXPORTER_OTLP_HEADERS
for a collector that wants a key, OTEL_EXPORTER_OTLP_CERTIFICATE for one with a certificate of its own.
"""

from __future__ import annotations

import importlib.metadata
import logging
import queue
import threading
import time
from dataclasses import dataclass
from typing import Final

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway.tracing.spans import Context, Span

log = structlog.get_logger()

MOST_WAITING: Final = 4_096
MOST_BATCH: Final = 256
PAUSE_S: Final = 1.0
TIMEOUT_S: Final = 5.0
CLOSE_S: Final = 2.0
TELL_S: Final = 30.0
VERSION: Final = importlib.metadata.version("microturn")
SCOPE: Final = InstrumentationScope("microturn", VERSION)
KINDS: Final = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL, "consumer": SpanKind.CONSUMER}


@dataclass(slots=True)
class ExportCounters:
    """Spans since the start of this process."""

    sent: int = 0
    dropped: int = 0
    """There was no room in the queue."""
    lost: int = 0
    """The collector did not take them."""


class Exporter:
    """Of one process, `service` being `microturn` or `microturn-worker`. Its thread ends with `close`."""

    def __init__(self, endpoint: str, service: str, node: str) -> None:
        self.counters = ExportCounters()
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # what is lost is told by us, once
        about = {"service.name": service, "service.instance.id": node, "service.version": VERSION}
        self._resource = Resource(about)
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=TIMEOUT_S)
        self._waiting: queue.Queue[Span] = queue.Queue(maxsize=MOST_WAITING)  # full: counted
        self._closing = threading.Event()
        self._told_s, self._told = 0.0, 0
        self._in_hand = 0  # spans that the exporter has right now
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def put(self, span: Span) -> None:
        """It leaves in a while."""
        try:
            self._waiting.put_nowait(span)
        except queue.Full:
            self.counters.dropped += 1

    def close(self) -> None:
        """What waits has `CLOSE_S` to leave; the log tells what did not."""
        self._closing.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            self.counters.lost += self._waiting.qsize() + self._in_hand
        self._tell(at_end=True)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _run(self) -> None:
        while not self._closing.wait(PAUSE_S):
            self._send()
        self._send()

    def _send(self) -> None:
        """All that waits; whatever goes wrong costs its batch alone."""
        while batch := self._take():
            self._in_hand = len(batch)
            try:
                done = self._exporter.export([self._readable(span) for span in batch])
            except Exception as wrong:  # the edge of a thread that has to go on
                log.error("traces cannot be sent", exc_info=wrong)
                done = SpanExportResult.FAILURE
            if done is SpanExportResult.SUCCESS:
                self.counters.sent += len(batch)
            else:
                self.counters.lost += len(batch)
            self._in_hand = 0
        self._tell()

    def _take(self) -> list[Span]:
        batch: list[Span] = []
        while len(batch) < MOST_BATCH:
            try:
                batch.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return batch

    def _tell(self, at_end: bool = False) -> None:
        counters = self.counters
        gone, now_s = counters.dropped + counters.lost, time.monotonic()
        if gone > self._told and (at_end or not self._told_s or now_s - self._told_s >= TELL_S):
            self._told, self._told_s = gone, now_s
            log.warning(
                "traces are lost", dropped=counters.dropped, not_taken=counters.lost, sent=counters.sent
            )

    def _readable(self, span: Span) -> ReadableSpan:
        return ReadableSpan(
            span.name,
            context=_context(span.context, is_remote=False),
            parent=_context(span.parent, span.parent_is_remote) if span.parent is not None else None,
            resource=self._resource,
            attributes=dict(span.attributes),
            kind=KINDS[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=span.begun_ns,
            end_time=span.ended_ns,
            instrumentation_scope=SCOPE,
        )


def _context(context: Context, is_remote: bool) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.is_sampled else TraceFlags.DEFAULT)
    return SpanContext(context.trace, context.span, is_remote, flags)
