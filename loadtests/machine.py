"""Whether the machine itself kept time while it was measured: a witness on each core.

A virtual machine's host takes the processor away now and then, for up to tens of milliseconds. No priority helps
against that, and a turn whose chunk was to be cut just then is lost by nobody's fault here. The witness of a core
is a process above all others (SCHED_FIFO) that does nothing but sleep for `NAP_NS`: when it wakes up late by
`STALL_NS` or more, the machine has stalled. It takes about one percent of its core.

`python -m loadtests.machine CORE` is one witness, until its standard input ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAP_NS = 1_000_000
STALL_NS = 2_000_000
PRIORITY = 98
END_TIMEOUT_S = 5.0
CUT_NS = (190_000_000, 250_000_000)
"""After the first sound of a chunk was said: when it is cut, taken and answered."""

Times = NDArray[np.int64]


@dataclass(slots=True)
class Stalls:
    """Of all cores; complete once the block of `witnessed` is left. Monotonic ns."""

    begun_ns: Times = field(default_factory=lambda: np.zeros(0, np.int64))
    lasted_ns: Times = field(default_factory=lambda: np.zeros(0, np.int64))
    refused: str = ""
    """Why there was no witness."""

    def figures(self, span: tuple[int, int], gap_starts_ns: Sequence[Times]) -> dict[str, Any] | None:
        """What happened between two times; None without a witness.

        `gaps`: runs of lost frames in the calls; `gaps_at_stalls`: those whose chunk was cut during a stall;
        `expected_by_chance`: how many that would be if the two had nothing to do with each other.
        """
        if self.refused:
            return None
        inside = (self.begun_ns >= span[0]) & (self.begun_ns < span[1])
        begun, lasted = self.begun_ns[inside], self.lasted_ns[inside]
        gaps = np.concatenate([np.zeros(0, np.int64), *(_first_of_runs(starts) for starts in gap_starts_ns)])
        share = self._hit(np.arange(*span, 5_000_000), begun, lasted).mean() if span[1] > span[0] else 0.0
        return {
            "stalls": len(begun),
            "stalls_per_s": round(len(begun) / max(1e-9, (span[1] - span[0]) / 1e9), 2),
            "worst_ms": round(float(lasted.max(initial=0)) / 1e6, 1),
            "gaps": len(gaps),
            "gaps_at_stalls": int(self._hit(gaps, begun, lasted).sum()),
            "expected_by_chance": round(float(share) * len(gaps), 2),
        }

    @staticmethod
    def _hit(said_ns: Times, begun_ns: Times, lasted_ns: Times) -> NDArray[np.bool_]:
        """bool [n]: whether a stall lies within `CUT_NS` after each time."""
        order = np.argsort(begun_ns)
        ends = np.maximum.accumulate((begun_ns + lasted_ns)[order]) if len(order) else begun_ns
        latest = np.searchsorted(begun_ns[order], said_ns + CUT_NS[1]) - 1
        found = latest >= 0
        hit: NDArray[np.bool_] = np.zeros(len(said_ns), np.bool_)
        hit[found] = ends[latest[found]] >= said_ns[found] + CUT_NS[0]
        return hit


def _first_of_runs(starts_ns: Times) -> Times:
    """Of 20 ms frames in a row the first; a gap that follows within a second belongs to the one before."""
    if not len(starts_ns):
        return starts_ns
    starts_ns = np.sort(starts_ns)
    return starts_ns[np.diff(starts_ns, prepend=np.int64(-(2**62))) > 1_000_000_000]


@contextlib.contextmanager
def witnessed() -> Iterator[Stalls]:
    """Watch every core that we may use while the block runs."""
    stalls = Stalls()
    witnesses = [
        subprocess.Popen(
            [sys.executable, "-m", "loadtests.machine", str(core)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for core in sorted(os.sched_getaffinity(0))
    ]  # fmt: skip
    try:
        yield stalls
    finally:
        told = [witness.communicate(timeout=END_TIMEOUT_S)[0].splitlines() for witness in witnesses]
        refused = [line for lines in told for line in lines if not line[:1].isdigit()]
        found = np.array([line.split() for lines in told for line in lines if line[:1].isdigit()], np.int64)
        found = found.reshape(-1, 2)
        stalls.begun_ns, stalls.lasted_ns = found[:, 0], found[:, 1]
        stalls.refused = refused[0] if refused else ""


def watch(core: int) -> None:
    """Print `BEGUN_NS LASTED_NS` for each stall of a core until standard input ends."""
    try:
        os.sched_setaffinity(0, {core})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError as wrong:
        print(f"no real-time priority: {wrong}", flush=True)
        sys.stdin.read()
        return
    found = []
    since_look = 0
    while since_look < 100 or not select.select([sys.stdin], [], [], 0)[0]:
        since_look = since_look % 100 + 1
        before_ns = time.monotonic_ns()
        time.sleep(NAP_NS / 1e9)
        late_ns = time.monotonic_ns() - before_ns - NAP_NS
        if late_ns >= STALL_NS:
            found.append(f"{before_ns + NAP_NS} {late_ns}")
    print("\n".join(found))


if __name__ == "__main__":
    watch(int(sys.argv[1]))
