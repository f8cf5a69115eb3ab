"""The gateway's main process: the SIP edge, the workers behind it, health and metrics. No media passes here.

When it dies, calls live on in their workers; when it is back, the workers report and the edge knows again
which call is whose (`control.Ready`, `Edge.adopt_call`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import structlog

from gateway import control
from gateway.config import GatewaySettings
from gateway.http import serve_http
from gateway.metrics import Metrics
from gateway.sip.admission import Refusal
from gateway.sip.edge import Edge, EdgeSettings
from gateway.sip.header import Header
from gateway.sip.load import WorkerAddress
from gateway.sip.options import WorkerOptions
from gateway.sip.pool import Library, ask_library, plan_workers
from gateway.sip.tls import server_context
from gateway.supervise import Child

log = structlog.get_logger()

ADOPT_S = 0.3
"""After a restart, workers that live get so long to report before new ones are started in their place."""
STOP_S = 3.0


@dataclass(slots=True)
class WorkerState:
    """What the main process knows of one worker."""

    options: WorkerOptions
    child: Child | None = None
    ready: control.Ready | None = None
    attached: bool = False
    send: object = None
    counters: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)


class Gateway:
    """Everything that one main process owns."""

    def __init__(self, settings: GatewaySettings, library: Library) -> None:
        self.settings = settings
        self.library = library
        self.workers = {o.name: WorkerState(o) for o in plan_workers(settings, library)}
        self.metrics = Metrics()
        self.edge = Edge(self._edge_settings(), admit=self._admit)
        self.draining = False
        self.http_port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_ready(self) -> bool:
        """Whether a new call would be taken."""
        return not self.draining and any(w.ready is not None and w.attached for w in self.workers.values())

    @property
    def model_socket(self) -> Path:
        """Where the model server is asked for its statistics."""
        return self.settings.model_socket

    @property
    def http_address(self) -> tuple[str, int]:
        """Where health and metrics are wanted."""
        return self.settings.http_host, self.settings.http_port

    def gauges(self) -> dict[str, float]:
        """Of now, summed over the workers."""
        ready = [w for w in self.workers.values() if w.ready is not None]
        return {
            "calls_live": sum(w.gauges.get("calls_live", 0.0) for w in ready),
            "workers_ready": float(len(ready)),
            "ready": float(self.is_ready),
        }

    def edge_counters(self) -> object:
        """The edge's, as a dataclass of integers."""
        return self.edge.counters

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        listener = control.listen(self.settings.worker_socket)
        self._adopting = self._had_a_past
        await self.edge.start()
        self._remember_inside_port()
        self._spawn(self._accept(listener))
        async with serve_http(self) as self.http_port:
            await asyncio.sleep(ADOPT_S if self._adopting else 0)
            for state in self.workers.values():
                if state.ready is None:
                    self._start(state)
            self._spawn(self._announce())
            await stop.wait()
            self.draining = True
            self.edge.drain()
            await self._stop_workers()
        for task in self._tasks:
            task.cancel()
        await self.edge.stop()
        listener.close()
        self.settings.worker_socket.unlink(missing_ok=True)

    # -- workers

    def _start(self, state: WorkerState) -> None:
        argv = [sys.executable, "-m", "gateway.sip", msgspec.json.encode(state.options).decode()]
        state.child = Child(state.options.name, argv, quiet=True)
        self._spawn(state.child.keep())

    async def _stop_workers(self) -> None:
        for state in self.workers.values():
            if state.child is None and state.ready is not None:  # adopted
                self._drain(state)
        await asyncio.gather(*(s.child.stop(STOP_S) for s in self.workers.values() if s.child is not None))
        self._past.unlink(missing_ok=True)

    async def _accept(self, listener: object) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(listener)  # type: ignore[arg-type]
            connection.setblocking(False)
            self._spawn(self._listen_to(connection))

    async def _listen_to(self, connection: object) -> None:
        """One worker, from its `Ready` to the end of its connection."""
        state: WorkerState | None = None
        with connection as open_connection:  # type: ignore[attr-defined]
            try:
                async for packet in control.packets(open_connection):
                    message = control.decode_worker(packet)
                    if isinstance(message, control.Ready):
                        state = self._welcome(message, open_connection)
                    elif state is not None:
                        self._hear(state, message)
            except (msgspec.DecodeError, ValueError) as wrong:
                log.error("worker speaks nonsense", worker=state and state.options.name, reason=str(wrong))
        if state is not None:
            self._lose(state)

    def _welcome(self, ready: control.Ready, connection: object) -> WorkerState:
        state = self.workers.get(ready.worker)
        if state is None or state.ready is not None:
            raise ValueError(f"{ready.worker!r} is not expected")
        state.ready, state.attached, state.send = ready, ready.attached, connection
        spacing_ns = self.library.invite_spacing_ns
        wideband = ready.rate_hz > 8_000
        address = WorkerAddress(
            ready.worker, "127.0.0.1", ready.sip_port, ready.capacity, spacing_ns, wideband=wideband
        )
        self.edge.add_worker(address)
        for call_id in ready.calls:
            self.edge.adopt_call(ready.worker, call_id)
        log.info(
            "worker ready", worker=ready.worker, pid=ready.pid, calls=ready.capacity, adopted=len(ready.calls)
        )
        return state

    def _hear(self, state: WorkerState, message: control.WorkerMessage) -> None:
        match message:
            case control.CallEnded(call_id):
                self.edge.call_ended(call_id)
            case control.Attachable(attached):
                state.attached = attached
            case control.Report(counters, gauges):
                self.metrics.count(state.counters, counters)
                state.counters, state.gauges = counters, gauges
            case _:
                raise ValueError(f"unexpected {message}")

    def _lose(self, state: WorkerState) -> None:
        lost = self.edge.remove_worker(state.options.name)
        self.metrics.calls_lost.inc(len(lost))
        state.ready, state.attached, state.send = None, False, None
        state.counters, state.gauges = {}, {}
        if not self.draining:
            log.error("worker gone", worker=state.options.name, calls_lost=len(lost))
            if state.child is None:  # it was adopted: nobody else starts it again
                self._start(state)

    def _drain(self, state: WorkerState) -> None:
        with contextlib.suppress(OSError):
            state.send.send(control.encode(control.Drain()))  # type: ignore[attr-defined]

    def _admit(self, request: object) -> Refusal | None:
        """New calls need a model server: without one they are refused here, before a worker is bothered."""
        if self.is_ready:
            return None
        return Refusal(
            503,
            "Service Unavailable",
            (Header.make(b"Retry-After", str(self.settings.sip_retry_after_s).encode()),),
        )

    # -- the rest

    async def _announce(self) -> None:
        """The line that people and programs wait for."""
        while not self.is_ready:
            await asyncio.sleep(0.02)
        host, port = self.edge.address
        print(f"ready sip:{host}:{port} http://{self.settings.http_host}:{self.http_port}", flush=True)

    def _edge_settings(self) -> EdgeSettings:
        settings = self.settings
        tls = None
        if settings.sip_tls_port:
            tls = server_context(Path(settings.sip_tls_cert), Path(settings.sip_tls_key))
        return EdgeSettings(
            host=settings.sip_host,
            port=settings.sip_port,
            public_host=settings.sip_public_host,
            inside_port=self._inside_port(),
            retry_after_s=settings.sip_retry_after_s,
            tls_port=settings.sip_tls_port,
            tls_context=tls,
        )

    def _inside_port(self) -> int:
        """Workers that live on have the edge's inside port in their dialogs: it must not change."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._past.read_text())
        return 0

    @property
    def _past(self) -> Path:
        return self.settings.run_dir / "edge.port"

    @property
    def _had_a_past(self) -> bool:
        return self._inside_port() != 0

    def _remember_inside_port(self) -> None:
        self._past.write_text(str(self.edge.inside_port))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("gateway broken", exc_info=task.exception())
            signal.raise_signal(signal.SIGTERM)


def run(settings: GatewaySettings) -> int:
    """The process; the exit status is 0 after a clean stop."""
    import uvloop

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stop.set)
        await Gateway(settings, ask_library()).run(stop)

    uvloop.run(serve())
    return 0
