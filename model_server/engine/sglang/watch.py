"""Whether SGLang's processes live: the kernel tells the moment one ends, however it ends, calls or none.

SGLang's own watch looks once a second and takes exit status 0 for no death.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterable


class Watch:
    """A thread that sleeps until one of some child processes ends."""

    def __init__(self, pids: Iterable[int], on_end: Callable[[str], None]) -> None:
        """`on_end` is called once, in the thread, with the reason; not for a process that has ended before."""
        self._processes = {os.pidfd_open(pid): pid for pid in pids}
        self._on_end = on_end
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._look, name="sglang-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """They are about to end, and nobody is to mind."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        for descriptor in (self._stop, *self._processes):
            os.close(descriptor)

    def _look(self) -> None:
        poll = select.poll()
        for descriptor in (self._stop, *self._processes):
            poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll()}
        if self._stop not in ready:
            descriptor = min(ready)
            self._on_end(f"{self._processes[descriptor]} {_ending(descriptor)}")


def _ending(descriptor: int) -> str:
    """How it ended; whoever started it may still ask, too."""
    found = os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOWAIT)
    if found is None or found.si_code == os.CLD_EXITED:
        return f"ended with exit status {found.si_status if found else 'unknown'}"
    return f"was killed by {signal.Signals(found.si_status).name}"
