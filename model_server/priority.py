"""Who goes first on the machine's cores: this process before others, or for a while after them."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator

import structlog

FIFO_PRIORITY = 10
"""Above every ordinary process, below the kernel's own threads."""
NICE = -10
BACK_NICE = 10
"""A tenth of the share that others get of a core."""

log = structlog.get_logger()


def ask_for_priority() -> None:
    """SCHED_FIFO, or else nice -10; what came of it is logged, and neither is needed to serve."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
        log.info("real-time priority", policy="SCHED_FIFO", priority=FIFO_PRIORITY)
        return
    except OSError as refused:
        fifo = str(refused)
    try:
        log.info("real-time priority", policy="nice", nice=os.nice(NICE), fifo=fifo)
    except OSError as refused:
        log.warning("no real-time priority", fifo=fifo, nice=str(refused), hint="grant CAP_SYS_NICE")


def make_way() -> None:
    """This process ends: what is left to do is in nobody's interest."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.nice(BACK_NICE)


@contextlib.contextmanager
def stepping_back(does: bool = True) -> Iterator[None]:
    """This thread lets others go first until the block is left, where the kernel lets us undo it."""
    if not does or not may_come_back():
        yield
        return
    thread = threading.get_native_id()
    policy, parameters = os.sched_getscheduler(thread), os.sched_getparam(thread)
    nice = os.getpriority(os.PRIO_PROCESS, thread)
    os.setpriority(os.PRIO_PROCESS, thread, min(19, nice + BACK_NICE))
    if policy != os.SCHED_OTHER:
        os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
    try:
        yield
    finally:
        if policy != os.SCHED_OTHER:
            os.sched_setscheduler(thread, policy, parameters)
        os.setpriority(os.PRIO_PROCESS, thread, nice)


@functools.cache
def may_come_back() -> bool:
    """Whether a nice value may be lowered again (CAP_SYS_NICE, RLIMIT_NICE): tried in a thread that ends."""
    found: list[bool] = []

    def try_it() -> None:
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(19, nice + 1))
        try:
            os.setpriority(os.PRIO_PROCESS, thread, nice)
        except OSError:
            found.append(False)
        else:
            found.append(True)

    trying = threading.Thread(target=try_it, name="nice")
    trying.start()
    trying.join()
    return found == [True]
