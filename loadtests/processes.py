"""What a gateway's processes cost: found under /proc, told apart by their titles, read before and after.

Linux only. One rule: only processes that we were pointed at, and their children, are looked at.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_TITLE = re.compile(r"microturn: ?([a-z][a-z-]*)")


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One reading of one process."""

    pid: int
    kind: str  # gateway, sip-worker, model-server ... or "other"
    cpu_s: float  # user and system, since it began
    pss_mb: float  # proportional set: shared pages divided among those that share them
    own_mb: float = 0.0  # unique set: pages that nobody shares, so what other programs map does not change it


@dataclass(frozen=True, slots=True)
class Usage:
    """What all processes of one kind used between two samples."""

    cpu_s: float
    pss_growth_mb: float
    processes: int


def kind_of(command_line: str) -> str:
    """The word behind `microturn: ` in a process title, or "other"."""
    match = _TITLE.search(command_line)
    return match[1] if match else "other"


def family(root: int, proc: Path = PROC) -> list[int]:
    """`root` and all its living descendants. A process that goes away while we look is left out."""
    children: dict[int, list[int]] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit() and (stat := _stat_fields(entry)):
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    found, todo = [], [root] if (proc / str(root)).exists() else []
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return sorted(found)


def sample(root: int, proc: Path = PROC) -> list[ProcessSample]:
    """Read the whole family of `root` now."""
    samples = []
    for pid in family(root, proc):
        entry = proc / str(pid)
        try:
            command_line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            stat = _stat_fields(entry)
            pss_mb, own_mb = _memory_mb(entry)
        except OSError:
            continue
        if stat:
            cpu_s = (int(stat[11]) + int(stat[12])) / TICKS_PER_SECOND
            samples.append(ProcessSample(pid, kind_of(command_line), cpu_s, pss_mb, own_mb))
    return samples


def usage_by_kind(before: list[ProcessSample], after: list[ProcessSample]) -> dict[str, Usage]:
    """CPU and memory between two samples, per kind. A process born in between counts from zero."""
    earlier = {item.pid: item for item in before}
    usage: dict[str, Usage] = {}
    for item in after:
        start = earlier.get(item.pid)
        so_far = usage.get(item.kind, Usage(0.0, 0.0, 0))
        usage[item.kind] = Usage(
            so_far.cpu_s + item.cpu_s - (start.cpu_s if start else 0.0),
            so_far.pss_growth_mb + item.pss_mb - (start.pss_mb if start else 0.0),
            so_far.processes + 1,
        )
    return usage


def grown_mb(before: list[ProcessSample], after: list[ProcessSample]) -> float:
    """Proportional memory of all that calls use; a spare worker waits for no call, and comes when it may."""
    first, last = (sum(item.pss_mb for item in items if item.kind != "spare") for items in (before, after))
    return last - first


def _stat_fields(entry: Path) -> list[str]:
    """Fields of /proc/PID/stat after the name: [0] is the state, [1] the parent, [11] utime, [12] stime."""
    try:
        return (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _memory_mb(entry: Path) -> tuple[float, float]:
    """PSS and USS; both are the resident set where smaps_rollup may not be read."""
    try:
        rollup = (entry / "smaps_rollup").read_text()
    except OSError:
        resident_mb = _sum_mb("VmRSS", (entry / "status").read_text())
        return resident_mb, resident_mb
    return _sum_mb("Pss", rollup), _sum_mb("Private_(?:Clean|Dirty)", rollup)


def _sum_mb(name: str, text: str) -> float:
    found = re.findall(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return sum(map(int, found)) / 1024
