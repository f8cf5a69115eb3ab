"""Room in the table of file descriptors is there before sockets are opened."""

from __future__ import annotations

import resource
import subprocess
import sys

_GROWS = """
import os
from pathlib import Path
from gateway.descriptors import make_room

def size() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("FDSize"))

opened = len(os.listdir("/proc/self/fd"))
before, room = size(), make_room()
print(before, room, size(), len(os.listdir("/proc/self/fd")) - opened)
"""


def _grown(limit: int) -> tuple[int, int, int, int]:
    """FDSize of a fresh process before, what it was told, FDSize after, and descriptors left open."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-c", _GROWS], preexec_fn=limited, capture_output=True, text=True, check=True
    )
    before, room, after, left = map(int, done.stdout.split())
    return before, room, after, left


def test_the_table_has_room_for_many_descriptors_and_none_stays_open() -> None:
    before, room, after, left = _grown(8192)
    assert before < 4096 == room <= after
    assert left == 0


def test_a_process_that_may_have_few_takes_what_it_may() -> None:
    _, room, after, left = _grown(512)
    assert room == 512 <= after
    assert left == 0
