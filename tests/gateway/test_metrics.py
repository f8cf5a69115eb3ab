"""Sums over workers never fall, and every figure comes out under Prometheus' name for it, in base units."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gateway.histogram import MOS, SETUP, Histogram
from gateway.metrics import Metrics


def test_a_worker_that_is_replaced_does_not_take_its_counts_along() -> None:
    metrics = Metrics()
    metrics.count({}, {"turns_cut": 10})
    metrics.count({"turns_cut": 10}, {"turns_cut": 15})
    metrics.count({}, {"turns_cut": 2})  # its successor begins at nothing
    assert b"microturn_turns_cut_total 17.0" in metrics.text()


def test_histograms_are_cumulative_and_in_seconds() -> None:
    metrics = Metrics()
    metrics.model = {
        "counters": {"turns_total": 7, "turns_missed_total": 1},
        "gauges": {"slots": 256, "step_limit_ns": 40_000_000, "misses_per_million": 500, "free_calls": 3},
        "histograms": {
            "step_ns": {"le_ns": [1_000_000, 2_000_000], "counts": [3, 2, 1], "sum_ns": 9_000_000}
        },
    }
    metrics.gauges = {"places_free:telephone": 2.0, "places_free:browser": 5.0}
    text = metrics.text().decode()
    assert "microturn_turns_total 7.0" in text and "microturn_model_turns_missed_total 1.0" in text
    assert 'microturn_model_step_seconds_bucket{le="0.002"} 5.0' in text
    assert 'microturn_model_step_seconds_bucket{le="+Inf"} 6.0' in text
    assert "microturn_model_step_seconds_sum 0.009" in text
    assert "microturn_model_step_limit_seconds 0.04" in text and "microturn_model_misses_ratio 0.0005" in text
    assert "microturn_model_up 1.0" in text and "microturn_predicted_free_calls 3.0" in text


def test_figures_of_further_engines_are_beside_the_usual_ones_with_their_name() -> None:
    metrics = Metrics()
    told = {"counters": {"turns_total": 7, "leases_refused_slots_total": 2}, "gauges": {"slots": 256}}
    steps = {"step_ns": {"le_ns": [1_000_000], "counts": [3, 1], "sum_ns": 9_000_000}}
    metrics.model = told | {"histograms": {}}
    metrics.further = {
        "lab": {
            "counters": {"turns_total": 9},
            "gauges": {"slots": 8, "moshi_row_bytes": 5},
            "histograms": steps,
        },
        "open": None,
    }
    lines = metrics.text().decode().splitlines()
    for line in (
        "microturn_model_up 1.0",
        'microturn_model_up{engine="lab"} 1.0',
        'microturn_model_up{engine="open"} 0.0',
        "microturn_turns_total 7.0",
        'microturn_turns_total{engine="lab"} 9.0',
        "microturn_model_slots 256.0",
        'microturn_model_slots{engine="lab"} 8.0',
        'microturn_model_moshi_row_bytes{engine="lab"} 5.0',
        'microturn_model_step_seconds_bucket{engine="lab",le="0.001"} 3.0',
        'microturn_model_step_seconds_bucket{engine="lab",le="+Inf"} 4.0',
        'microturn_admission_refused_total{by="model",reason="slots"} 2.0',
    ):
        assert line in lines, line
    assert sum(line.startswith("# TYPE microturn_model_up ") for line in lines) == 1


def test_calls_that_would_be_taken_are_told_by_engine() -> None:
    metrics = Metrics()
    metrics.gauges = {"places_free:telephone": 0.0, "engine_calls": 3.0, "engine_calls:lab": 2.0}
    metrics.room = {"lab": 4, "small": 4, "away": 4}
    metrics.further = {
        name: {"counters": {}, "histograms": {}, "gauges": {"free_calls": free}}
        for name, free in (("lab", 9), ("small", 1))
    } | {"away": None}
    lines = metrics.text().decode().splitlines()
    for line in (
        "microturn_predicted_free_calls 0.0",
        'microturn_predicted_free_calls{engine="lab"} 4.0',
        'microturn_predicted_free_calls{engine="small"} 1.0',
        'microturn_predicted_free_calls{engine="away"} 0.0',
        "microturn_engine_calls 3.0",
        'microturn_engine_calls{engine="lab"} 2.0',
    ):
        assert line in lines, line


def test_without_a_model_server_no_call_is_predicted() -> None:
    metrics = Metrics()
    metrics.gauges = {"places_free:telephone": 2.0}
    text = metrics.text().decode()
    assert "microturn_model_up 0.0" in text and "microturn_predicted_free_calls 0.0" in text


def test_histograms_of_workers_are_summed_and_outlive_them() -> None:
    histogram, metrics = Histogram("setup_telephone", SETUP), Metrics()
    histogram.observe(4_000)
    before = histogram.report()
    metrics.count({}, before)
    histogram.observe(7_000)
    histogram.observe(90_000_000)  # beyond the last bound
    metrics.count(before, histogram.report())
    metrics.count({}, before)  # another worker's
    text = metrics.text().decode()
    assert 'microturn_setup_seconds_bucket{door="telephone",le="0.005"} 2.0' in text
    assert 'microturn_setup_seconds_bucket{door="telephone",le="0.01"} 3.0' in text
    assert 'microturn_setup_seconds_bucket{door="telephone",le="30"} 3.0' in text
    assert 'microturn_setup_seconds_bucket{door="telephone",le="+Inf"} 4.0' in text
    assert 'microturn_setup_seconds_count{door="telephone"} 4.0' in text
    assert 'microturn_setup_seconds_sum{door="telephone"} 90.015' in text
    assert 'microturn_setup_seconds_count{door="browser"} 0.0' in text, "a series from the start"


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram("call_mos_browser", MOS)
    histogram.observe(3_600)
    assert histogram.report() == {"call_mos_browser|5": 1, "call_mos_browser|sum": 3_600}
    assert MOS.shown[5] == "3.6"


@dataclass
class OutboxLike:
    delivered: int = 0
    oddities: int = 0


def test_what_stands_behind_a_colon_is_the_value_of_a_label() -> None:
    metrics = Metrics()
    metrics.parts = {"webhook:crm": OutboxLike(3, 1), "webhook:erp": OutboxLike(4)}
    metrics.gauges = {"webhook.waiting_bytes:crm": 17.0}
    text = metrics.text().decode()
    assert 'microturn_webhook_delivered_total{endpoint="crm"} 3.0' in text
    assert 'microturn_webhook_delivered_total{endpoint="erp"} 4.0' in text
    assert 'microturn_webhook_waiting_bytes{endpoint="crm"} 17.0' in text
    assert "microturn_webhook_oddities_crm_total 1.0" in text, "what nobody has listed is shown all the same"


@pytest.mark.parametrize(
    ("source", "count", "line"),
    [
        ("samples_concealed", 24_000, "microturn_concealed_seconds_total 1.5"),
        ("recordings_cpu_us", 2_500_000, "microturn_recordings_cpu_seconds_total 2.5"),
        ("calls_refused", 2, 'microturn_admission_refused_total{by="worker",reason="no-room"} 2.0'),
    ],
)
def test_figures_are_shown_in_base_units_and_by_reason(source: str, count: int, line: str) -> None:
    metrics = Metrics()
    metrics.count({}, {source: count})
    assert line in metrics.text().decode()
