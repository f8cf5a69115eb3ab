"""Real-time scheduling of the processes that keep time.

On shared cores priority matters a hundred times more than any mechanism: a worker that waits 20 ms for its
core is a gap in every one of its calls. The kernel gives `SCHED_FIFO` to root and to CAP_SYS_NICE; its
throttling leaves the rest of the machine 5 % of each core whatever happens here.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path

from gateway.descriptors import make_room

FIFO_PRIORITY = 10
NICE = -10
BACK_NICE = 10
"""Of what may wait: a tenth of the share that the others get of a core."""
CAP_SYS_NICE = 23
"""linux/capability.h"""


def ask_for_realtime() -> str:
    """SCHED_FIFO for this process and the threads it will start, or else a lower nice value; says what it got."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
        return f"SCHED_FIFO {FIFO_PRIORITY}"
    except PermissionError:
        pass
    try:
        nice = os.nice(NICE)
        _weigh_session(os.getpid(), nice)
        return f"nice {nice}"
    except PermissionError:
        return "normal: give it CAP_SYS_NICE to keep time on busy cores"


def step_back(pid: int) -> None:
    """That process shall not be in the way of ours, until `come_forward`; left alone where we could not undo it.

    It leads a group of its own: its threads, and the processes that it starts, go back and come forward with it.
    """
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    if _may_take_back(nice):
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PGRP, pid, min(19, nice + BACK_NICE))
            _weigh_session(pid, min(19, nice + BACK_NICE))


def come_forward(pid: int) -> None:
    """It is as important as we are."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PGRP, pid, nice)
        _weigh_session(pid, nice)


def stay_back(nice: int) -> None:
    """So much nicer from now on: what this process does may wait for everybody."""
    _weigh_session(os.getpid(), os.nice(nice))


def _weigh_session(pid: int, nice: int) -> None:
    """The same for the session that it leads: with `kernel.sched_autogroup_enabled`, as Debian has it, nice values
    count among the processes of one session alone (sched(7)), and each process of ours has its own."""
    with contextlib.suppress(OSError):  # the kernel has no such groups, or the process is gone
        if os.getsid(pid) == pid:
            Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def _may_take_back(nice: int) -> bool:
    """Whether the kernel lets us lower a nice value to this one: by RLIMIT_NICE or by CAP_SYS_NICE."""
    if 20 - nice <= resource.getrlimit(resource.RLIMIT_NICE)[0]:
        return True
    effective = re.search(r"^CapEff:\s+([0-9a-f]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return effective is not None and bool(int(effective[1], 16) >> CAP_SYS_NICE & 1)


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
