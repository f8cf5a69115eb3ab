"""A gateway's pod without Kubernetes: its two containers as processes, with the commands and environments that the
chart renders for them. Its address is loopback; what lies below /run, /var and /etc lies in a folder of the test.
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loadtests.ports import free_port
from tests.support.helm import RELEASE, container, render

TREE = Path(__file__).resolve().parents[2]
DOCKER = TREE / "deploy" / "docker"
NAME = f"{RELEASE}-microturn"
OTHERS = "dGhpcyBpcyBhIHNlY3JldCBvZiBhIHRlc3QgYW5kIG9mIG5vdGhpbmcgZWxzZQ"
"""In the place of what somebody else's Secret holds."""
READY_S = 30.0


def environment(
    objects: tuple[dict[str, Any], ...], name: str, files: Path, address: str = "10.1.2.3"
) -> dict[str, str]:
    """MICROTURN_* as that container has them: fields and Secrets looked up, `/etc/microturn` being `files`."""
    secrets = {
        each["metadata"]["name"]: {key: base64.b64decode(text).decode() for key, text in each["data"].items()}
        for each in objects
        if each["kind"] == "Secret"
    }
    fields = {"status.podIP": address, "metadata.name": f"{NAME}-0"}
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


class ChartPod:
    """With the engine `echo`; `arguments` are further ones of helm."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.sip_port, self.http_port = free_port(), free_port()
        given = (
            f"gateway.sip.port={self.sip_port},gateway.sip.calls=4,gateway.sip.widebandCalls=0,gateway.rtp.port=48000,"
            f"gateway.sip.callsPerWorker=4,gateway.webrtc.calls=2,gateway.webrtc.port={free_port()},"
            f"gateway.http.port={self.http_port},model.engine=echo,redis.enabled=false,worker.enabled=false"
        )
        objects = render("--set", given, *arguments)
        self.folder = folder
        self.gateway_environment = self._lies_here(environment(objects, "gateway", folder, "127.0.0.1"))
        self.secret = self.gateway_environment["MICROTURN_JWT_SECRET"]
        self._model_environment = self._lies_here(environment(objects, "model", folder, "127.0.0.1"))
        model, gateway = container(objects, "model"), container(objects, "gateway")
        assert gateway["args"][0] == "microturn"
        self._model = [sys.executable, "-m", "model_server", *model["args"]]
        self._gateway = [
            sys.executable,
            str(DOCKER / "keep.py"),
            sys.executable,
            "-m",
            "gateway",
            *gateway["args"][1:],
        ]
        self.model_is_alive = self._health(model["livenessProbe"]["exec"]["command"])
        self.model_waits = self._health(model["lifecycle"]["preStop"]["exec"]["command"])
        self.containers: dict[str, subprocess.Popen[bytes]] = {}
        self.log = folder / "pod.log"

    def _lies_here(self, names: dict[str, str]) -> dict[str, str]:
        moved = {key: re.sub(r"^/(run|var/lib)/", f"{self.folder}/", value) for key, value in names.items()}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MICROTURN_")}
        return kept | moved | {"PYTHONPATH": f"{TREE}:{TREE / 'kernels'}"}

    def _health(self, command: list[str]) -> list[str]:
        assert command[:2] == ["/opt/microturn/bin/python", "/opt/microturn/health.py"]
        here = [each.replace("/run/", f"{self.folder}/") for each in command[2:]]
        return [sys.executable, str(DOCKER / "health.py"), *here]

    @classmethod
    @contextlib.contextmanager
    def start(cls, folder: Path, *arguments: str) -> Iterator[ChartPod]:
        """Ready; gone when the block is left. RuntimeError with its last lines when it does not come up."""
        pod = cls(folder, *arguments)
        with pod.log.open("wb") as log:
            for name, command, names in (
                ("model", pod._model, pod._model_environment),
                ("gateway", pod._gateway, pod.gateway_environment),
            ):
                pod.containers[name] = subprocess.Popen(
                    command, env=names, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                    start_new_session=True,
                )  # fmt: skip
        try:
            pod.wait_for(lambda: pod.status("/readyz") == 200, READY_S, "ready")
            yield pod
        finally:
            for each in pod.containers.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(each.pid, signal.SIGKILL)  # as a container's end does
                each.wait()

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

    def figure(self, name: str) -> float:
        """One of its metrics; -1 where there is none."""
        found = re.search(rf"^microturn_{name} (\S+)$", self.get("/metrics")[1], re.M)
        return float(found[1]) if found else -1.0

    def wait_for(self, holds: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> None:
        """RuntimeError with the last lines of both containers."""
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"{what or 'not'} within {timeout_s} s:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)
