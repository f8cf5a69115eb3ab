"""Real-time scheduling of the processes that keep time.

On shared cores priority matters a hundred times more than any mechanism: a worker that waits 20 ms for its
core is a gap in every one of its calls. The kernel gives `SCHED_FIFO` to root and to CAP_SYS_NICE; its
throttling leaves the rest of the machine 5 % of each core whatever happens here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from gateway.descriptors import make_room

FIFO_PRIORITY = 10
NICE = -10


def ask_for_realtime() -> str:
    """SCHED_FIFO for this process and the threads it will start, or else a lower nice value; says what it got."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
        return f"SCHED_FIFO {FIFO_PRIORITY}"
    except PermissionError:
        pass
    try:
        return f"nice {os.nice(NICE)}"
    except PermissionError:
        return "normal: give it CAP_SYS_NICE to keep time on busy cores"


@contextlib.contextmanager
def keeping_time() -> Iterator[None]:
    """Real-time scheduling for the length of a measurement, and room for its sockets: a generator that is late
    measures itself."""
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    ask_for_realtime()
    make_room()
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, parameters)
