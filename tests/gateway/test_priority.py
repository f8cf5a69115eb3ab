"""Who steps back does so as a whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway import priority

LEADER = """
import subprocess, sys, threading
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
threading.Thread(target=child.wait).start()
print(child.pid, flush=True)
"""


def session_nice(pid: int) -> int | None:
    """What its session weighs against others; None where the kernel does not group by session."""
    try:
        told = Path(f"/proc/{pid}/autogroup").read_text()
    except OSError:
        return None
    return int(told.rpartition(" ")[2]) if told else None


def test_its_threads_and_the_processes_that_it_started_step_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priority, "_may_take_back", lambda nice: True)
    leader = subprocess.Popen(
        [sys.executable, "-c", LEADER], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert leader.stdout is not None
        rank = int(leader.stdout.readline())
        priority.step_back(leader.pid)
        expected = min(19, os.getpriority(os.PRIO_PROCESS, 0) + priority.BACK_NICE)
        until_s = time.monotonic() + 5.0
        while len(threads := os.listdir(Path(f"/proc/{leader.pid}/task"))) < 2:
            assert time.monotonic() < until_s
            time.sleep(0.01)
        assert {os.getpriority(os.PRIO_PROCESS, int(pid)) for pid in (*threads, rank)} == {expected}
        assert session_nice(leader.pid) in (expected, None)
        priority.come_forward(leader.pid)
        assert session_nice(leader.pid) in (os.getpriority(os.PRIO_PROCESS, 0), None)
    finally:
        os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()
        if leader.stdout is not None:
            leader.stdout.close()
