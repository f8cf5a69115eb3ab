"""Sums over workers never fall, and the model server's figures come out in Prometheus' words."""

from __future__ import annotations

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
        "gauges": {"slots": 256},
        "histograms": {
            "step_ns": {"le_ns": [1_000_000, 2_000_000], "counts": [3, 2, 1], "sum_ns": 9_000_000}
        },
    }
    text = metrics.text().decode()
    assert "microturn_turns_total 7.0" in text and "microturn_model_turns_missed_total 1.0" in text
    assert 'microturn_model_step_seconds_bucket{le="0.002"} 5.0' in text
    assert 'microturn_model_step_seconds_bucket{le="+Inf"} 6.0' in text
    assert "microturn_model_step_seconds_sum 0.009" in text
