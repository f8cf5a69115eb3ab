"""A Prometheus of Debian's scrapes a gateway under calls, with the chart's rules: it takes every figure, every "
"query of the
dashboards has an answer, and no alert comes of a healthy gateway."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.helm import dashboards
from loadtests.faults.calls import live_calls
from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish
from loadtests.ports import free_port
from tests.gateway.state.server import StateServer, first_program
from tests.support.helm import CHART

pytestmark = [
    pytest.mark.long,
    pytest.mark.processes,
    pytest.mark.redis,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="apt-get install prometheus"),
]
CALLS, SECONDS = 6, 40.0
LABELS = {"namespace": "calls", "pod": "mt-microturn-0"}
SILENT = ("proxy_", "webhook_", "worker_task", "gpu_", 'door="browser"', "stir_results", "certificate",
          "recordings_to_upload", "recordings_unfinished", "probe_", "traces_")  # fmt: skip
"""Of parts that are not here, or of nothing that happens."""


class Prometheus:
    """Of its HTTP interface what is asked."""

    def __init__(self, folder: Path, target: str) -> None:
        rules = (CHART / "files" / "rules.yaml").read_text().replace("@select@", 'namespace="calls"')
        (folder / "rules.yaml").write_text(
            rules.replace("@runbooks@", "x").replace("interval: 15s", "interval: 1s")
        )
        scrape = {"job_name": "gw", "static_configs": [{"targets": [target], "labels": LABELS}]}
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [scrape],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._url = f"http://127.0.0.1:{free_port()}"
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={folder / 'prometheus.yml'}",
                   f"--storage.tsdb.path={folder / 'data'}",
                 f"--web.listen-address={self._url.removeprefix('http://')}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def get(self, path: str, **arguments: str) -> Any:
        """`data` of the answer; None while it does not answer."""
        try:
            with urllib.request.urlopen(
                f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
            ) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as wrong:
            raise AssertionError(f"{arguments}: {wrong.read().decode()}") from None
        except OSError:
            return None

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


async def talk(gateway: GatewayUnderTest, prometheus: Prometheus) -> None:
    async with live_calls(gateway) as calls:
        await calls.place(CALLS, SECONDS)
        await asyncio.sleep(SECONDS - 10)
        await asyncio.to_thread(check, gateway, prometheus)
        await calls.finish()


def check(gateway: GatewayUnderTest, prometheus: Prometheus) -> None:
    """While calls are up."""
    [target] = prometheus.get("targets")["activeTargets"]
    assert target["health"] == "up", target["lastError"]
    [live] = prometheus.get("query", query="microturn_calls_live")["result"]
    assert float(live["value"][1]) == CALLS
    [load] = prometheus.get("query", query="microturn_predicted_load")["result"]
    now = gateway.metrics()
    free = now["microturn_predicted_free_calls"]
    assert float(load["value"][1]) == pytest.approx(CALLS / (CALLS + free), abs=0.02)
    asked = answered = 0
    for name in dashboards.BOARDS:
        for panel in dashboards.board(name)["panels"]:
            for each in panel.get("targets", ()):
                query = (
                    each["expr"]
                    .replace("$namespace", ".*")
                    .replace("$pod", ".*")
                    .replace("$__rate_interval", "10s")
                )
                found = prometheus.get("query", query=query)["result"]
                asked, answered = asked + 1, answered + bool(found)
                if (
                    "histogram" not in query
                    and "> 0" not in query
                    and not any(word in query for word in SILENT)
                ):
                    assert found, f"{name}: {panel['title']}: {query}"
    assert answered > 0.7 * asked, (answered, asked)
    rules = prometheus.get("rules", type="alert")["groups"]
    states = {rule["name"]: (rule["health"], rule["state"]) for group in rules for rule in group["rules"]}
    assert len(states) > 25 and {health for health, _ in states.values()} == {"ok"}
    assert not [name for name, (_, state) in states.items() if state == "firing"]


def test_a_real_prometheus_takes_it_all(tmp_path: Path) -> None:
    state = StateServer(first_program(), tmp_path / "state").start()
    wish = GatewayWish(CALLS + 6, settings={"redis": state.url, "webrtc_calls": "1"}, ready_timeout_s=40.0)
    try:
        with GatewayUnderTest.start(wish) as gateway:
            prometheus = Prometheus(tmp_path, gateway.http.removeprefix("http://"))
            try:
                deadline_s = time.monotonic() + 20
                while prometheus.get("status/buildinfo") is None:
                    assert time.monotonic() < deadline_s, (tmp_path / "log").read_text()[-2_000:]
                    time.sleep(0.1)
                asyncio.run(talk(gateway, prometheus))
            finally:
                prometheus.stop()
    finally:
        state.stop()
