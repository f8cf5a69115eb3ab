"""A collector of traces (OTLP over HTTP) that reads what it gets with OpenTelemetry's own messages."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@dataclass(frozen=True)
class Seen:
    """One span."""

    service: str
    name: str
    trace: str
    span: str
    parent: str
    begun_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    kind: int
    failed: bool

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended_ns - self.begun_ns) / 1e9


@dataclass
class Collector:
    """Whatever came; `status` is what it answers."""

    url: str = ""
    status: int = 200
    spans: list[Seen] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def start(cls) -> Iterator[Collector]:
        """On a port of loopback."""
        collector = cls()

        class Page(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if collector.status == 200 and self.path == "/v1/traces":
                    collector.take(body)
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            collector.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
            try:
                yield collector
            finally:
                server.shutdown()
                thread.join()

    def take(self, body: bytes) -> None:
        """One request."""
        self.bodies.append(body)
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            service = _values(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [_seen(service, span) for span in scope.spans]

    def of(self, call: str) -> list[Seen]:
        """All spans of a call, by their begin."""
        found = [span for span in self.spans if span.attributes.get("microturn.call") == call]
        return sorted(found, key=lambda span: span.begun_ns)

    def wait_for(self, holds: Callable[[list[Seen]], object], timeout_s: float = 10.0) -> None:
        """AssertionError with what came."""
        deadline_s = time.monotonic() + timeout_s
        while not holds(self.spans):
            assert time.monotonic() < deadline_s, [(span.name, span.attributes) for span in self.spans]
            time.sleep(0.02)


def _seen(service: str, span: Span) -> Seen:
    return Seen(
        service, span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
        span.start_time_unix_nano, span.end_time_unix_nano, _values(span.attributes), span.kind,
        span.status.code == Status.STATUS_CODE_ERROR,
    )  # fmt: skip


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
