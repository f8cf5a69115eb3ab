"""docs/metrics.md is what runs: every metric of gateway, model server and worker is in it, and no other.

The gateway has everything on that shows figures. What needs another engine or a GPU is held against the code that
makes it; Kamailio's is in tests/deploy/test_chart_runs.py.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shutil
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import catalogue
from gateway.background.worker import serve
from gateway.catalogue import page
from gateway.catalogue.family import Where
from gateway.config import GatewaySettings
from loadtests.ports import free_port
from model_server.engine.sglang.rows import Counts
from tests.gateway.state.server import StateServer, first_program
from tests.support.own_gateway import OwnGateway

TREE = Path(__file__).resolve().parents[2]
TABLE = TREE / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) \| (.*?) \| (.+) \| (.+) \|$", re.M)
SECRET = "dGhpcyBpcyBhIHNlY3JldCBvZiBhIHRlc3QgYW5kIG9mIG5vdGhpbmcgZWxzZQ=="


def names(exposition: str) -> dict[str, str]:
    """Name -> type, of an exposition; labels of every sample are looked at, too."""
    return {name: kind for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", exposition, re.M)}


def listed(*where: Where) -> dict[str, str]:
    return {family.name: family.kind for family in catalogue.families(*where)}


def test_the_page_is_made_from_the_catalogue() -> None:
    assert TABLE.read_text() == page.table(), "python -m gateway.catalogue > docs/metrics.md"
    rows = ROW.findall(TABLE.read_text())
    assert len(rows) == len(catalogue.FAMILIES) == len({row[0] for row in rows})


def test_names_follow_prometheus_conventions() -> None:
    for family in catalogue.FAMILIES:
        name = family.name
        assert re.fullmatch(r"(microturn|process)_[a-z0-9_]+", name), name
        assert (family.kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ns|us|ms|millis|micros|percent|per_million|millionths|kb|mb)(_|$)", name), (
            name
        )
        assert not name.endswith(("_bucket", "_sum", "_count", "_created")), name
        assert family.help and "|" not in family.help, name
        assert not set(family.labels) & {"call", "call_id", "tenant", "caller", "number", "le", "trunk"}, name
    sources = [source for family in catalogue.FAMILIES for source in family.sources]
    assert len(sources) == len(set(sources)), "one figure in two metrics"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StateServer]:
    server = StateServer(first_program(), tmp_path_factory.mktemp("state")).start()
    yield server
    server.stop()


@pytest.mark.redis
@pytest.mark.processes
def test_a_gateway_shows_what_the_table_has_and_nothing_else(state: StateServer, tmp_path: Path) -> None:
    make = (
        "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 30 -keyout tls.key -out tls.crt"
    )
    subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "policy.yaml").write_text("rules: [{name: x, words: [never], do: report}]\n")
    certificate, key = str(tmp_path / "tls.crt"), str(tmp_path / "tls.key")
    (tmp_path / "calls").mkdir()
    with OwnGateway.start(
        webrtc_calls=1, redis=state.url, events_dir=str(tmp_path / "events"),
        webhooks={"crm": {"url": "http://127.0.0.1:9/x", "secret": f"whsec_{SECRET}"}},
        moderation_url="http://127.0.0.1:9/v1/moderations", safety_policy=str(tmp_path / "policy.yaml"),
        stir_anchors=certificate, stir_hosts=("localhost",), recording_dir=str(tmp_path / "calls"),
        recording_key="F2VrgOOX4u0xAoRNdRU55Hv8Oy292/pg92mZnMfA2iA=", sip_tls_port=free_port(),
        sip_tls_cert=certificate, sip_tls_key=key, http_tls_cert=certificate, http_tls_key=key,
        traces_endpoint="http://127.0.0.1:9/v1/traces",
    ) as own:  # fmt: skip
        own.wait_for(lambda: own.gateway.sessions is not None and own.gateway.fleet.ready)
        text = _read(f"https://127.0.0.1:{own.gateway.http_port}/metrics")
        own.wait_for(lambda: "microturn_model_up 1.0" in text)
    shown, wanted = names(text), listed("gateway", "traces", "model", "process")
    assert sorted(shown) == sorted(wanted), sorted(shown.keys() ^ wanted.keys())
    assert shown == wanted
    ends = dict(
        re.findall(r'^microturn_certificate_expiry_timestamp_seconds\{use="(\w+)"\} (\S+)$', text, re.M)
    )
    assert set(ends) == {"http", "sip"}
    assert all(29 * 86_400 < float(end) - time.time() < 31 * 86_400 for end in ends.values())
    assert 'microturn_webhook_waiting_bytes{endpoint="crm"} 0.0' in text
    if shutil.which("promtool"):  # Debian's package prometheus; without it the names alone are checked, above
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=text.encode(), capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
    for family in catalogue.families("gateway", "model"):
        for labels in re.findall(rf"^{family.name}(?:_bucket)?\{{(.*)\}} ", text, re.M):
            found = [label for label in re.findall(r'(\w+)="', labels) if label != "le"]
            assert tuple(found) == family.labels, family.name


@pytest.mark.redis
def test_a_background_worker_shows_what_the_table_has(state: StateServer) -> None:
    port = free_port()

    async def story() -> str:
        stop, text = asyncio.Event(), ""
        working = asyncio.create_task(
            serve(
                GatewaySettings(
                    redis=state.url,
                    background_metrics_port=port,
                    traces_endpoint="http://127.0.0.1:9/v1/traces",
                ),
                stop,
            )
        )
        async with asyncio.timeout(20):
            while "microturn_worker_connected 1.0" not in text:
                await asyncio.sleep(0.02)
                text = await asyncio.to_thread(_read, f"http://127.0.0.1:{port}/metrics")
        stop.set()
        await working
        return text

    assert names(asyncio.run(story())) == listed("worker", "traces", "process")


def test_what_other_engines_tell_is_in_the_table() -> None:
    told = {"sglang_sessions", "sglang_tokens_held", "sglang_tokens_limit"}
    told |= {f"sglang_{field.name}" for field in dataclasses.fields(Counts)}
    sources = {source for family in catalogue.families("sglang") for source in family.sources}
    assert sources == {f"model.{name}" for name in told}
    moshi = (
        TREE / "model_server" / "engine" / "moshi" / "engine.py"
    ).read_text()  # it needs packages of its own
    sources = {source for family in catalogue.families("moshi") for source in family.sources}
    assert sources == {f"model.{name}" for name in re.findall(r'^            "(moshi_\w+)":', moshi, re.M)}
    sources = {source for family in catalogue.families("digits") for source in family.sources}
    told = {"layers_compiled", "graphs_captured", "rank_sums_total", "rank_sum_bytes_total", "rank_sum_ns"}
    assert sources == {f"model.{name}" for name in told}


def _read(url: str) -> str:
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=5, context=anybody) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""
