"""A gateway whose main process is ours, in a thread: what has no door yet can be asked of it directly.

Its workers and its model server are processes as always. `GatewayUnderTest` is for all that has a door.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from gateway.config import GatewaySettings
from gateway.main import Gateway
from gateway.sip.call_events import CallEvent
from gateway.sip.outbound import Refused
from gateway.sip.pool import ask_library
from gateway.sip.switchboard import Switchboard
from gateway.state.keys import name_of_telephone_call
from tests.support.table_watch import TableWatch

READY_S = 30.0
T = TypeVar("T")


class OwnGateway:
    """Echo engine, loopback. `events`: what the switchboard has told, in order."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.events: list[CallEvent] = []
        self.lines: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self.gateway = Gateway(settings, ask_library())
        self.gateway.telephones.switchboard.watchers.append(self.events.append)
        self._thread = threading.Thread(target=self._run, name="own-gateway", daemon=True)

    @classmethod
    @contextlib.contextmanager
    def start(cls, calls: int = 4, rtp_port: int = 48_000, **settings: Any) -> Iterator[OwnGateway]:
        """Ready to take calls; gone when the block is left."""
        with tempfile.TemporaryDirectory(prefix="microturn-own-") as folder:
            run_dir = Path(folder) / "run"
            run_dir.mkdir(mode=0o700)
            chosen = {
                "run_dir": run_dir, "engine": "echo", "sip_port": 0, "sip_calls": calls, "sip_wideband_calls": 0,
                "http_port": 0, "webrtc_calls": 0, "redis": "off", "rtp_port": rtp_port, "rtp_ports": 2_000,
            }  # fmt: skip
            environment = {k: v for k, v in os.environ.items() if not k.startswith("MICROTURN_")}
            own = cls(GatewaySettings(**(chosen | settings)))
            server = subprocess.Popen(
                [sys.executable, "-m", "model_server", "--engine", "echo", "--socket", own.settings.model_socket],
                env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            try:
                own._begin()
                yield own
            finally:
                own._end()
                server.terminate()
                server.wait(10)

    @property
    def switchboard(self) -> Switchboard:
        """What is asked; by `do`."""
        return self.gateway.telephones.switchboard

    @property
    def port(self) -> int:
        """Of SIP, on 127.0.0.1."""
        return self.gateway.telephones.edge.address[1]

    @property
    def uri(self) -> str:
        """That callers call."""
        return f"sip:127.0.0.1:{self.port}"

    def do(self, work: Coroutine[Any, Any, T], timeout_s: float = 10.0) -> T:
        """In the gateway's loop; raises what it raises."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def watch(self) -> TableWatch:
        """What models hear and say: a context manager."""
        return TableWatch(self.settings.model_socket)

    def wait_for(self, holds: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> None:
        """TimeoutError with the events so far."""
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{what or 'not'} within {timeout_s} s; events: {self.events}")
            time.sleep(0.01)

    def only_call(self) -> str:
        """Name of the one call that lives, once it does."""
        edge = self.gateway.telephones.edge
        self.wait_for(lambda: len(edge.live) == 1, 5.0, "one call")
        return name_of_telephone_call(edge.live[0])

    def press(self, call: str, digits: str, status: int = 204) -> str:
        """Keys towards the peer; says why where they are refused."""
        done = self.do(self.gateway.intercom.tell(call, "digits", digits))
        assert done.status == status, done
        return done.reason

    def names(self) -> list[str]:
        """Of all calls that live."""
        return [name_of_telephone_call(call_id) for call_id in self.gateway.telephones.edge.live]

    def transfer(self, call: str, target: str) -> None:
        """Once it is up."""
        self.retry(lambda: self.switchboard.transfer(call, target))

    def retry(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Until the call is up at its worker, too: 409 says not now."""
        for _ in range(100):
            try:
                self.do(work())
                return
            except Refused as refused:
                if refused.status != 409:
                    raise
                time.sleep(0.02)
        raise TimeoutError("it is never now")

    def kinds(self, call: str) -> list[str]:
        """Of the events of a call."""
        return [event.kind for event in self.events if event.call == call]

    def last(self, call: str, kind: str) -> CallEvent:
        """The newest event of that kind."""
        return [event for event in self.events if event.call == call and event.kind == kind][-1]

    @property
    def is_idle(self) -> bool:
        """No call lives, no slot is leased."""
        return self.gateway.live == 0

    def _begin(self) -> None:
        self._thread.start()
        self.wait_for(lambda: self.gateway.is_ready or not self._thread.is_alive(), READY_S, "not ready")
        assert self._thread.is_alive(), "the gateway ended"

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self.gateway.run(self._stop, asyncio.Event()))

    def _end(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(15)
        assert not self._thread.is_alive(), "the gateway does not end"
