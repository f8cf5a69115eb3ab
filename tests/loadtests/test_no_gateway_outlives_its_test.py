"""A load test that is ended, in whatever way, takes the gateway that it started with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtests.processes import PROC, family, sample

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
LOAD_TEST = ["-m", "loadtests", "sip", "--calls", "1", "--seconds", "60"]
STORY = [
    "-c",
    "import time; from loadtests.gateway_under_test import GatewayUnderTest, GatewayWish\n"
    "with GatewayUnderTest.start(GatewayWish(calls=2)): time.sleep(60)",
]
PARTS = ("gateway", "model-server", "sip-worker")
UP_S, GONE_S = 40.0, 20.0


@pytest.mark.parametrize(
    ("command", "how"),
    [(LOAD_TEST, signal.SIGTERM), (LOAD_TEST, signal.SIGKILL), (STORY, signal.SIGTERM)],
    ids=["sip-SIGTERM", "sip-SIGKILL", "story-SIGTERM"],
)
@pytest.mark.long
def test_no_process_is_left(command: list[str], how: signal.Signals) -> None:
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:  # short: sockets are in it
        parent = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=_environment(folder), stdout=subprocess.DEVNULL
        )
        try:
            _until(lambda: _parts(parent.pid) >= set(PARTS), UP_S)
            ours = family(parent.pid)
            parent.send_signal(how)
            parent.wait(GONE_S)
            _until(lambda: not [pid for pid in ours if (PROC / str(pid)).exists()], GONE_S)
        finally:
            parent.kill()
            parent.wait()


def _environment(folder: str) -> dict[str, str]:
    return {**os.environ, "TMPDIR": folder}


def _parts(pid: int) -> set[str]:
    return {each.kind for each in sample(pid)}


def _until(holds: Callable[[], bool], seconds: float) -> None:
    until_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.05)
