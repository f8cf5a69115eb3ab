"""What the gateway shows to Prometheus: its workers' counters summed, its own, and its model server's.

Workers report counters that grow from their own start; the difference to their last report is added here, so
a sum never falls when a worker is replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from media.timebase import NS_PER_S

HELP = {
    "turns_cut": "Turns (chunks) that workers cut and published",
    "turns_missed": "Turns whose reply was not heard: it was late, or it never came",
    "turns_late": "Replies that came after their playout point and were dropped",
    "replies_stale": "Replies of an earlier tenant of the slot, dropped",
    "samples_concealed": "Samples at 16 kHz that we made up where sound was missing",
    "samples_dropped": "Samples at 16 kHz left out to keep the delay down",
    "packets_lost": "RTP packets that did not come",
    "model_servers_lost": "Model servers that were gone under a worker; each worker counts for itself",
}


class Metrics(Collector):
    """Sums over workers, and whatever else is asked for at a scrape."""

    def __init__(self) -> None:
        self.sums: dict[str, int] = {}
        self.gauges: dict[str, float] = {}
        self.parts: dict[str, Any] = {}
        """Counters of the main process's own parts (edge, webrtc, http): dataclasses of integers."""
        self.model: dict[str, Any] | None = None
        self._registry = CollectorRegistry()
        self.calls_lost = Counter(
            "microturn_calls_lost", "Calls that ended because their worker died", registry=self._registry
        )
        self._registry.register(self)

    def count(self, before: dict[str, int], now: dict[str, int]) -> None:
        """One worker's report, against its report before."""
        for name, value in now.items():
            self.sums[name] = self.sums.get(name, 0) + value - before.get(name, 0)

    def text(self) -> bytes:
        """The exposition, in Prometheus' text format."""
        return generate_latest(self._registry)

    @contextlib.contextmanager
    def served(self, host: str, port: int) -> Iterator[None]:
        """At `http://HOST:PORT/metrics`, by a thread, until the block is left. `OSError` when it is taken."""
        server, thread = start_http_server(port, host, self._registry)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def collect(self) -> Iterable[Metric]:
        """Everything but `calls_lost`, which counts itself."""
        for name, value in sorted(self.sums.items()):
            yield CounterMetricFamily(f"microturn_{name}", HELP.get(name, name.replace("_", " ")), value)
        for name, gauge in sorted(self.gauges.items()):
            yield GaugeMetricFamily(f"microturn_{name}", name.replace("_", " "), gauge)
        for part, counters in self.parts.items():
            for name, value in dataclasses.asdict(counters).items():
                yield CounterMetricFamily(
                    f"microturn_{part}_{name}", f"{part}: {name.replace('_', ' ')}", value
                )
        if self.model is not None:
            yield from _of_the_model(self.model)


def _of_the_model(stats: dict[str, Any]) -> Iterable[Metric]:
    for name, value in stats.get("counters", {}).items():
        whole = (
            "microturn_turns" if name == "turns_total" else f"microturn_model_{name.removesuffix('_total')}"
        )
        yield CounterMetricFamily(whole, f"model server: {name.replace('_', ' ')}", value)
    for name, value in stats.get("gauges", {}).items():
        yield GaugeMetricFamily(f"microturn_model_{name}", f"model server: {name.replace('_', ' ')}", value)
    for name, histogram in stats.get("histograms", {}).items():
        total, buckets = 0, []
        bounds = [str(le / NS_PER_S) for le in histogram["le_ns"]] + ["+Inf"]
        for bound, count in zip(bounds, histogram["counts"], strict=True):
            total += count
            buckets.append((bound, float(total)))
        family = HistogramMetricFamily(
            f"microturn_model_{name.removesuffix('_ns')}_seconds", f"model server: {name}"
        )
        family.add_metric([], buckets, histogram["sum_ns"] / NS_PER_S)
        yield family
