"""What a WebRTC load test measures: a gateway of its own, aiortc as it comes, or what runs at a URL.

Each is a `System`: where to POST offers, and the process whose family is measured. One rule: only loopback is
called.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.caller.messages import is_loopback
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish

READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
GATEWAY_SETTINGS = {
    "webrtc_udp_port": "0",
    "webrtc_tcp_port": "0",
    "webrtc_offers_per_s": "0",
}  # any ports; no limit
BASELINE, GATEWAY = "aiortc", "microturn"


@dataclass(frozen=True, slots=True)
class System:
    """Something that takes calls by WHIP."""

    name: str
    whip_url: str
    metrics_url: str  # "" when there is none
    pid: int | None  # None: not measured

    def metrics(self) -> str:
        """Its Prometheus exposition; empty while nobody answers."""
        if not self.metrics_url:
            return ""
        try:
            with urllib.request.urlopen(self.metrics_url, timeout=5) as answer:
                return str(answer.read().decode(errors="replace"))
        except (OSError, ValueError, urllib.error.URLError):
            return ""


def system_at(url: str, pid: int | None, metrics_url: str = "", name: str = "target") -> System:
    """The system at a base URL, or at that of its WHIP endpoint. Raises ValueError beyond loopback."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--target {url!r} is no URL such as http://127.0.0.1:8080")
    if not is_loopback(parts.hostname):
        raise ValueError(
            f"{parts.hostname} is not a loopback address; load tests call only this machine (127.0.0.1)"
        )
    base = f"{parts.scheme}://{parts.netloc}"
    whip_url = url if parts.path.strip("/") else f"{base}/whip"
    return System(name, whip_url, metrics_url or f"{base}/metrics", pid)


@contextlib.contextmanager
def started_gateway(calls: int, engine: str, settings: Mapping[str, str]) -> Iterator[System]:
    """`microturn up` with room for the calls. Raises RuntimeError when it does not come up, or takes none from
    browsers."""
    own = {"webrtc_calls": str(calls), **GATEWAY_SETTINGS, **settings}
    with GatewayUnderTest.start(GatewayWish(calls=1, engine=engine, settings=own)) as gateway:
        _wait_for_workers(gateway)
        yield system_at(gateway.http, gateway.only("up").pid, name=GATEWAY)


def _wait_for_workers(gateway: GatewayUnderTest) -> None:
    """All of its workers are ready, and one of them is for browsers."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while "webrtc-worker" not in (kinds := [process.kind for process in gateway.processes()]):
        if time.monotonic() > deadline_s:
            raise RuntimeError("microturn up has no webrtc-worker:\n" + "".join(list(gateway.lines)[-12:]))
        time.sleep(0.05)
    workers = sum(kind.endswith("-worker") for kind in kinds)
    gateway.wait_for(lambda metrics: metrics["microturn_workers_ready"] >= workers)


@contextlib.contextmanager
def started_baseline() -> Iterator[System]:
    """`loadtests.aiortc_server` on a free port; SIGINT at the end. Raises RuntimeError when it does not come
    up."""
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtests.aiortc_server", "--port", "0"],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        word, _, url = process.stdout.readline().partition(" ")
        if word != "ready":
            raise RuntimeError("loadtests.aiortc_server did not come up")
        yield system_at(url.strip(), process.pid, name=BASELINE)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
