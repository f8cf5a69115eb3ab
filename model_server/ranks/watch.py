"""Who is gone, who is stuck. There is no half a model: then every rank ends, and says why.

a rank that ends     rank 0 sees it at once (its process descriptor), and ends; the kernel ends the others with it
rank 0 that ends     the kernel ends the others
a rank that is stuck has been given a step, and gives no sign of life for too long: rank 0 ends
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping

import structlog

from media.timebase import NS_PER_S
from model_server.engine import LOST_STATUS
from model_server.ranks.memory import RankMemory

SILENCE_NS = 3 * NS_PER_S
"""For a step: thirty times the longest step that calls bear; the machine may hold a process up for a while."""
LOOK_EVERY_MS = 200
_PR_SET_PDEATHSIG = 1

log = structlog.get_logger()


class RankLost(RuntimeError):
    """Another rank is gone, or does not answer."""


def end_process(reason: str) -> None:
    """From any thread, at once: the main one may wait for what never comes."""
    log.error("a rank is lost: this process ends, and all ranks with it", reason=reason)
    os._exit(LOST_STATUS)


def end_with_parent(parent: int) -> None:
    """Be killed by the kernel when the thread that started us ends; `RankLost` when it already has."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise RankLost("rank 0 ended while this rank started")


def silent(memory: RankMemory, now_ns: int, given_ns: int) -> int | None:
    """The rank without a sign of life for the longest, where it is too long and it has not done what it was given.

    `given_ns`: when it was given. The others may only wait for it.
    """
    late = [rank for rank in range(memory.ranks) if memory.done(rank) < memory.given]
    stuck = min(late, key=memory.alive_ns, default=None)
    if stuck is not None and now_ns - max(memory.alive_ns(stuck), given_ns) > memory.patience_ns:
        return stuck
    return None


class Watch:
    """Rank 0's thread: it sleeps until a rank ends, and looks now and then whether one is stuck."""

    def __init__(
        self,
        memory: RankMemory,
        ranks: Mapping[int, subprocess.Popen[bytes]],
        on_lost: Callable[[str], None] = end_process,
    ) -> None:
        """`ranks` by number; `on_lost` is called once, in the thread, with the reason."""
        self._memory, self._ranks, self._on_lost = memory, ranks, on_lost
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._look, name="ranks-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """They are about to end, and nobody is to mind."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)

    def _look(self) -> None:
        descriptors = {os.pidfd_open(process.pid): rank for rank, process in self._ranks.items()}
        try:
            if reason := self._wait(descriptors):
                self._on_lost(reason)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _wait(self, descriptors: Mapping[int, int]) -> str:
        """Until there is a reason to end; empty when told to stop."""
        poll = select.poll()
        for descriptor in (self._stop, *descriptors):
            poll.register(descriptor, select.POLLIN)
        seen, since_ns = self._memory.given, time.monotonic_ns()
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(LOOK_EVERY_MS)}
            if self._stop in ready:
                return ""
            if ready:
                rank = descriptors[min(ready)]
                return f"rank {rank} (process {self._ranks[rank].pid}) ended: {_ending(self._ranks[rank])}"
            now_ns = time.monotonic_ns()
            if self._memory.given != seen:
                seen, since_ns = self._memory.given, now_ns
            stuck = silent(self._memory, now_ns, since_ns)
            if stuck is not None:
                patience_s = self._memory.patience_ns / NS_PER_S
                return f"rank {stuck} has done nothing for {patience_s:.0f} s in the middle of a step"


def _ending(process: subprocess.Popen[bytes]) -> str:
    status = process.wait()
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
