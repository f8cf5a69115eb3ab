"""The figures of a load test: put together, printed, kept in a CSV file and drawn.

Knows finished call reports and process samples, nothing of how they came about.
"""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gateway.caller.report import CHUNK_MS, CallReport, summarise_delay
from loadtests.processes import Usage

RESULTS = Path(__file__).parent / "results"
GROWN_MS = 2.0
PERCENTILES = ("p50", "p95", "p99", "max")
TURN_COUNTERS = {
    "total": "microturn_turns_total",
    "missed": "microturn_turns_missed_total",
    "late": "microturn_turns_late_total",
}

Real = NDArray[np.float64]
Plan = TypeVar("Plan")


@dataclass(frozen=True, slots=True)
class Costs:
    """What the gateway's processes used, or None where they could not be looked at."""

    steady_s: float  # length of the steady state, in which all calls were up
    steady: Mapping[str, Usage]  # by kind, over the steady state
    grown_mb: float  # PSS of all, end of the steady state less before the first call


def percentiles(values: Real, digits: int = 2) -> dict[str, float | None]:
    """p50, p95, p99 and max; None for each when there are no values."""
    if values.size == 0:
        return dict.fromkeys(PERCENTILES)
    found = [*np.percentile(values, [50, 95, 99]), values.max()]
    return {name: round(float(value), digits) for name, value in zip(PERCENTILES, found, strict=True)}


def delay_beyond_chunk(reports: Sequence[CallReport]) -> dict[str, float | int | None]:
    """Over all windows of all calls, less the 200 ms chunk; `growth` is that of the worst call, `calls_grown` says
    how many grew by more than `GROWN_MS`. Who sends just when chunks are cut may be a frame later now and then:
    20 ms once is no growth that goes on."""
    windows = [report.windows.delay_ms for report in reports if report.windows is not None]
    delays = np.concatenate(windows) if windows else np.zeros(0)
    growths = [
        summary.growth
        for report in reports
        if report.windows is not None and (summary := summarise_delay(report.windows)) is not None
    ]
    growth = round(max(growths), 2) if growths else None
    grown = sum(one > GROWN_MS for one in growths)
    return {**percentiles(delays - CHUNK_MS), "growth": growth, "calls_grown": grown}


def gap_starts(reports: Sequence[CallReport]) -> list[NDArray[np.int64]]:
    """Monotonic ns when the frames were said that did not come back, one array a call."""
    return [report.windows.gap_starts_ns for report in reports if report.windows is not None]


def figures(
    reports: Sequence[CallReport], costs: Costs | None, turns: Mapping[str, int | None]
) -> dict[str, Any]:
    """The JSON object of `python -m loadtests sip` (DESIGN section 11)."""
    answered = [report for report in reports if report.answered]
    refused = [report for report in reports if not report.answered]
    statuses: dict[str, int] = {}
    for report in reports:
        statuses[str(report.status)] = statuses.get(str(report.status), 0) + 1
    scores = np.array([report.mos for report in answered if report.mos is not None], dtype=np.float64)
    return {
        "answered": len(answered),
        "refused": len(refused),
        "refused_with_retry_after": sum(report.retry_after_s is not None for report in refused),
        "statuses": statuses,
        "without_media": sum(not report.media_came_back for report in answered),
        "ended_early": sum(report.ended_by == "peer" for report in answered),
        "cpu_percent_per_call": _cpu_percent_per_call(costs, len(answered)),
        "rss_mb_per_call": round(costs.grown_mb / len(answered), 3) if costs and answered else None,
        "delay_ms": delay_beyond_chunk(answered),
        "gap_ms": round(sum(report.gap_ms for report in answered), 1),
        "active_ms": round(sum(report.active_ms for report in answered), 1),
        "calls_with_gaps": sum(report.gap_ms > 0 for report in answered),
        "turns": dict(turns),
        "setup_ms": percentiles(np.array([r.setup_ms for r in answered if r.setup_ms is not None])),
        "lost_packets": sum(report.lost_packets for report in answered),
        "duplicate_packets": sum(report.duplicate_packets for report in answered),
        "jitter_ms": percentiles(np.array([report.jitter_ms for report in answered])),
        "longest_silence_ms": percentiles(np.array([report.longest_silence_ms for report in answered])),
        "mos": round(float(np.median(scores)), 2) if scores.size else None,
    }


def _cpu_percent_per_call(costs: Costs | None, answered: int) -> dict[str, float] | None:
    if costs is None or not answered or costs.steady_s <= 0:
        return None
    scale = 100 / costs.steady_s / answered
    percent = {kind: round(usage.cpu_s * scale, 4) for kind, usage in sorted(costs.steady.items())}
    return {**percent, "total": round(sum(usage.cpu_s for usage in costs.steady.values()) * scale, 4)}


