"""An OpenAI-compatible endpoint over real HTTP that answers as a test wishes: late, never, broken off, garbage.

    with ChatServer.start() as server:
        server.plan(stream("It is ", "seven.", pause_s=0.5))

Each request takes the next plan; the last one stays. One rule: it keeps every request, for the test to look at.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Plan = Callable[["Exchange"], None]


class Exchange:
    """One request, and what may be sent back."""

    def __init__(
        self, handler: BaseHTTPRequestHandler, asked: dict[str, Any], stopped: threading.Event
    ) -> None:
        self.asked, self.stopped = asked, stopped
        self._handler = handler

    def begin(self, status: int = 200, content_type: str = "text/event-stream", **headers: str) -> None:
        self._handler.send_response(status)
        self._handler.send_header("Content-Type", content_type)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()

    def write(self, data: bytes) -> None:
        self._handler.wfile.write(data)
        self._handler.wfile.flush()

    def event(self, **fields: Any) -> None:
        self.write(b"data: " + json.dumps(fields).encode() + b"\n\n")

    def delta(self, **delta: Any) -> None:
        self.event(choices=[{"index": 0, "delta": delta, "finish_reason": None}])

    def end(self, reason: str = "stop", tokens_in: int = 100, tokens_out: int = 10) -> None:
        self.event(choices=[{"index": 0, "delta": {}, "finish_reason": reason}])
        self.event(choices=[], usage={"prompt_tokens": tokens_in, "completion_tokens": tokens_out})
        self.write(b"data: [DONE]\n\n")

    def pause(self, seconds: float) -> None:
        self.stopped.wait(seconds)


def stream(*pieces: str, pause_s: float = 0.0, **usage: int) -> Plan:
    """An answer in pieces, a pause before each."""

    def plan(exchange: Exchange) -> None:
        exchange.begin()
        for piece in pieces:
            exchange.pause(pause_s)
            exchange.delta(content=piece)
        exchange.end(**usage)

    return plan


def call_tool(name: str, arguments: str) -> Plan:
    """The model wants a tool, its arguments in two pieces."""

    def plan(exchange: Exchange) -> None:
        exchange.begin()
        at = len(arguments) // 2
        exchange.delta(
            tool_calls=[{"index": 0, "id": "call-1", "function": {"name": name, "arguments": arguments[:at]}}]
        )
        exchange.delta(tool_calls=[{"index": 0, "function": {"arguments": arguments[at:]}}])
        exchange.end("tool_calls")

    return plan


def refuse(status: int, **headers: str) -> Plan:
    """An error, with a page that nobody wants to read."""

    def plan(exchange: Exchange) -> None:
        exchange.begin(status, "text/html", **headers)
        exchange.write(b"<html>no</html>")

    return plan


def never(exchange: Exchange) -> None:
    """Not a word, for a minute."""
    exchange.pause(60.0)


def garbage(exchange: Exchange) -> None:
    """Bytes that mean nothing."""
    exchange.begin()
    exchange.write(b'data: {"choices": "seven"}\n\n\xff\xfe\x00data: [[[[\n\n')


def endless_line(exchange: Exchange) -> None:
    """A line without an end."""
    exchange.begin()
    with contextlib.suppress(OSError):
        for _ in range(2_000):
            exchange.write(b"data: " + 4_096 * b"x")


def breaks_off(*pieces: str) -> Plan:
    """Some pieces, and then the connection is gone."""

    def plan(exchange: Exchange) -> None:
        exchange.begin()
        for piece in pieces:
            exchange.delta(content=piece)

    return plan


class ChatServer:
    """On a free port of loopback."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self._plans: list[Plan] = [stream("It is seven.")]
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.url = ""

    @classmethod
    @contextlib.contextmanager
    def start(cls) -> Iterator[ChatServer]:
        """Until the block is left."""
        here = cls()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # noqa: N802, as http.server names it
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                plan = here._next(asked, self.headers.get("Authorization", ""))
                with contextlib.suppress(OSError):
                    plan(Exchange(self, asked, here._stopped))

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        here.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, name="chat-server")
        thread.start()
        try:
            yield here
        finally:
            here._stopped.set()
            server.shutdown()
            thread.join()
            server.server_close()

    def plan(self, *plans: Plan) -> None:
        """What comes next, in order; the last one stays."""
        with self._lock:
            self._plans = list(plans)

    def _next(self, asked: dict[str, Any], key: str) -> Plan:
        with self._lock:
            self.requests.append(asked)
            self.keys.append(key)
            self.times.append(time.monotonic())
            return self._plans.pop(0) if len(self._plans) > 1 else self._plans[0]
