"""What a metric is, and how the tables beside this write it down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from gateway.histogram import Shape

Kind = Literal["counter", "gauge", "histogram"]
PREFIX: Final = "microturn_"
SAMPLE: Final = 1 / 16_000
US: Final = 1e-6
NS: Final = 1e-9
SOUND, NOTHING, LATE, REFUSED, LOST = (
    "one-way-audio", "callers-hear-nothing", "late-turns", "calls-refused", "calls-lost",
)  # fmt: skip
MODEL, STATE, HOOKS, FILES, CERTIFICATES, WORK, LINES, STRANGERS = (
    "model-server", "state-store-down", "webhooks-late", "recordings-wait", "certificates-expire",
    "background-work-fails", "bad-lines", "scanners",
)  # fmt: skip
PROBES, TRACES, GPU = "probe-calls-fail", "traces-lost", "gpu-lost"
"""Incident pages of docs/operations.md, by their anchors."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: all that has its name. `sources` are the short names, each with its values of `labels`."""

    name: str
    kind: Kind
    help: str
    look: str
    sources: Mapping[str, tuple[str, ...]]
    labels: tuple[str, ...] = ()
    scale: float = 1.0
    """What one of the short name's units is of the base unit."""
    shape: Shape | None = None
    """Of a histogram of the gateway's; the model server tells its bounds."""
    listed: str = ""
    """Values of a label that come from the settings, or from elsewhere: a word about them."""

    @property
    def unit(self) -> str:
        """By the end of its name, as Prometheus has it."""
        bare = self.name.removesuffix("_total").removesuffix("_timestamp_seconds")
        if bare != self.name.removesuffix("_total"):
            return "Unix time, s"
        for ending, unit in (("_seconds", "s"), ("_bytes", "bytes"), ("_ratio", "0 to 1")):
            if bare.endswith(ending):
                return unit
        return "MOS" if bare.endswith("_mos") else "count"

    @property
    def values(self) -> str:
        """Labels, as the table has them."""
        if not self.labels:
            return ""
        if self.listed:
            return f"`{self.labels[0]}`: {self.listed}"
        told = {
            label: dict.fromkeys(each[n] for each in self.sources.values())
            for n, label in enumerate(self.labels)
        }
        return "; ".join(f"`{label}`: {', '.join(values)}" for label, values in told.items())


def _name(source: str, kind: Kind) -> str:
    bare = source.removeprefix("model.").removesuffix("_total") if source != "model.turns_total" else "turns"
    whole = f"model_{bare}" if source.startswith("model.") and source != "model.turns_total" else bare
    return PREFIX + whole.replace(".", "_") + ("_total" if kind == "counter" else "")


def unlisted(source: str, kind: Kind) -> Family:
    """Of a figure that this file does not have: shown all the same."""
    return Family(_name(source, kind), kind, source.replace("_", " "), "", {source: ()})


def count(source: str, help: str, look: str = "", *, name: str = "", scale: float = 1.0) -> Family:
    shown = f"{PREFIX}{name}_total" if name else _name(source, "counter")
    return Family(shown, "counter", help, look, {source: ()}, scale=scale)


def gauge(source: str, help: str, look: str = "", *, name: str = "", scale: float = 1.0) -> Family:
    shown = f"{PREFIX}{name}" if name else _name(source, "gauge")
    return Family(shown, "gauge", help, look, {source: ()}, scale=scale)


def distribution(name: str, help: str, shape: Shape | None, look: str, *sources: str) -> Family:
    """Of calls, by their door, where it has two sources."""
    doors = {each: (each.rpartition("_")[2],) if len(sources) > 1 else () for each in sources}
    labels = ("door",) if len(sources) > 1 else ()
    return Family(PREFIX + name, "histogram", help, look, doors, labels, shape.scale if shape else NS, shape)


def count_by(name: str, help: str, look: str, labels: str, /, **sources: str) -> Family:
    """A counter with labels: SOURCE = "VALUE VALUE"; `__` in a source is a dot."""
    told = {source.replace("__", "."): tuple(values.split()) for source, values in sources.items()}
    return Family(f"{PREFIX}{name}_total", "counter", help, look, told, tuple(labels.split()))


Where = Literal[
    "gateway", "probe", "traces", "model", "digits", "sglang", "moshi", "gpu", "worker", "edge", "process"
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Section:
    """Of the table. `where`: who shows it."""

    title: str
    where: Where
    about: str
    look: str
    """Where none of its own is said."""
    families: tuple[Family, ...]
