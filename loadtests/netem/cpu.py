"""What a worker of the gateway costs while calls are live: read now and then, so that times can be told apart.

Linux only. One rule: only processes that we were pointed at are looked at.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np

EVERY_S: Final = 0.25


class CpuWatch:
    """A context manager; `cpu_s` is for afterwards."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._times_ns: list[int] = []
        self._spent_ns: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu-watch")

    def __enter__(self) -> CpuWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def cpu_s(self, from_ns: int, until_ns: int) -> float | None:
        """Between two monotonic times; None when not all of it was seen."""
        if len(self._times_ns) < 2 or from_ns < self._times_ns[0] or until_ns > self._times_ns[-1]:
            return None
        first, last = np.interp([from_ns, until_ns], self._times_ns, self._spent_ns)
        return float(last - first) / 1e9

    def _run(self) -> None:
        while True:
            self._times_ns.append(time.monotonic_ns())
            self._spent_ns.append(sum(map(spent_ns, self._pids)))
            if self._over.wait(EVERY_S):
                return


def spent_ns(pid: int) -> int:
    """CPU of all living threads of a process, from the scheduler; 0 when it is gone."""
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(task.read_text().split()[0])
        except (OSError, IndexError):
            continue
    return total
