"""Grafana's dashboards, from what they are to show: `python deploy/helm/dashboards.py` writes
`microturn/files/dashboards/`, with `--check` it says whether they are of this file.

A panel is a title, a unit, what it shows and why, and queries with their legends. `%` in a query is the selector of
the chosen namespace and pods; `[@]` is Grafana's interval of rates.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

FOLDER: Final = Path(__file__).parent / "microturn" / "files" / "dashboards"
SELECT: Final = 'namespace=~"$namespace",pod=~"$pod"'
PODS: Final = (
    'label_values({__name__=~"microturn_build_info|microturn_proxy_gateways_active",'
    + 'namespace=~"$namespace"}, pod)'
)
DOCS: Final = "docs/operations.md"
GREEN, AMBER, RED = "green", "orange", "red"
Kind = Literal["timeseries", "stat", "gauge", "heatmap", "bargauge"]


@dataclass(frozen=True, slots=True)
class Panel:
    """`steps` are the values from which on it is amber and red; falling ones for what is bad when it is low."""

    title: str
    about: str
    queries: dict[str, str]
    """Legend -> expression."""
    unit: str = "short"
    kind: Kind = "timeseries"
    width: int = 8
    steps: tuple[float, float] | None = None
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


def stat(
    title: str, about: str, query: str, unit: str = "short", steps: tuple[float, float] | None = None
) -> Panel:
    """One number of now."""
    return Panel(title, about, {"": query}, unit, "stat", 4, steps)


def quantiles(name: str, *, by: str = "") -> dict[str, str]:
    """Of a histogram."""
    legend = f"{{{{{by}}}}} " if by else ""
    return {
        f"{legend}p{round(100 * q)}": f"histogram_quantile({q}, sum by (le{f', {by}' if by else ''}) "
        f"(rate({name}_bucket{{%}}[@])))"
        for q in (0.5, 0.95, 0.99)
    }


def rate(name: str, more: str = "") -> str:
    """A second, over all pods."""
    return f"sum(rate({name}{{{more}%}}[@]))"


SOUND_CUT: Final = f"(0.2 * {rate('microturn_turns_cut_total')})"
"""Seconds of sound that went to models, a second."""
FREE: Final = 'microturn_predicted_free_calls{engine="",%}'
OF_USUAL: Final = 'microturn_engine_calls{engine="",%}'
"""All engines share the places: what is free for each is not to be added up."""
CALLS = (
    Row("Now", (
        stat("Live calls", "Calls that live in workers of the chosen gateways.", "sum(microturn_calls_live{%})"),
        stat("Would be taken", "Calls of the usual engine that admission predicts room for, one after another.",
             f"sum({FREE})", steps=(10, 2)),
        stat("Load", "Calls of the usual engine, of those that there are and would be taken. 1 is where they are "
             "refused.", f"sum({OF_USUAL}) / (sum({OF_USUAL}) + sum({FREE}))", "percentunit", (0.7, 0.9)),
        stat("Gateways ready", "That would take a call.", "sum(microturn_ready{%})", steps=(1, 0.5)),
        stat("Turns not heard", "Of the last quarter of an hour; the objective is 0.1 %.",
             "sum(rate(microturn_turns_missed_total{%}[15m])) / sum(rate(microturn_turns_cut_total{%}[15m]))",
             "percentunit", (0.0005, 0.001)),
        stat("Calls lost", "In the last hour, with a worker that died.",
             "sum(increase(microturn_calls_lost_total{%}[1h]))", steps=(0.5, 0.9)),
    )),
    Row("Calls", (
        Panel("Calls and room", "Live calls by engine, and those that would be taken beside them.",
              {"live {{pod}} {{engine}}": "microturn_engine_calls{%}",
               "free {{pod}} {{engine}}": "microturn_predicted_free_calls{%}"},
              width=12),
        Panel("Answered and ended", "A second.",
              {"answered": rate("microturn_calls_answered_total"), "ended": rate("microturn_calls_ended_total"),
               "lost": rate("microturn_calls_lost_total"), "no RTP": rate("microturn_rtp_timeouts_total")},
              "cps", width=12),
        Panel("Set-up", "INVITE to 200, a browser's offer to its first media.",
              quantiles("microturn_setup_seconds", by="door"), "s", width=12),
        Panel("Refused, by whom and why", "A call may be refused by several in a row.",
              {"{{by}} {{reason}}": "sum by (by, reason) (rate(microturn_admission_refused_total{%}[@])) > 0"},
              "cps", width=12, stacked=True),
    )),
    Row("Calls of ours, and handing over", (
        Panel("Placed", "Calls that we make.",
              {"placed": rate("microturn_calls_placed_total"), "answered": rate("microturn_placed_answered_total"),
               "failed": rate("microturn_placed_failed_total")}, "cps"),
        Panel("Handed over", "Callers who are given to somebody, and persons who join.",
              {"handed over": rate("microturn_handed_over_total"), "not": rate("microturn_handovers_failed_total"),
               "joined": rate("microturn_persons_joined_total"), "did not": rate("microturn_joins_failed_total")},
              "cps"),
        Panel("Money", "Spent by calls of ours, a second; in the money of the prices.",
              {"spent": rate("microturn_spend_charged_total")}),
    )),
    Row("State, events, recordings, work", (
        Panel("Redis", "1 is there.", {"{{pod}}": "microturn_state_connected{%}"}, width=6),
        Panel("Redis: round trip", "Of the writer of calls' state.",
              quantiles("microturn_state_round_trip_seconds"), "s", width=6),
        Panel("Waiting for Redis", "Records in gateways' memory.",
              {"{{pod}}": "microturn_state_buffered{%}",
               "lost {{pod}}": "increase(microturn_state_dropped_total{%}[@])"}, width=6),
        Panel("Webhooks: waiting", "What endpoints have not got.",
              {"{{endpoint}}": "sum by (endpoint) (microturn_webhook_waiting_bytes{%})"}, "bytes", width=6),
        Panel("Recordings", "Files that wait for S3, and how long the oldest has.",
              {"waiting": "sum(microturn_recordings_to_upload{%})",
               "not finished": "sum(microturn_recordings_unfinished{%})"}, width=6),
        Panel("Recordings: lost sound", "Silence in files, since disk or queue took nothing.",
              {"disk": rate("microturn_recordings_dropped_seconds_total"),
               "queue": rate("microturn_recordings_refused_seconds_total")}, "s", width=6),
        Panel("Tasks", "Work that models hand off.",
              {"asked": rate("microturn_tasks_asked_total"), "done": rate("microturn_tasks_done_total"),
               "failed": rate("microturn_tasks_failed_total"), "refused": rate("microturn_tasks_refused_total")},
              "cps", width=6),
        Panel("Tasks: time at a worker", "From when it was taken to its end.",
              quantiles("microturn_worker_task_seconds"), "s", width=6),
        Panel("Traces", "Spans a second, by what became of them.",
              {"{{outcome}}": "sum by (outcome) (rate(microturn_traces_spans_total{%}[@]))"}, "cps", width=6),
    )),
)  # fmt: skip

MODEL = (
    Row("Now", (
        stat("Model servers", "That answer their gateway.", "sum(microturn_model_up{%})", steps=(1, 0.5)),
        stat("Left out", "0 nothing, 1 pictures, 2 tokens, 3 new calls.", "max(microturn_model_shedding{%})",
             steps=(1, 3)),
        stat("Replies late or not published", "Since the model server began.",
           "max(microturn_model_misses_ratio{%})",
             "percentunit", (0.0005, 0.001)),
        stat("Rows with a call", "Of the slot table.",
             "sum(microturn_model_slots_leased{%}) / sum(microturn_model_slots{%})", "percentunit", (0.8, 0.95)),
        stat("Rebuilding", "Calls of a server before, whose past is appended.",
             "sum(microturn_model_calls_rebuilding{%})", steps=(1, 50)),
        stat("Restarts", "Of model servers, in the last hour.",
             "sum(changes(microturn_model_start_timestamp_seconds{%}[1h]))", steps=(1, 2)),
    )),
    Row("Turns", (
        Panel("Not heard", "Of all turns. The objective is 0.1 %.",
              {"missed": f"{rate('microturn_turns_missed_total')} / {rate('microturn_turns_cut_total')}",
               "of them late": f"{rate('microturn_turns_late_total')} / {rate('microturn_turns_cut_total')}"},
              "percentunit", width=12, steps=(0.0005, 0.001)),
        Panel("Where turns go wrong", "A second. No chunk: a worker was late. Overdue: the step was.",
              {"no chunk at the tick": rate("microturn_model_turns_missed_total"),
               "found at a second look": rate("microturn_model_turns_looked_for_total"),
               "overdue": rate("microturn_model_turns_overdue_total"),
               "ring full": rate("microturn_model_publishes_refused_total"),
               "ticks overslept": rate("microturn_model_ticks_skipped_total"),
               "frames not served": rate("microturn_frames_skipped_total")}, "cps", width=12),
    )),
    Row("Steps", (
        Panel("Step", "From a tick to its replies; a turn is 200 ms.", quantiles("microturn_model_step_seconds"),
              "s", width=8, steps=(0.1, 0.2)),
        Panel("Steps, all of them", "How many took how long.",
              {"{{le}}": "sum by (le) (increase(microturn_model_step_seconds_bucket{%}[@]))"}, "s", "heatmap"),
        Panel("Steps with slack below zero", "Published after the budget.",
              {"late": 'sum(rate(microturn_model_slack_seconds_bucket{le="0.0",%}[@])) / '
                       'sum(rate(microturn_model_slack_seconds_bucket{le="+Inf",%}[@]))',
               "less than 5 ms": 'sum(rate(microturn_model_slack_seconds_bucket{le="0.005",%}[@])) / '
                                 'sum(rate(microturn_model_slack_seconds_bucket{le="+Inf",%}[@]))'},
              "percentunit"),
        Panel("Predicted", "A step of a full group against its limit, and the parts of the line.",
              {"full group {{pod}} {{engine}}": "microturn_model_step_predicted_full_seconds{%}",
               "limit {{pod}} {{engine}}": "microturn_model_step_limit_seconds{%}",
               "fixed {{pod}} {{engine}}": "microturn_model_step_fixed_seconds{%}",
               "a call {{pod}} {{engine}}": "microturn_model_step_per_row_seconds{%}"}, "s"),
        Panel("Ticks begun late", "After they were due.", quantiles("microturn_model_tick_lateness_seconds"),
           "s"),
        Panel("Refused by the model server", "By why.",
              {"{{reason}}": 'sum by (reason) (rate(microturn_admission_refused_total{by="model",%}[@]))'},
                 "cps"),
    )),
    Row("Deaths, moves, memory", (
        Panel("Lost and moved", "A second: workers without a server, calls that moved, turns from logs.",
              {"servers lost": rate("microturn_model_servers_lost_total"),
               "calls moved": rate("microturn_model_calls_moved_total"),
               "turns rebuilt": rate("microturn_model_turns_rebuilt_total"),
               "not rebuilt": rate("microturn_model_turns_not_rebuilt_total")}, "cps"),
        Panel("GPU memory", "Where the engine computes on one.",
              {"taken {{pod}} {{gpu}}": "microturn_model_gpu_memory_used_bytes{%}",
               "ours {{pod}} {{gpu}}": "microturn_model_gpu_memory_reserved_bytes{%}",
               "has {{pod}} {{gpu}}": "microturn_model_gpu_memory_total_bytes{%}"}, "bytes"),
        Panel("Must stay 0", "Rows written over, checks that failed, garbage.",
              {"torn": rate("microturn_model_rows_torn_total"),
               "checks": rate("microturn_model_checks_failed_total"),
               "bad messages": rate("microturn_model_messages_bad_total"),
               "stale": rate("microturn_model_rows_stale_total")}, "cps"),
    )),
)  # fmt: skip

SOUND = (
    Row("What models hear", (
        Panel("MOS", "Of calls up to now, by the E-model: half of them are below p50. 4 is good, below 3.6 many "
           "are "
              "dissatisfied.", quantiles("microturn_call_mos", by="door"), width=12),
        Panel("Bad lines", "Calls with a MOS of 3.3 and less, of all that were looked at.",
              {"{{door}}": 'sum by (door) (rate(microturn_call_mos_bucket{le="3.3",%}[@])) / '
                           "sum by (door) (rate(microturn_call_mos_count{%}[@]))"}, "percentunit", width=12,
              steps=(0.1, 0.2)),
        Panel("Made up", "Sound that we concealed, for each second of calls.",
              {"made up": f"{rate('microturn_concealed_seconds_total')} / {SOUND_CUT}",
               "left out": f"{rate('microturn_left_out_seconds_total')} / {SOUND_CUT}"},
              "percentunit"),
        Panel("Loss", "Of calls' packets, before repeats.", quantiles("microturn_call_loss_ratio", by="door"),
              "percentunit"),
        Panel("Packets lost", "A second.", {"lost": rate("microturn_packets_lost_total")}, "pps"),
        Panel("Jitter", "Of calls' lines.", quantiles("microturn_call_jitter_seconds", by="door"), "s"),
        Panel("Wait in the jitter buffer", "Of calls.", quantiles("microturn_call_delay_seconds", by="door"),
           "s"),
        Panel("Made up, by call", "Of a call's sound.", quantiles("microturn_call_concealed_ratio", by="door"),
              "percentunit"),
    )),
    Row("Probe calls", (
        Panel("PESQ", "Of the last probe call of each gateway: clean it is 4.5 with G.711, 4.0 with G.722.",
              {"{{pod}} {{codec}}": "microturn_probe_pesq_mos{%}"}),
        Panel("Round trip and what is missing", "Of probe calls: seconds; and the share that did not come back.",
              {"round trip {{pod}} {{codec}}": "microturn_probe_delay_seconds{%}",
               "missing {{pod}} {{codec}}": "microturn_probe_missing_ratio{%}"}),
        Panel("Without a score", "Probe calls in an hour, by why; put off: places were few.",
              {"{{reason}}": "sum by (reason) (increase(microturn_probe_failures_total{%}[1h])) > 0",
               "put off": "sum(increase(microturn_probe_put_off_total{%}[1h]))",
               "scored": "sum(increase(microturn_probe_scored_total{%}[1h]))"}),
    )),
    Row("Browsers", (
        Panel("Holes and what mended them", "Packets a second.",
              {"noticed": rate("microturn_gaps_noticed_total"), "repeated": rate("microturn_gaps_repaired_total"),
               "RED": rate("microturn_gaps_mended_total"), "overtaken": rate("microturn_gaps_overtaken_total"),
               "lost": rate("microturn_gaps_lost_total")}, "pps"),
        Panel("Asked of us", "Packets that browsers want once more.",
              {"asked": rate("microturn_repeats_asked_total"), "sent": rate("microturn_repeats_repeated_total"),
               "refused": rate("microturn_repeats_refused_total")}, "pps"),
        Panel("Lines that give up something", "Steps down, and lines with nothing left.",
              {"from browsers": rate("microturn_line_in_downs_total"),
               "to browsers": rate("microturn_line_out_downs_total"),
               "weak": rate("microturn_lines_weak_total")}, "cps"),
        Panel("Away", "Browsers that are not heard.",
              {"{{pod}}": "microturn_browsers_away{%}"}),
        Panel("Ways", "Connections that were not made, and were lost.",
              {"not made": rate("microturn_ice_connects_timed_out_total"),
               "no DTLS": rate("microturn_transport_handshakes_timed_out_total"),
               "lost": rate("microturn_ice_consents_lost_total"), "other "
               "path": rate("microturn_ice_switches_total"),
               "no way out": rate("microturn_ice_unsent_total")}, "cps"),
        Panel("Cameras", "Pictures a second.",
              {"decoded": rate("microturn_video_frames_decoded_total"),
               "for the model": rate("microturn_video_frames_total"),
               "failed": rate("microturn_video_frames_failed_total"),
               "freezes": rate("microturn_video_freezes_total")}, "cps"),
    )),
)  # fmt: skip

EDGE = (
    Row("Now", (
        stat("Edges with a gateway", "Kamailio's own probes.", "sum(microturn_proxy_gateways_active{%})",
           steps=(1, 0.5)),
        stat("Trunks not registered", "Of those that are to be.",
             "sum(microturn_trunks_to_register{%}) - sum(microturn_trunks_registered{%})", steps=(0.5, 0.9)),
        stat("Sources that are watched", "Addresses that have sent SIP of late.",
           "sum(microturn_guard_sources{%})",
             steps=(8_000, 16_000)),
        stat("Not heard", "Messages a second of scanners, strangers and who sends too much, edge and gateways.",
             "sum(rate(microturn_guard_silenced_total{%}[5m])) + "
             "sum(rate(microturn_guard_scanners_total{%}[5m])) + "
             "sum(rate(microturn_guard_strangers_total{%}[5m])) + "
             "sum(rate(microturn_guard_limited_total{%}[5m]))",
             "cps", (50, 1_000)),
        stat("Certificate ends in", "The first of those that gateways have loaded.",
             "min(microturn_certificate_expiry_timestamp_seconds{%}) - time()", "s", (1_209_600, 259_200)),
        stat("Failed signatures", "Of callers' numbers, a second (STIR/SHAKEN).",
             'sum(rate(microturn_stir_results_total{result=~"failed.*",%}[5m]))', "cps", (1, 10)),
    )),
    Row("Telephone edge (Kamailio)", (
        Panel("Requests", "A second.",
              {"INVITE": rate("microturn_proxy_core_rcv_requests_invite"),
               "all": rate("microturn_proxy_core_rcv_requests"),
               "to gateways": rate("microturn_proxy_core_fwd_requests")}, "cps"),
        Panel("Not passed on", "By why.",
              {"{{reason}}": "sum by (reason) (rate(microturn_proxy_refused_total{%}[@]))"}, "cps", stacked=True),
        Panel("Memory", "Shared memory of Kamailio.",
              {"used {{pod}}": "microturn_proxy_shmem_used_size{%}", "has "
                 "{{pod}}": "microturn_proxy_shmem_total_size{%}"},
              "bytes"),
    )),
    Row("SIP at the gateways", (
        Panel("Messages", "A second.",
              {"all": rate("microturn_edge_messages_total"),
               "admitted": rate("microturn_edge_calls_admitted_total"),
               "answered": rate("microturn_edge_calls_answered_total"),
               "bad": rate("microturn_edge_bad_messages_total")}, "cps"),
        Panel("Who is not heard", "Messages a second.",
              {"strangers": rate("microturn_guard_strangers_total"),
               "scanners": rate("microturn_guard_scanners_total"),
               "beyond the rate": rate("microturn_guard_limited_total"),
               "silent": rate("microturn_guard_silenced_total"), "crowded": rate("microturn_guard_crowded_total")},
              "cps", stacked=True),
        Panel("Bad bodies and forgeries", "Messages a second.",
              {"screened": rate("microturn_edge_screened_total"), "spoofed": rate("microturn_edge_spoofed_total"),
               "TLS failed": rate("microturn_edge_tls_failed_total"),
               "TCP refused": rate("microturn_edge_tcp_refused_total")}, "cps"),
        Panel("Registrations", "Of trunks.",
              {"registered": "sum(microturn_trunks_registered{%})", "to "
                 "be": "sum(microturn_trunks_to_register{%})",
               "refused": rate("microturn_registrar_refused_total"),
               "no answer": rate("microturn_registrar_unanswered_total")}),
        Panel("Callers' numbers", "Signatures, by what came of them.",
              {"{{result}}": "sum by (result) (rate(microturn_stir_results_total{%}[@])) > 0"}, "cps",
                 stacked=True),
        Panel("Caps", "Places under a cap, and calls beyond one.",
              {"taken": "sum(microturn_cluster_permits{%})",
               "refused": 'sum(rate(microturn_admission_refused_total{by="cluster",%}[@]))',
               "unchecked": rate("microturn_cluster_permits_unchecked_total")}),
    )),
    Row("Browsers' and programs' HTTP", (
        Panel("Refused", "A second.",
              {"{{reason}}": 'sum by (reason) (rate(microturn_admission_refused_total{by="http",%}[@]))',
               "no HTTP": rate("microturn_http_server_requests_malformed_total"),
               "too many connections": rate("microturn_http_server_connections_refused_total")}, "cps"),
        Panel("Programs", "Requests below /v1 a second.",
              {"all": rate("microturn_v1_requests_total"), "refused": rate("microturn_v1_refused_total"),
               "failed": rate("microturn_v1_failed_total"), "bugs": rate("microturn_v1_broken_total")}, "cps"),
        Panel("Garbage at media ports", "Datagrams and packets a second.",
              {"unmatched": rate("microturn_ice_unmatched_total"), "bad "
                 "STUN": rate("microturn_ice_bad_stun_total"),
               "not authentic": rate("microturn_transport_srtp_refused_total"),
               "TCP silent": rate("microturn_ice_tcp_silent_total")}, "pps"),
    )),
)  # fmt: skip

BOARDS: Final = {
    "calls": ("Calls", CALLS),
    "model": ("Turns and model", MODEL),
    "sound": ("Sound", SOUND),
    "edge": ("Telephone edge and abuse", EDGE),
}


def _thresholds(steps: tuple[float, float] | None) -> dict[str, Any]:
    if steps is None:
        return {"mode": "absolute", "steps": [{"color": "text", "value": None}]}
    amber, red = steps
    if amber < red:
        colours: list[tuple[str, float | None]] = [(GREEN, None), (AMBER, amber), (RED, red)]
    else:
        colours = [(RED, None), (AMBER, red), (GREEN, amber)]
    return {"mode": "absolute", "steps": [{"color": name, "value": value} for name, value in colours]}


def _targets(panel: Panel) -> Iterator[dict[str, Any]]:
    for place, (legend, query) in enumerate(panel.queries.items()):
        expression = query.replace("%", SELECT).replace("[@]", "[$__rate_interval]")
        target = {"refId": chr(65 + place), "expr": expression, "legendFormat": legend or "__auto"}
        if panel.kind == "heatmap":
            target |= {"format": "heatmap"}
        yield target


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    height = 4 if panel.kind == "stat" else 8
    custom: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {"lineWidth": 1, "fillOpacity": 25 if panel.stacked else 8, "showPoints": "never"}
        custom["stacking"] = {"mode": "normal" if panel.stacked else "none"}
        custom["thresholdsStyle"] = {"mode": "line" if panel.steps else "off"}
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    elif panel.kind == "stat":
        options = {"colorMode": "value", "graphMode": "area", "reduceOptions": {"calcs": ["lastNotNull"]}}
    elif panel.kind == "heatmap":
        options = {"calculate": False, "yAxis": {"unit": panel.unit}, "color": {"scheme": "Oranges"}}
    return {
        "id": number, "type": panel.kind, "title": panel.title, "description": panel.about,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": height},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "thresholds": _thresholds(panel.steps), "custom": custom},
            "overrides": [],
        },
        "options": options, "targets": list(_targets(panel)),
    }  # fmt: skip


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "label": label, "type": "query", "multi": True, "includeAll": True, "allValue": ".*",
        "datasource": {"type": "prometheus", "uid": "${datasource}"}, "refresh": 2, "sort": 1,
        "query": {"query": query, "refId": name}, "definition": query,
        "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def board(name: str) -> dict[str, Any]:
    """As Grafana imports it."""
    title, rows = BOARDS[name]
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        panels.append({"id": len(panels) + 1, "type": "row", "title": row.title, "collapsed": False,
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []})  # fmt: skip
        y, x, tallest = y + 1, 0, 0
        for panel in row.panels:
            if x + panel.width > 24:
                x, y, tallest = 0, y + tallest, 0
            panels.append(_panel(panel, len(panels) + 1, x, y))
            x, tallest = x + panel.width, max(tallest, panels[-1]["gridPos"]["h"])
        y += tallest
    return {
        "uid": f"microturn-{name}", "title": f"microturn: {title}", "tags": ["microturn"], "editable": True,
        "schemaVersion": 39, "version": 1, "refresh": "15s", "time": {"from": "now-1h", "to": "now"},
        "timezone": "", "graphTooltip": 1, "description": f"What to do when it is bad: {DOCS}, Incidents.",
        "links": [{"title": "microturn", "type": "dashboards", "tags": ["microturn"], "asDropdown": True}],
        "templating": {"list": [
            {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
            _variable("namespace", "Namespace", "label_values(microturn_build_info, namespace)"),
            _variable("pod", "Pod", PODS),
        ]},
        "annotations": {"list": []}, "panels": panels,
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    """Exit status 1 where `--check` finds a file that is not of this program."""
    wrong = []
    for name in BOARDS:
        path, text = FOLDER / f"{name}.json", json.dumps(board(name), indent=1) + "\n"
        if "--check" not in arguments:
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            wrong.append(path.name)
    if wrong:
        print(f"{', '.join(wrong)}: run python deploy/helm/dashboards.py", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
