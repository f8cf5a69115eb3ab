"""A gateway's pod without Kubernetes: its containers as processes, with the commands and environments that the
chart renders for them. Its address is one of loopback; what lies below /run, /var and /etc lies in a folder.

It is ended as the kubelet does it: both containers' `preStop` at the same time, SIGTERM to each when its own is
over, and SIGKILL when the grace period is.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.chart.helm import NAME, container, one, render
from loadtests.ports import free_port

TREE = Path(__file__).resolve().parents[2]
DOCKER = TREE / "deploy" / "docker"
OTHERS = "dGhpcyBpcyBhIHNlY3JldCBvZiBhIHRlc3QgYW5kIG9mIG5vdGhpbmcgZWxzZQ"
"""In the place of what somebody else's Secret holds."""
ADDRESS6 = "fd00::1:3"
"""Of a pod in a dual-stack cluster, beside its IPv4 one."""
READY_S = 30.0
LOOK_S = 0.05
MOST_SHOWN = 3000


def environment(
    objects: tuple[dict[str, Any], ...],
    name: str,
    files: Path,
    address: str = "10.1.2.3",
    pod: str = f"{NAME}-0",
) -> dict[str, str]:
    """MICROTURN_* as that container has them: fields and Secrets looked up, `/etc/microturn` being `files`."""
    secrets = {
        each["metadata"]["name"]: {key: base64.b64decode(text).decode() for key, text in each["data"].items()}
        for each in objects
        if each["kind"] == "Secret"
    }
    fields = {"status.podIP": address, "status.podIPs": f"{address},{ADDRESS6}", "metadata.name": pod}
    known: dict[str, str] = {}
    for entry in container(objects, name)["env"]:
        source = entry.get("valueFrom", {})
        if "fieldRef" in source:
            value = fields[source["fieldRef"]["fieldPath"]]
        elif "secretKeyRef" in source:
            reference = source["secretKeyRef"]
            value = secrets.get(reference["name"], {}).get(reference["key"], OTHERS)
        else:
            value = entry["value"]
            assert isinstance(value, str), entry
            value = re.sub(r"\$\((\w+)\)", lambda found: known[found[1]], value)  # of what stands above alone
        known[entry["name"]] = value.replace("/etc/microturn/", f"{files}/")
    return {key: value for key, value in known.items() if key.startswith("MICROTURN_")}


@dataclass(slots=True)
class Ending:
    """How a pod went, in monotonic seconds."""

    begun_s: float = 0.0
    """It is to go: `preStop` begins."""
    told_s: float = 0.0
    """SIGTERM to its gateway."""
    gateway_s: float = 0.0
    """Its gateway is gone."""
    gone_s: float = 0.0
    """Both containers are."""
    killed: int = 0
    """Containers that were not gone by the end of the grace period."""