def parse_turns(exposition: str) -> dict[str, int | None]:
    """The turn counters of a Prometheus text exposition, summed over labels; None for those that are
    absent."""
    sums: dict[str, float] = {}
    for line in exposition.splitlines():
        if line.startswith("#"):
            continue
        name, _, rest = line.partition("{") if "{" in line else line.partition(" ")
        value = rest.rpartition("}")[2].split()
        if name in TURN_COUNTERS.values() and value:
            sums[name] = sums.get(name, 0.0) + float(value[0])
    return {key: int(sums[name]) if name in sums else None for key, name in TURN_COUNTERS.items()}


def turns_between(
    before: Mapping[str, int | None] | None, after: Mapping[str, int | None] | None
) -> dict[str, int | None]:
    """What the counters grew by; one that appeared in between began at zero, one that is absent stays
    None."""
    grown: dict[str, int | None] = {}
    for key in TURN_COUNTERS:
        last = after.get(key) if after else None
        grown[key] = None if last is None else last - ((before or {}).get(key) or 0)
    return grown


# -- where it was measured


def carry_out(kind: str, make: Callable[[], Plan], run: Callable[[Plan], dict[str, Any]]) -> int:
    """Make a plan, run it, print the figures: a table, and last one JSON line. 0 when it could be run, 1 when not,
    2 for an operator's mistake in the plan. Missed goals are in the figures."""
    try:
        plan = make()
    except ValueError as wrong:
        print(f"loadtests {kind}: {wrong}", file=sys.stderr)
        return 2
    try:
        result = run(plan)
    except (OSError, RuntimeError, LookupError) as wrong:
        print(f"loadtests {kind}: {wrong}", file=sys.stderr)
        return 1
    print(table(result))
    print(json.dumps(result), flush=True)
    return 0


def surroundings(command: str) -> dict[str, str]:
    """Date, commit, machine, Python, pjsua2 build and command: what a row needs to be compared with
    another."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": _commit(),
        "machine": f"{_processor()}, {_cores()} cores",
        "python": platform.python_version(),
        "pjsua2": pjsua2_build(),
        "command": command,
    }


def _commit() -> str:
    try:
        shown = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return shown.stdout.strip() or "none"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.split(":", 1)[1] for line in lines if line.startswith("model name")), "")
    return name.strip() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def pjsua2_build() -> str:
    """Which build the gateway would import, found without importing it (it has one place, the SIP worker)."""
    found = importlib.util.find_spec("pjsua2")
    if found is None:
        return "none"
    for name in ("pjsua2-python", "pjsua2"):
        try:
            installed = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if found.origin in {str(installed.locate_file(file)) for file in installed.files or ()}:
            return f"{name} {installed.version}"
    return str(found.origin)


# -- where it is kept


def flatten(result: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"delay_ms": {"p50": 1}} -> {"delay_ms.p50": 1}."""
    flat: dict[str, Any] = {}
    for key, value in result.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def shown(path: Path) -> str:
    """Within this tree as it lies there, else whole."""
    root = Path(__file__).resolve().parents[1]
    return str(path.resolve().relative_to(root) if path.resolve().is_relative_to(root) else path)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row to a CSV file with a header. New columns are added at the end, older rows stay as
    they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    columns: list[str] = []
    if path.exists():
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or [])
    new = [name for name in row if name not in columns]
    if new or not columns:
        part = path.with_suffix(".part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns + new, restval="")
            writer.writeheader()
            writer.writerows(rows)
        part.replace(path)
    with path.open("a", newline="") as file:
        csv.DictWriter(file, columns + new, restval="").writerow(row)


def table(result: Mapping[str, Any]) -> str:
    """Names and values in two columns, for a person."""
    rows = flatten(result)
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {'-' if value is None else value}" for name, value in rows.items())


def draw(path: Path, reports: Sequence[CallReport], title: str) -> bool:
    """Delay over time and its distribution as a PNG. False when matplotlib is not installed or nothing
    came back."""
    heard = [report.windows for report in reports if report.windows is not None and report.media_came_back]
    if not heard or importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    first_ns = min(int(windows.sent_ns[0]) for windows in heard)
    times = np.concatenate([(windows.sent_ns - first_ns) / 1e9 for windows in heard])
    delays = np.concatenate([windows.delay_ms - CHUNK_MS for windows in heard])
    gaps = np.concatenate([(windows.gap_starts_ns - first_ns) / 1e9 for windows in heard])
    figure, (over_time, distribution) = pyplot.subplots(1, 2, figsize=(11, 4), width_ratios=(2, 1))
    over_time.plot(times, delays, ".", markersize=2, alpha=0.4, label="400 ms windows")
    if gaps.size:
        over_time.plot(gaps, np.zeros_like(gaps), "r|", label="missing frames")
    over_time.set(xlabel="time of sending [s]", ylabel="round trip beyond the 200 ms chunk [ms]", title=title)
    over_time.legend(loc="upper right")
    distribution.hist(delays, bins=60)
    for name, value in percentiles(delays).items():
        if name != "max" and value is not None:
            distribution.axvline(value, color="black", linewidth=0.8)
            distribution.annotate(name, (value, 0.95), xycoords=("data", "axes fraction"), fontsize=8)
    distribution.set(xlabel="round trip beyond the chunk [ms]", ylabel="windows", yscale="log")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
