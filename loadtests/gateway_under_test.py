"""A `microturn up` of our own, with its processes at hand to look at and to kill.

    with GatewayUnderTest.start(GatewayWish(calls=12)) as gateway:
        gateway.wait_for(lambda m: m["microturn_workers_ready"] == 3)
        gateway.only("model-server").kill()

Linux only. Every process of it carries a marker in its environment, by which it is found wherever it ended up
after its parent was killed; by its title it is told from the others. One rule: what this started, and nothing
else, is looked at, killed, and gone when the block is left.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.ports import free_port

PROC = Path("/proc")
READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.02
RTP_PORT, RTP_PORTS = 40_000, 4_000
_READY = re.compile(r"^ready (sip:\S+) (https?://\S+)")
_TITLE = re.compile(r"microturn: ([a-z-]+)(?: (\S+))?")
_STARTING = re.compile(r" -m gateway\.(sip|webrtc)\s*$")
_EPOCH = re.compile(r" attached .*\bepoch=([0-9a-f]+)\b.* process=(\S+)")
_ANYBODY = (
    ssl._create_unverified_context()
)  # a gateway with `http_tls_cert` on loopback is the one we started


@dataclass(frozen=True, slots=True)
class GatewayWish:
    """What is to be started. `narrow` workers get calls evenly; none is kept for wideband."""

    calls: int = 16
    engine: str = "echo"
    rtp_port: int = RTP_PORT
    host: str = "127.0.0.1"  # of SIP; the other addresses are settings
    settings: dict[str, str] = field(default_factory=dict)  # MICROTURN_* without the prefix, more of them
    ready_timeout_s: float = READY_TIMEOUT_S  # an engine with a network to load takes longer
    environment: dict[str, str] = field(default_factory=dict)  # of all its processes, beside settings


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the gateway under test, as its title names it."""

    pid: int
    kind: str  # up, gateway, model-server, sip-worker
    name: str  # sip-0 ... of a worker, else ""

    @property
    def alive(self) -> bool:
        """False once it is gone, or a zombie."""
        try:
            stat = (PROC / str(self.pid) / "stat").read_text(errors="replace")
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] not in "ZX"

    def kill(self) -> int:
        """SIGKILL; returns the monotonic time in ns."""
        os.kill(self.pid, signal.SIGKILL)
        return time.monotonic_ns()

    def stop(self) -> int:
        """SIGSTOP: it stands still, and all of its threads; returns the monotonic time in ns."""
        os.kill(self.pid, signal.SIGSTOP)
        return time.monotonic_ns()

    def go_on(self) -> int:
        """SIGCONT; returns the monotonic time in ns. Nothing of a process that is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)
        return time.monotonic_ns()

    def pss_kb(self) -> int:
        """Proportional set size, kB; 0 when it may not be read."""
        with contextlib.suppress(OSError):
            match = re.search(
                r"^Pss:\s+(\d+) kB", (PROC / str(self.pid) / "smaps_rollup").read_text(), re.MULTILINE
            )
            return int(match[1]) if match else 0
        return 0

    def descriptors(self) -> int:
        """How many files are open."""
        with contextlib.suppress(OSError):
            return len(os.listdir(PROC / str(self.pid) / "fd"))
        return 0

    def threads(self) -> int:
        """How many threads run."""
        with contextlib.suppress(OSError):
            return len(os.listdir(PROC / str(self.pid) / "task"))
        return 0

    def udp_ports(self) -> list[int]:
        """Local ports of its UDP sockets, ascending."""
        inodes = set()
        folder = PROC / str(self.pid) / "fd"
        with contextlib.suppress(OSError):
            for entry in os.listdir(folder):
                with contextlib.suppress(OSError):
                    if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(folder / entry)):
                        inodes.add(match[1])
        ports = []
        for line in (PROC / "net/udp").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[9] in inodes:
                ports.append(int(columns[1].rpartition(":")[2], 16))
        return sorted(ports)


class GatewayUnderTest:
    """A running `microturn up`. Thread-safe: it has no state but its output."""

    def __init__(self, process: subprocess.Popen[str], run_dir: Path, wish: GatewayWish) -> None:
        self.wish = wish
        self.run_dir = run_dir
        self.uri = self.http = ""
        self.lines: deque[str] = deque(maxlen=4000)
        self._process = process
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, name="gateway-output", daemon=True)
        self._reader.start()

    @classmethod
    @contextlib.contextmanager
    def start(cls, wish: GatewayWish) -> Iterator[GatewayUnderTest]:
        """Ready to take calls, all of its workers too; stopped when the block is left.

        Raises RuntimeError with its last lines when it does not come up.
        """
        with tempfile.TemporaryDirectory(prefix="microturn-test-") as folder:
            run_dir = Path(folder) / "run"
            arguments = [
                sys.executable,
                "-m",
                "gateway",
                "up",
                "--kept",
                "--engine",
                wish.engine,
                "--sip-host",
                wish.host,
            ]
            # the same ports again when the main process is killed: with port 0 it would come back elsewhere
            arguments += ["--sip-port", str(free_port()), "--http-port", str(free_port())]
            arguments += ["--sip-calls", str(wish.calls), "--run-dir", str(run_dir)]
            own = {
                "MICROTURN_RUN_DIR": str(run_dir),
                "MICROTURN_SIP_WIDEBAND_CALLS": "0",
                "MICROTURN_RTP_PORT": str(wish.rtp_port),
                "MICROTURN_RTP_PORTS": str(RTP_PORTS),
                "MICROTURN_WEBRTC_CALLS": "0",  # who wants browsers says so
                "MICROTURN_WEBRTC_UDP_PORT": "0",
                "MICROTURN_WEBRTC_TCP_PORT": "0",
                "MICROTURN_WEBRTC_OFFERS_PER_S": "0",  # everybody comes from one address
                "MICROTURN_DISCLOSURE": "off",  # lines of tests are told nothing, whatever they listen on
                "MICROTURN_REDIS": "off",  # who wants state kept says so
                "MICROTURN_SPARE_MODEL_SERVER": "off",  # it loads while others are measured; who wants it says so
                "MICROTURN_LOG_LEVEL": "debug",  # `epochs` reads what is of no interest to people
                "SPT_NOENV": "1",  # setproctitle leaves /proc/PID/environ as it is
                "PYTHONUNBUFFERED": "1",
                **{f"MICROTURN_{name.upper()}": value for name, value in wish.settings.items()},
            }
            inherited = {k: v for k, v in os.environ.items() if not k.startswith("MICROTURN_")}
            process = subprocess.Popen(
                arguments,
                env=inherited | wish.environment | own,
                cwd=Path(__file__).parents[1],
                stdin=subprocess.PIPE,  # its end is that of `up`, also when we are killed
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            gateway = cls(process, run_dir, wish)
            try:
                gateway._wait_until_ready()
                yield gateway
            finally:
                gateway._stop()

    # -- what it says of itself

    def metrics(self) -> dict[str, float]:
        """Its metrics, with their labels in their names, without buckets; empty while nobody answers."""
        try:
            with urllib.request.urlopen(f"{self.http}/metrics", timeout=2.0, context=_ANYBODY) as answer:
                text = answer.read().decode()
        except (OSError, urllib.error.URLError):
            return {}
        rows = (
            line.rsplit(" ", 1)
            for line in text.splitlines()
            if line and line[0] != "#" and "_bucket{" not in line
        )
        return {name: float(value) for name, value in rows}

    def wait_for(
        self, holds: Callable[[dict[str, float]], bool], timeout_s: float = 10.0, poll_s: float = POLL_S
    ) -> int:
        """Until the metrics are as wished; returns the monotonic time in ns. TimeoutError says what they were."""
        deadline_s = time.monotonic() + timeout_s
        seen: dict[str, float] = {}
        while time.monotonic() < deadline_s:
            now = self.metrics()
            seen = now or seen
            with contextlib.suppress(KeyError):  # a part of it is away, and its metrics with it
                if now and holds(now):
                    return time.monotonic_ns()
            time.sleep(poll_s)
        told = {name: value for name, value in seen.items() if "model_" not in name and value}
        raise TimeoutError(f"not within {timeout_s} s; the metrics were {told}")

    def epochs(self) -> list[str]:
        """Names of the slot tables that its workers attached to, in the order of their first mention."""
        found = [match[1] for line in list(self.lines) if (match := _EPOCH.search(line))]
        return list(dict.fromkeys(found))

    # -- its processes

    def processes(self) -> list[Process]:
        """All that live now, by pid."""
        found = []
        for pid, title in self._marked().items():
            if match := _TITLE.match(title):
                process = Process(pid, match[1], (match[2] or "").strip())
                if process.alive:
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def _marked(self) -> dict[int, str]:
        """Command lines of the processes that carry our marker, by pid."""
        marker = f"MICROTURN_RUN_DIR={self.run_dir}".encode()
        found = {}
        for entry in PROC.iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if marker in (entry / "environ").read_bytes().split(b"\0"):
                    title = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(entry.name)] = title.decode(errors="replace")
        return found

    def starting(self) -> int:
        """Workers that have no title yet: their modules are being loaded."""
        return sum(_STARTING.search(command) is not None for command in self._marked().values())

    def only(self, kind: str, name: str = "") -> Process:
        """The one process of a kind (and name). LookupError when there is none, or more than one."""
        found = [p for p in self.processes() if p.kind == kind and (not name or p.name == name)]
        if len(found) != 1:
            raise LookupError(f"{len(found)} processes {kind} {name}".rstrip())
        return found[0]

    def workers(self) -> list[Process]:
        """Its SIP workers by name."""
        return sorted((p for p in self.processes() if p.kind == "sip-worker"), key=lambda p: p.name)

    def successor(self, of: Process, timeout_s: float = 10.0) -> tuple[Process, int]:
        """The process that took the place of one that was killed, and when it was seen (monotonic ns)."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            for process in self.processes():
                if (process.kind, process.name) == (of.kind, of.name) and process.pid != of.pid:
                    return process, time.monotonic_ns()
            time.sleep(POLL_S)
        raise TimeoutError(f"no {of.kind} {of.name} within {timeout_s} s of the end of pid {of.pid}")

    def rtp_ports(self, worker: Process) -> list[int]:
        """Ports that this worker receives RTP on now: one for each call that it has."""
        own = set(worker.udp_ports())
        return [p for p in sorted(own) if self._is_rtp(p) and p % 2 == 0 and p + 1 in own]

    def spare(self, of: str, timeout_s: float = READY_TIMEOUT_S) -> Process:
        """The process that has everything loaded and waits to be one of that kind."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            with contextlib.suppress(LookupError):
                return self.only("spare", of)
            time.sleep(POLL_S)
        raise TimeoutError(f"no spare {of} within {timeout_s} s")

    def inside_port(self, worker: Process) -> int:
        """The port that this worker takes SIP on, which only the edge is meant to know. LookupError without."""
        own = set(worker.udp_ports())
        alone = [p for p in own if not (self._is_rtp(p) and p ^ 1 in own)]
        if len(alone) != 1:
            raise LookupError(f"{worker.name} has the ports {sorted(own)}: which is its SIP port?")
        return alone[0]

    def _is_rtp(self, port: int) -> bool:
        """Within the range of RTP, where the system may have put the one port of SIP as well."""
        return self.wish.rtp_port <= port < self.wish.rtp_port + RTP_PORTS

    # -- begin and end

    def _read(self) -> None:
        """Keep reading, so that it never blocks on a full pipe."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            if not self._ready.is_set() and (match := _READY.match(line)):
                self.uri, self.http = match[1], match[2]
                self._ready.set()

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + self.wish.ready_timeout_s
        while not self._ready.wait(POLL_S):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError("microturn up did not get ready:\n" + "".join(list(self.lines)[-12:]))
        while self.starting():
            if time.monotonic() > deadline_s:
                raise RuntimeError("workers do not come up:\n" + "".join(list(self.lines)[-12:]))
            time.sleep(POLL_S)
        self.wait_for(lambda m: m["microturn_workers_ready"] >= len(self.workers()))

    def _stop(self) -> None:
        """SIGINT as from a keyboard; then nothing of it may be left."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        self.left_behind = self.processes()
        for process in self.left_behind:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join(2.0)