def _as_others() -> None:
    """What keeps time while it measures hands its SCHED_FIFO on to what it starts, and a pod's start is long."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


class ChartPod:
    """With the engine `echo`; `arguments` are further ones of helm."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        address: str = "127.0.0.1",
        ordinal: int = 0,
        ports: tuple[int, int] | None = None,
        replaced: Mapping[str, str] | None = None,
    ) -> None:
        """`ports` are those of SIP and HTTP, free ones by itself. `replaced`: what stands for names that the DNS of
        a cluster would know, in values of the environment."""
        self.name, self.address = f"{NAME}-{ordinal}", address
        self.sip_port, self.http_port = ports or (free_port(), free_port())
        given = (
            f"gateway.sip.port={self.sip_port},gateway.sip.calls=4,gateway.sip.widebandCalls=0,gateway.rtp.port=48000,"
            f"gateway.sip.callsPerWorker=4,gateway.webrtc.calls=2,gateway.webrtc.port={free_port()},"
            f"gateway.http.port={self.http_port},model.engine=echo,redis.enabled=false,worker.enabled=false"
        )
        objects = render("--set", given, *arguments)
        self.folder = folder
        self._replaced = dict(replaced or {})
        self.gateway_environment = self._lies_here(
            environment(objects, "gateway", folder, address, self.name)
        )
        self.secret = self.gateway_environment["MICROTURN_JWT_SECRET"]
        self._model_environment = self._lies_here(environment(objects, "model", folder, address, self.name))
        model, gateway = container(objects, "model"), container(objects, "gateway")
        self._model = [sys.executable, "-m", "model_server", *model["args"]]
        self._echo = self._of_probes(objects)
        program, *rest = gateway[
            "args"
        ]  # the script `microturn`, or with gateway.realtime an interpreter that may
        rest = ["-m", "gateway", *rest] if program == "microturn" else rest
        self._gateway = [sys.executable, str(DOCKER / "keep.py"), sys.executable, *rest]
        self.model_is_alive = self._health(model["livenessProbe"]["exec"]["command"])
        self.model_waits = self._health(model["lifecycle"]["preStop"]["exec"]["command"])
        self.gateway_waits: list[str] = gateway["lifecycle"]["preStop"]["exec"]["command"]
        specification = one(objects, "StatefulSet", NAME)["spec"]
        self.grace_s = float(specification["template"]["spec"]["terminationGracePeriodSeconds"])
        self.least_ready_s = float(specification.get("minReadySeconds", 0))
        self.containers: dict[str, subprocess.Popen[bytes]] = {}
        self.log = folder / "pod.log"

    def _lies_here(self, names: dict[str, str]) -> dict[str, str]:
        moved = {key: re.sub(r"^/(run|var/lib)/", f"{self.folder}/", value) for key, value in names.items()}
        for old, new in self._replaced.items():
            moved = {key: value.replace(old, new) for key, value in moved.items()}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MICROTURN_")}
        modules = os.pathsep.join(
            each for each in (str(TREE), str(TREE / "kernels"), os.environ.get("PYTHONPATH", "")) if each
        )
        return kept | moved | {"PYTHONPATH": modules}

    def _of_probes(self, objects: tuple[dict[str, Any], ...]) -> tuple[list[str], dict[str, str]] | None:
        """The echo that answers probe calls: command and environment; None where there is none."""
        containers = one(objects, "StatefulSet", NAME)["spec"]["template"]["spec"]["containers"]
        if not any(each["name"] == "model-probe" for each in containers):
            return None
        names = self._lies_here(environment(objects, "model-probe", self.folder, self.address, self.name))
        return [sys.executable, "-m", "model_server", *container(objects, "model-probe")["args"]], names

    def _health(self, command: list[str]) -> list[str]:
        assert command[:2] == ["/opt/microturn/bin/python", "/opt/microturn/health.py"]
        here = [each.replace("/run/", f"{self.folder}/") for each in command[2:]]
        return [sys.executable, str(DOCKER / "health.py"), *here]

    @classmethod
    @contextlib.contextmanager
    def start(cls, folder: Path, *arguments: str, **more: Any) -> Iterator[ChartPod]:
        """Ready; gone when the block is left. RuntimeError with its last lines when it does not come up."""
        pod = cls(folder, *arguments, **more)
        try:
            pod.begin()
            pod.wait_until_ready()
            yield pod
        finally:
            pod.kill()

    def begin(self) -> None:
        """All of its containers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            for name, command, names in (
                *([("probe", *self._echo)] if self._echo is not None else []),
                ("model", self._model, self._model_environment),
                ("gateway", self._gateway, self.gateway_environment),
            ):
                self.containers[name] = subprocess.Popen(
                    command, env=names, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log,
                    stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_as_others,
                )  # fmt: skip

    def kill(self) -> None:
        """As a container's end does: with all that it had started."""
        for each in self.containers.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            each.wait()

    def end(self, ending: Ending | None = None) -> Ending:
        """As the kubelet ends it; returns when it is gone. `ending` is filled in as it goes."""
        ending = ending or Ending()
        ending.begun_s = time.monotonic()
        waits = {
            "gateway": subprocess.Popen(self.gateway_waits, start_new_session=True),
            "model": subprocess.Popen(self.model_waits, start_new_session=True),
        }
        told: set[str] = set()
        if (echo := self.containers.get("probe")) is not None:
            echo.terminate()
        while any(each.poll() is None for each in self.containers.values()):
            now_s = time.monotonic()
            for name, waiting in waits.items():
                if waiting.poll() is not None and name not in told:
                    told.add(name)
                    self.containers[name].terminate()
                    if name == "gateway":
                        ending.told_s = now_s
            if not ending.gateway_s and self.containers["gateway"].poll() is not None:
                ending.gateway_s = now_s
            if now_s - ending.begun_s > self.grace_s:
                ending.killed = sum(each.poll() is None for each in self.containers.values())
                break
            time.sleep(LOOK_S)
        self.kill()
        for waiting in waits.values():
            waiting.kill()
            waiting.wait()
        ending.gone_s = time.monotonic()
        ending.gateway_s = ending.gateway_s or ending.gone_s
        return ending

    def main_pid(self) -> int:
        """The gateway's main process; 0 between two of them."""
        keeper = self.containers["gateway"].pid
        children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
        return int(children[0]) if children else 0

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of its HTTP; 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=5) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.code, ""
        except OSError:
            return 0, ""

    def status(self, path: str) -> int:
        """Of its HTTP."""
        return self.get(path)[0]

    def metrics(self) -> dict[str, float]:
        """Its metrics without labels and without `microturn_`; empty while nobody answers."""
        rows = re.findall(r"^microturn_(\w+) (\S+)$", self.get("/metrics")[1], re.M)
        return {name: float(value) for name, value in rows}

    def figure(self, name: str) -> float:
        """One of its metrics; -1 where there is none."""
        return self.metrics().get(name, -1.0)

    def wait_until_ready(self) -> None:
        """As `wait_for`."""
        self.wait_for(lambda: self.status("/readyz") == 200, READY_S, f"{self.name} is not ready")

    def wait_for(self, holds: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> None:
        """RuntimeError with the last lines of both containers."""
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline_s:
                last = self.log.read_text()[-MOST_SHOWN:] if self.log.exists() else ""
                raise RuntimeError(f"{what or 'not'} within {timeout_s} s:\n{last}")
            time.sleep(LOOK_S)
