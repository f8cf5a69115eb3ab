"""Every figure that is shown, once: what it is called, what it counts, and where to look when it is bad.

Parts of the program count under short names (`turns_cut`, `edge.messages`, `model.step_ns`); here these become
Prometheus' names, in base units, with labels whose values are in this file or in the settings: never a call, a
number or a tenant. `docs/metrics.md` is made from it (`python -m gateway.catalogue`),
   as is what `/metrics` shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.catalogue.family import (
    FILES,
    GPU,
    HOOKS,
    LATE,
    LINES,
    MODEL,
    NOTHING,
    PROBES,
    REFUSED,
    SOUND,
    STATE,
    STRANGERS,
    TRACES,
    WORK,
    Family,
    Section,
    Where,
)
from gateway.catalogue.of_calls import OF_BROWSERS, OF_CALLS, OF_CAMERA, OF_QUALITY, OF_TURNS
from gateway.catalogue.of_others import (
    OF_DIGITS,
    OF_EDGE,
    OF_GPU,
    OF_MODEL,
    OF_MOSHI,
    OF_PROCESS,
    OF_SGLANG,
    OF_WORKER,
)
from gateway.catalogue.of_parts import (
    OF_EVENTS,
    OF_PROBES,
    OF_PROGRAMS,
    OF_RECORDINGS,
    OF_SAFETY,
    OF_SIP,
    OF_STATE,
    OF_TASKS,
    OF_TRACES,
)
from gateway.catalogue.of_realtime import OF_REALTIME

SECTIONS: Final = (
    Section("Calls", "gateway", "", NOTHING, OF_CALLS),
    Section("Turns", "gateway", "", LATE, OF_TURNS),
    Section("Sound", "gateway", "", LINES, OF_QUALITY),
    Section("Probe calls", "probe", "Where `probe_engine` is an engine: see "
            "[operations](operations.md#probe-calls). The gauges are of the last probe call with each codec, and "
            "are away while that has no score.", PROBES, OF_PROBES),
    Section("Cameras", "gateway", "", LINES, OF_CAMERA),
    Section("Browsers", "gateway", "", SOUND, OF_BROWSERS),
    Section("Realtime clients", "gateway", "Of `/v1/realtime`.", LINES, OF_REALTIME),
    Section("Telephones", "gateway", "", STRANGERS, OF_SIP),
    Section("State and cluster", "gateway", "Where `redis` is set.", STATE, OF_STATE),
    Section("Programs", "gateway", "", REFUSED, OF_PROGRAMS),
    Section("Events", "gateway", "Where `redis` is set; `webhook` for each of `[webhooks]`.", HOOKS, OF_EVENTS),
    Section("Work in the background", "gateway", "Where `redis` is set.", WORK, OF_TASKS),
    Section("What the model may not say", "gateway", "`moderation` where it is set.", NOTHING, OF_SAFETY),
    Section("Recordings", "gateway", "What is kept, and waits: where `recording_dir` is set.", FILES,
       OF_RECORDINGS),
    Section("Traces", "traces", "Of gateways and background workers, where `traces_endpoint` is set.", TRACES,
       OF_TRACES),
    Section("Model server", "model", "Asked by the gateway at each scrape. Where there are `[engines]`, figures of "
            "their model servers, here and below, have a label `engine` more, with their name; those of the usual "
            "one have none.", MODEL, OF_MODEL),
    Section("Model server with digits", "digits", "With `engine = \"digits\"`.", LATE, OF_DIGITS),
    Section("Model server under SGLang", "sglang", "With `engine = \"sglang\"`.", MODEL, OF_SGLANG),
    Section("Model server with moshi", "moshi", "With `engine = \"moshi\"`.", MODEL, OF_MOSHI),
    Section("GPUs", "gpu", "Where the engine computes on one. Load, power, temperature and errors of the card "
            "are for NVIDIA's DCGM exporter to show.", GPU, OF_GPU),
    Section("Background worker", "worker", "Of `microturn worker`, at `background_metrics_port`.", WORK,
       OF_WORKER),
    Section("Telephone edge", "edge", "Of Kamailio, at `edge.healthPort`; Kamailio's own statistics are beside "
            "them, by its own names (`microturn_proxy_core_...` and the like).", STRANGERS, OF_EDGE),
    Section("Process", "process", "Of the gateway's main process, and of a background worker.", LATE, OF_PROCESS),
)  # fmt: skip
FAMILIES: Final = tuple(family for section in SECTIONS for family in section.families)
BY_SOURCE: Final = {
    source: (family, values) for family in FAMILIES for source, values in family.sources.items()
}
_REPORTED: Final = {
    source: family
    for section in SECTIONS
    if section.where == "gateway"
    for family in section.families
    if family.kind != "gauge"
    for source in family.sources
    if "." not in source
}
OF_WORKERS: Final = tuple(name for name, family in _REPORTED.items() if family.kind == "counter")
"""What workers count: shown from the start, as 0."""
HISTOGRAMS_OF_WORKERS: Final = tuple(name for name, family in _REPORTED.items() if family.kind == "histogram")


def families(*where: Where) -> Iterator[Family]:
    """Those that these show."""
    return (family for section in SECTIONS if section.where in where for family in section.families)
