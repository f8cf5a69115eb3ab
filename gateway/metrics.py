"""What the gateway shows to Prometheus: its workers' counters summed, its own, and its model server's.

Workers report counters that grow from their own start; the difference to their last report is added here, so
a sum never falls when a worker is replaced. What a figure is called is `gateway/catalogue/`'s to say; one that is
not listed there is shown all the same, by its short name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway import catalogue
from gateway.catalogue import BY_SOURCE
from gateway.catalogue.family import Family, Kind, unlisted
from gateway.histogram import SUM, Histogram
from media.timebase import NS_PER_S

_ROOM: Final = ("places_free:telephone", "places_free:browser")


def _version() -> str:
    try:
        return importlib.metadata.version("microturn")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


class Metrics(Collector):
    """Sums over workers, and whatever else is asked for at a scrape."""

    def __init__(self, *, of_gateway: bool = True) -> None:
        """`of_gateway`: workers report to it, whose counters are shown from the start."""
        self.sums: dict[str, int] = dict.fromkeys(catalogue.OF_WORKERS, 0) if of_gateway else {}
        self.gauges: dict[str, float] = {}
        self.parts: dict[str, Any] = {}
        """Counters of this process's own parts (edge, webrtc, http): dataclasses of integers. What stands behind a
        colon in a name, here and in `gauges`, is the value of its metric's label."""
        self.histograms: tuple[Histogram, ...] = ()
        self.model: dict[str, Any] | None = None
        """What the usual engine's model server says; None where it does not answer."""
        self.further: dict[str, dict[str, Any] | None] = {}
        """The same of further engines: their figures are shown beside, with a label `engine`."""
        self.room: dict[str, int] = {}
        """Calls of each further engine that there are workers for, whatever its model server says."""
        self.ask: Callable[[], None] = lambda: None
        """Called at each scrape, before anything is read."""
        self._is_of_gateway, self._build = of_gateway, {f"build_info:{_version()}": 1.0}
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
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
        """Everything, in the order of the catalogue."""
        self.ask()
        shown: dict[str, Metric] = {}
        for source, kind, value in self._figures():
            family, labels = _find(source, kind)
            metric = shown.get(family.name) or shown.setdefault(family.name, _made(family))
            assert isinstance(metric, CounterMetricFamily | GaugeMetricFamily)
            metric.add_metric(labels, value if family.scale == 1 else value * family.scale)
        for name, buckets, total in self._distributions():
            family, labels = _find(name, "histogram")
            metric = shown.get(family.name) or shown.setdefault(family.name, _made(family))
            assert isinstance(metric, HistogramMetricFamily)
            metric.add_metric(labels, buckets, sum_value=total)
        for engine, told in self.further.items():
            for source, kind, value in _of_a_model(told):
                family, labels = _find(source, kind)
                metric = _made(family)
                assert isinstance(metric, CounterMetricFamily | GaugeMetricFamily)
                metric.add_metric(labels, value if family.scale == 1 else value * family.scale)
                _beside(shown.setdefault(family.name, _made(family)), metric, engine)
            for name, buckets, total in _distributions_of_a_model(told):
                family, labels = _find(name, "histogram")
                metric = _made(family)
                assert isinstance(metric, HistogramMetricFamily)
                metric.add_metric(labels, buckets, sum_value=total)
                _beside(shown.setdefault(family.name, _made(family)), metric, engine)
        return [shown[name] for name in sorted(shown, key=lambda name: _PLACES.get(name, len(_PLACES)))]

    def _figures(self) -> Iterator[tuple[str, Kind, float]]:
        """All that is one number, by its short name."""
        if self._is_of_gateway:
            yield from self._of_the_model()
        for name, count in self.sums.items():
            if "|" not in name:
                yield name, "counter", count
        for name, gauge in (self._build | self.gauges).items():
            yield name, "gauge", gauge
        for part, counters in self.parts.items():
            part, colon, label = part.partition(":")
            for field in dataclasses.fields(counters):
                yield f"{part}.{field.name}{colon}{label}", "counter", getattr(counters, field.name)

    def _of_the_model(self) -> Iterator[tuple[str, Kind, float]]:
        yield from _of_a_model(self.model)
        room = [self.gauges[name] for name in _ROOM if name in self.gauges]
        if room:
            yield "predicted_free_calls", "gauge", min(sum(room), _free_calls(self.model))
        for engine, places in self.room.items():
            free = min(places, _free_calls(self.further.get(engine)))
            yield f"predicted_free_calls:{engine}", "gauge", free

    def _distributions(self) -> Iterator[tuple[str, list[tuple[str, float]], float]]:
        """Short name, cumulative buckets by their upper bounds, and the sum in the base unit."""
        sums = dict(self.sums)
        for histogram in self.histograms:
            sums |= histogram.report()
        names = dict.fromkeys(catalogue.HISTOGRAMS_OF_WORKERS if self._is_of_gateway else ())
        names |= dict.fromkeys(histogram.name for histogram in self.histograms)
        for name in names | dict.fromkeys(name.partition("|")[0] for name in sums if "|" in name):
            shape = BY_SOURCE[name][0].shape
            assert shape is not None, name
            counts = [sums.get(f"{name}|{place}", 0) for place in range(len(shape.bounds) + 1)]
            yield name, _cumulative(shape.shown, counts), sums.get(f"{name}|{SUM}", 0) * shape.scale
        yield from _distributions_of_a_model(self.model)


def _free_calls(told: dict[str, Any] | None) -> float:
    """What admission of a model server would take; 0 of one that is away."""
    free: float = (told or {}).get("gauges", {}).get("free_calls", 0)
    return free


def _of_a_model(told: dict[str, Any] | None) -> Iterator[tuple[str, Kind, float]]:
    """What a model server says that is one number, by its short name."""
    yield "model.up", "gauge", float(told is not None)
    for name, count in (told or {}).get("counters", {}).items():
        yield f"model.{name}", "counter", count
    for name, gauge in (told or {}).get("gauges", {}).items():
        yield f"model.{name}", "gauge", gauge


def _distributions_of_a_model(
    told: dict[str, Any] | None,
) -> Iterator[tuple[str, list[tuple[str, float]], float]]:
    """As `Metrics._distributions`."""
    for name, its in (told or {}).get("histograms", {}).items():
        bounds = [*(str(le_ns / NS_PER_S) for le_ns in its["le_ns"]), "+Inf"]
        yield f"model.{name}", _cumulative(bounds, its["counts"]), its["sum_ns"] / NS_PER_S


def _beside(shown: Metric, metric: Metric, engine: str) -> None:
    """The samples of a further engine's, with its name."""
    shown.samples += [
        sample._replace(labels={**sample.labels, "engine": engine}) for sample in metric.samples
    ]


_PLACES: Final = {family.name: place for place, family in enumerate(catalogue.FAMILIES)}


def _made(family: Family) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    if family.kind == "histogram":
        return HistogramMetricFamily(family.name, family.help, labels=family.labels)
    if family.kind == "gauge":
        return GaugeMetricFamily(family.name, family.help, labels=family.labels)
    return CounterMetricFamily(family.name, family.help, labels=family.labels)


def _find(source: str, kind: Kind) -> tuple[Family, tuple[str, ...]]:
    """What shows a figure, and the values of its labels."""
    if source in BY_SOURCE:
        return BY_SOURCE[source]
    base, colon, label = source.partition(":")
    if colon and base in BY_SOURCE:
        return BY_SOURCE[base][0], (label,)
    return unlisted(source.replace(":", "_"), kind), ()


def _cumulative(bounds: list[str], counts: list[int]) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip(bounds, counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
