"""Room in a process's table of file descriptors, made before it is needed.

The kernel doubles the table whenever a descriptor finds no place in it (64, 128, 256 ...). In a process of several
threads it then waits until no core can be reading the old one, 15 to 25 ms in which the thread that opened the
socket stands still (`expand_fdtable` in Linux's fs/file.c, `synchronize_rcu`): the turns of all its calls are late.
The table never shrinks, so once is enough.
"""

from __future__ import annotations

import fcntl
import os
import resource

ROOM = 4096
"""Descriptors: RTP and RTCP of a thousand calls, and whatever else a process opens. 8 octets each."""


def make_room() -> int:
    """Room for so many descriptors as are given back: `ROOM`, or what the process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = ROOM if soft == resource.RLIM_INFINITY else min(ROOM, soft)
    anything = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.close(fcntl.fcntl(anything, fcntl.F_DUPFD_CLOEXEC, room - 1))
    finally:
        os.close(anything)
    return room
