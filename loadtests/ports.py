"""Ports of loopback for programs that must be told theirs before they start.

A port that the system picks (port 0) and that is let go again can be taken by the next outgoing connection before
its program starts. These lie below what the system picks from, and below the gateway's RTP.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from pathlib import Path

FIRST, END = 10_000, 20_000
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")

_tried = itertools.count(os.getpid() * 37)
"""Goes round; processes that look at the same time begin at different places."""


def free_port(room: int = 1) -> int:
    """The first of `room` ports of 127.0.0.1 that are free for UDP and TCP; never the same twice in a process until
    all have been given."""
    end = min(END, _first_ephemeral())
    if end - FIRST < room:
        raise OSError(f"{EPHEMERAL} begins at {end}: nothing is left for programs between {FIRST} and that")
    for _ in range(end - FIRST):
        port = FIRST + next(_tried) % (end - FIRST)
        for _ in range(room - 1):
            next(_tried)
        if port + room <= end and all(_is_free(one) for one in range(port, port + room)):
            return port
    raise OSError(
        f"no {room} ports in a row between {FIRST} and {end} are free for both UDP and TCP on 127.0.0.1"
    )


def _first_ephemeral() -> int:
    try:
        return int(EPHEMERAL.read_text().split()[0])
    except OSError:
        return END


def _is_free(port: int) -> bool:
    with contextlib.ExitStack() as stack:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            probe = stack.enter_context(socket.socket(socket.AF_INET, kind))
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
