"""Dashboards and alert rules: what they ask for is there, Prometheus reads it, and each alert comes when it is "
"to."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from deploy.helm import dashboards
from gateway import catalogue
from gateway.config import GatewaySettings
from gateway.sip.trunks import Trunk
from loadtests.chart.helm import NAME
from tests.support.helm import CHART, NAMESPACE, VARIANTS, needs_helm, one, render

TREE = Path(__file__).resolve().parents[2]
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)
OF_KAMAILIO = re.compile(r"microturn_proxy_(core|shmem|tmx|sl|tcp|pike|dns)_\w+")
"""Its own statistics, by its own names: tests/deploy/test_chart_runs.py looks whether it has them."""
POD: Final = f'namespace="{NAMESPACE}",pod="{NAME}-0"'


def rules() -> dict[str, Any]:
    """As the chart renders them."""
    spec: dict[str, Any] = one(render(*VARIANTS["contact-centre"]), "PrometheusRule", NAME)["spec"]
    return spec


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)


def asked(expression: str) -> set[str]:
    """Metrics that an expression names, but for what rules record."""
    found = set(re.findall(r"\b((?:microturn|process)_[a-z0-9_]+)\b(?!:)", expression, re.I))
    return {name for name in found if name != "microturn_predicted_load" and not OF_KAMAILIO.fullmatch(name)}


def shown() -> set[str]:
    """What the catalogue has, with what histograms are asked by."""
    names: set[str] = set()
    for family in catalogue.FAMILIES:
        names |= (
            {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
            if family.kind == "histogram"
            else {family.name}
        )
    return names


def pages() -> dict[str, str]:
    """Parts of docs/operations.md by the anchors of their headings."""
    text = (TREE / "docs" / "operations.md").read_text()
    parts = re.split(r"^#+ (.+)$", text, flags=re.M)[1:]
    heads = [re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in parts[::2]]
    return dict(zip(heads, parts[1::2], strict=True))


def queries() -> Iterator[tuple[str, str]]:
    """Where it stands, and what a dashboard asks."""
    for name in dashboards.BOARDS:
        for panel in dashboards.board(name)["panels"]:
            for target in panel.get("targets", ()):
                yield f"{name}: {panel['title']}", target["expr"]


def test_dashboards_are_made_from_their_program() -> None:
    assert dashboards.main(["--check"]) == 0, "python deploy/helm/dashboards.py"
    assert sorted(path.stem for path in dashboards.FOLDER.glob("*")) == sorted(dashboards.BOARDS)


def test_dashboards_and_rules_ask_for_what_there_is() -> None:
    known, found = shown(), 0
    text = (CHART / "files" / "rules.yaml").read_text()
    expressions = [each["expr"] for group in yaml.safe_load(text)["groups"] for each in group["rules"]]
    for where, expression in [*queries(), *(("rules.yaml", each) for each in expressions)]:
        wanted = asked(expression)
        found += len(wanted)
        assert wanted <= known, f"{where} asks for {sorted(wanted - known)}"
    assert found > 200
    labels = {label for family in catalogue.FAMILIES for label in family.labels}
    for where, expression in queries():
        for by in re.findall(r"by \(([a-z, ]+)\)", expression):
            assert set(by.split(", ")) <= labels | {"le"}, where


def test_panels_do_not_lie_upon_each_other() -> None:
    for name in dashboards.BOARDS:
        board, taken = dashboards.board(name), set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                     for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
            assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
            taken |= cells
            assert panel["type"] == "row" or (panel["description"] and panel["targets"]), panel["title"]
        numbers = [panel["id"] for panel in board["panels"]]
        assert len(numbers) == len(set(numbers))


@needs_helm
def test_dashboards_are_config_maps_that_grafanas_sidecar_takes() -> None:
    objects = render(*VARIANTS["contact-centre"])
    for name in dashboards.BOARDS:
        found = one(objects, "ConfigMap", f"{NAME}-dashboard-{name}")
        assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert json.loads(found["data"][f"{name}.json"]) == dashboards.board(name)
    assert not any("dashboard" in each["metadata"]["name"] for each in render())


@needs_helm
def test_every_alert_says_what_it_is_and_where_to_read_on() -> None:
    incidents = pages()
    anchors = set(incidents)
    alerts = [each for group in rules()["groups"] for each in group["rules"] if "alert" in each]
    for alert in alerts:
        told = alert["annotations"]
        assert set(told) == {"summary", "description", "runbook_url"}, alert["alert"]
        address, _, anchor = told["runbook_url"].partition("#")
        assert address == "docs/operations.md" and anchor in anchors, told["runbook_url"]
        assert alert["labels"]["severity"] in ("critical", "warning"), alert["alert"]
        assert alert["alert"] in incidents[anchor], f"{alert['alert']} is not in its incident page"
    assert {alert["alert"] for alert in alerts} == set(FIRES), "each has a story below"
    for family in catalogue.FAMILIES:
        assert not family.look or family.look in anchors, family.name
    assert {section.look for section in catalogue.SECTIONS} <= anchors and "incidents" in anchors


def test_incident_pages_name_figures_and_settings_that_exist() -> None:
    parts = pages()
    incidents = "".join(
        parts[family.look or section.look] for section in catalogue.SECTIONS for family in section.families
    )
    figures = {
        name.removeprefix("microturn_").removesuffix("_total")
        for name in (f.name for f in catalogue.FAMILIES)
    }
    named = set(re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)+)`", incidents))
    others = {name for name in named if OF_KAMAILIO.fullmatch(f"microturn_{name}")}
    known = figures | set(GatewaySettings.model_fields) | set(Trunk.model_fields)
    assert named - others <= known, sorted(named - others - known)
    assert len(named & figures) > 60


@needs_helm
def test_rules_are_of_the_release_or_of_whom_the_values_say() -> None:
    for group in rules()["groups"]:
        for each in group["rules"]:
            for name, matchers in re.findall(r"\b(microturn_\w+)\{([^}]*)\}", each["expr"]):
                assert f'namespace="{NAMESPACE}"' in matchers, name
            bare = re.sub(r"\{[^}]*\}", "{}", each["expr"])
            recorded = {"microturn_predicted_load"}
            assert not set(re.findall(r"\b(microturn_\w+)\b(?![{:\w])", bare)) - recorded, each
    given = "monitoring.rules.enabled=true,monitoring.rules.runbooks=https://wiki.example/ops"
    other = one(render("--set", given, "--set-string", "monitoring.rules.selector="), "PrometheusRule", NAME)[
        "spec"
    ]
    text = json.dumps(other)
    assert "namespace=" not in text and "@" not in text and "https://wiki.example/ops#late-turns" in text


@needs_helm
@needs_promtool
def test_prometheus_reads_the_rules_and_every_query_of_the_dashboards(tmp_path: Path) -> None:
    written = tmp_path / "rules.yaml"
    written.write_text(yaml.safe_dump(rules()))
    done = promtool("check", "rules", "--lint-fatal", str(written))
    assert done.returncode == 0 and " rules found" in done.stdout, done.stdout + done.stderr
    recorded = [
        {"record": f"query:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, (_, expression) in enumerate(queries())
    ]
    written.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    done = promtool("check", "rules", str(written))
    assert done.returncode == 0 and f"{len(recorded)} rules found" in done.stdout, done.stdout + done.stderr
    recorded[0]["expr"] += ")"
    written.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    assert promtool("check", "rules", str(written)).returncode != 0, "the check cannot fail"


# -- alerts, by what was measured

STEADY: Final = "0+60x150"
"""A counter that grows once a second, by minutes."""
HEALTHY: Final[dict[str, str]] = {
    "turns_cut_total": "0+6000x150", "turns_missed_total": "0+1x150", "turns_total": "0+6000x150",
    "model_turns_overdue_total": "0+1x150", "model_shedding": "0x150", "calls_lost_total": "0x150",
    "calls_broken_total": "0x150", "edge_errors_total": "0x150", "ice_errors_total": "0x150",
    "v1_broken_total": "0x150", "edge_calls_admitted_total": STEADY, "edge_calls_answered_total": STEADY,
    "webrtc_offers_total": STEADY, 'setup_seconds_count{door="browser"}': STEADY, "ready": "1x150",
    "proxy_gateways_active": "1x150", 'admission_refused_total{by="edge",reason="busy"}': "0x150",
    'admission_refused_total{by="edge",reason="rule"}': STEADY,
    'admission_refused_total{by="guard",reason="rate"}': STEADY,
    "calls_live": "20x150", "predicted_free_calls": "30x150", "trunks_to_register": "2x150",
    "trunks_registered": "2x150", "rtp_timeouts_total": "0+1x150", "calls_ended_total": STEADY,
    'call_mos_bucket{door="telephone",le="3.3"}': "0+6x150", 'call_mos_count{door="telephone"}': STEADY,
    "engine_calls": "20x150", 'engine_calls{engine="lab"}': "1x150",
    'predicted_free_calls{engine="lab"}': "4x150", 'model_up{engine="lab"}': "1x150",
    "model_up": "1x150", "model_start_timestamp_seconds": "1700000000x150",
    'model_gpu_up{gpu="0"}': "1x150", 'model_gpu_memory_used_bytes{gpu="0"}': "50e9x150",
    'model_gpu_memory_total_bytes{gpu="0"}': "80e9x150",
    "state_connected": "1x150", "state_dropped_total": "0x150", "events_spool_bytes": "1e6x150",
    "events_spool_limit_bytes": "64e6x150", 'webhook_waiting_bytes{endpoint="crm"}': "0x150",
    'webhook_delivered_total{endpoint="crm"}': STEADY, "events_lost_total": "0x150",
    "events_refused_error_total": "0x150", "events_damaged_total": "0x150",
    "recordings_to_upload_oldest_seconds": "40x150", "recordings_dropped_seconds_total": "0x150",
    "recordings_refused_seconds_total": "0x150", "recordings_failed_total": "0x150",
    "tasks_failed_total": "0+6x150", "tasks_asked_total": STEADY,
    'certificate_expiry_timestamp_seconds{use="http"}': f"{90 * 86_400}x150",
    'proxy_refused_total{reason="scanner"}': STEADY, 'proxy_refused_total{reason="no-gateway"}': "0x150",
    "guard_silenced_total": STEADY, "guard_scanners_total": STEADY,
    'probe_pesq_mos{codec="PCMU"}': "4.48x150", 'probe_failures_total{reason="unheard"}': "0x150",
    'probe_failures_total{reason="refused"}': "0x30 1x120", 'traces_spans_total{outcome="sent"}': STEADY,
    'traces_spans_total{outcome="lost"}': "0x150", 'traces_spans_total{outcome="dropped"}': "0x150",
}  # fmt: skip


class Story(NamedTuple):
    """What is different from the healthy gateway, and how many minutes after that begins the alert is there."""

    series: dict[str, str | None]
    """None: it is not shown."""
    minutes: int


BEFORE: Final = "0x60 "
"""An hour in which it stands still; then it goes on as told."""
FIRES: Final[dict[str, Story]] = {
    "MicroturnTurnsMissedFast": Story({"turns_missed_total": "0+1x60 60+600x90"}, 62),
    "MicroturnTurnsMissedSlow": Story({"turns_missed_total": "0+1x60 60+600x90"}, 40),
    "MicroturnStepsLate": Story({"model_turns_overdue_total": f"{BEFORE}0+60x90"}, 12),
    "MicroturnOverloaded": Story({"model_shedding": f"{BEFORE}1x90"}, 7),
    "MicroturnCallsLost": Story({"calls_lost_total": f"{BEFORE}4x90"}, 2),
    "MicroturnBugs": Story({"ice_errors_total": f"{BEFORE}1x90"}, 2),
    "MicroturnNoCallsAnswered": Story({"edge_calls_answered_total": "0+60x60 3600x90"}, 14),
    "MicroturnNoBrowsersAnswered": Story({'setup_seconds_count{door="browser"}': "0+60x60 3600x90"}, 14),
    "MicroturnGatewayAway": Story({"ready": None}, 3),
    "MicroturnNotReady": Story({"ready": "1x60 0x90"}, 7),
    "MicroturnEdgeWithoutGateway": Story({"proxy_gateways_active": "1x60 0x90"}, 3),
    "MicroturnCallsRefused": Story(
        {'admission_refused_total{by="edge",reason="busy"}': f"{BEFORE}0+3x90"}, 12
    ),
    "MicroturnNearlyFull": Story({"predicted_free_calls": "30x60 1x90"}, 13),
    "MicroturnTrunkNotRegistered": Story({"trunks_registered": "2x60 1x90"}, 7),
    "MicroturnOneWayAudio": Story({"rtp_timeouts_total": f"{BEFORE}0+9x90"}, 22),
    "MicroturnLinesBad": Story({'call_mos_bucket{door="telephone",le="3.3"}': f"{BEFORE}0+24x90"}, 30),
    "MicroturnModelServerDown": Story({"model_up": "1x60 0x90"}, 3),
    "MicroturnFurtherEngineAway": Story({'model_up{engine="lab"}': "1x60 0x90"}, 3),
    "MicroturnModelServerRestarts": Story({"model_start_timestamp_seconds": "1x60 2x5 3x5 4x50"}, 15),
    "MicroturnGpuLost": Story({'model_gpu_up{gpu="0"}': "1x60 0x90"}, 2),
    "MicroturnGpuMemoryFull": Story({'model_gpu_memory_used_bytes{gpu="0"}': "50e9x60 79e9x90"}, 7),
    "MicroturnStateAway": Story({"state_connected": "1x60 0x90"}, 3),
    "MicroturnStateLost": Story({"state_dropped_total": f"{BEFORE}0+10x90"}, 3),
    "MicroturnSpoolGrows": Story({"events_spool_bytes": "1e6x60 40e6+1e4x90"}, 20),
    "MicroturnWebhookLate": Story(
        {'webhook_waiting_bytes{endpoint="crm"}': "0x60 1000+10x90",
         'webhook_delivered_total{endpoint="crm"}': "0+60x60 3600x90"}, 22,
    ),
    "MicroturnEventsLost": Story({"events_lost_total": f"{BEFORE}7x90"}, 2),
    "MicroturnRecordingsWait": Story({"recordings_to_upload_oldest_seconds": "40x60 4000+60x90"}, 12),
    "MicroturnRecordingsIncomplete": Story({"recordings_dropped_seconds_total": f"{BEFORE}2.5x90"}, 2),
    "MicroturnTasksFail": Story({"tasks_failed_total": f"{BEFORE}0+30x90"}, 25),
    "MicroturnCertificateEnds": Story(
        {'certificate_expiry_timestamp_seconds{use="http"}': f"{14 * 86_400 + 4_000}x150"}, 10
    ),
    "MicroturnProbeSoundsBad": Story({'probe_pesq_mos{codec="PCMU"}': "4.48x60 2.7x90"}, 12),
    "MicroturnProbesFail": Story({'probe_failures_total{reason="unheard"}': f"{BEFORE}0+0.2x90"}, 12),
    "MicroturnTracesLost": Story({'traces_spans_total{outcome="lost"}': f"{BEFORE}0+30x90"}, 18),
    "MicroturnScanners": Story({'proxy_refused_total{reason="scanner"}': "0+60x60 3600+60000x90"}, 25),
}  # fmt: skip
"""The change comes after an hour."""


def _input(series: dict[str, str]) -> list[dict[str, str]]:
    told = []
    for name, values in series.items():
        bare, _, labels = name.partition("{")
        told.append(
            {"series": f"microturn_{bare}{{{POD},{labels.rstrip('}')}}}".replace(",}", "}"), "values": values}
        )
    return told


def _looks(expression: str, minutes: list[int], samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"expr": expression, "eval_time": f"{minute}m", "exp_samples": samples} for minute in minutes]


def _sample(alert: str) -> dict[str, Any]:
    return {"labels": f'{{alertname="{alert}"}}', "value": 1}


@needs_helm
@needs_promtool
def test_each_alert_comes_when_it_is_to_and_none_when_all_is_well(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    load = _looks(
        "microturn_predicted_load", [60], [{"labels": f"microturn_predicted_load{{{POD}}}", "value": 0.4}]
    )
    fullest = _looks(
        "microturn_predicted_load", [70], [{"labels": f"microturn_predicted_load{{{POD}}}", "value": 0.8}]
    )
    full = HEALTHY | {
        'engine_calls{engine="lab"}': "1x60 4x90",
        'predicted_free_calls{engine="lab"}': "4x60 1x90",
    }
    away = "MicroturnGatewayAway"
    ill, looks, together = dict(HEALTHY), _looks(firing, [59], []), set(FIRES) - {away}
    for alert in sorted(together):
        ill |= {name: values for name, values in FIRES[alert].series.items() if values is not None}
        at = f'count by (alertname) (ALERTS{{alertstate="firing",alertname="{alert}"}})'
        looks += _looks(at, [60 + FIRES[alert].minutes], [_sample(alert)])
    gone = {name: values for name, values in HEALTHY.items() if name not in FIRES[away].series}
    stories: list[dict[str, Any]] = [
        {"input_series": _input(HEALTHY), "promql_expr_test": _looks(firing, [30, 90, 120], []) + load},
        {"input_series": _input(full), "promql_expr_test": fullest},
        {"input_series": _input(ill), "promql_expr_test": looks},
        {
            "input_series": _input(gone),
            "promql_expr_test": _looks(firing, [FIRES[away].minutes], [_sample(away)]),
        },
    ]
    for story in stories:
        story["interval"] = "1m"
    tests = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": stories}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests, sort_keys=False))
    done = promtool("test", "rules", str(tmp_path / "tests.yaml"))
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-6_000:]
