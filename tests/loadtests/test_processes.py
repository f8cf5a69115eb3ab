"""Processes found by their family, told apart by their titles, and what they used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.processes import ProcessSample, family, grown_mb, kind_of, sample, usage_by_kind


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("microturn: gateway", "gateway"),
        ("microturn: sip-worker 3 ", "sip-worker"),
        ("microturn: model-server", "model-server"),
        ("/usr/bin/python -m gateway up", "other"),
        ("", "other"),
    ],
)
def test_kinds(title: str, kind: str) -> None:
    assert kind_of(title) == kind


def fake_process(proc: Path, pid: int, parent: int, title: str, ticks: int, pss_kb: int) -> None:
    entry = proc / str(pid)
    entry.mkdir(parents=True)
    (entry / "stat").write_text(f"{pid} (a) b) S {parent} 1 1 0 -1 0 0 0 0 0 {ticks} {ticks} 0 0")
    (entry / "cmdline").write_bytes(title.encode() + b"\0")
    (entry / "smaps_rollup").write_text(
        f"x\nRss: 9 kB\nPss:   {pss_kb} kB\nPrivate_Clean: 256 kB\nPrivate_Dirty:  {pss_kb // 2} kB\n"
    )


def test_a_family_is_read_with_its_grandchildren_and_nobody_else(tmp_path: Path) -> None:
    fake_process(tmp_path, 10, 1, "microturn: up", 100, 1024)
    fake_process(tmp_path, 11, 10, "microturn: gateway", 200, 2048)
    fake_process(tmp_path, 12, 11, "microturn: sip-worker 0", 300, 4096)
    fake_process(tmp_path, 13, 1, "microturn: gateway", 400, 8192)
    (tmp_path / "11" / "smaps_rollup").unlink()
    (tmp_path / "11" / "status").write_text("VmRSS:\t 3072 kB\n")
    assert family(10, tmp_path) == [10, 11, 12]
    tick = 2 / os.sysconf("SC_CLK_TCK")
    assert sample(10, tmp_path) == [
        ProcessSample(10, "up", 100 * tick, 1.0, 0.75),
        ProcessSample(11, "gateway", 200 * tick, 3.0, 3.0),
        ProcessSample(12, "sip-worker", 300 * tick, 4.0, 2.25),
    ]
    assert sample(99, tmp_path) == []


def test_usage_is_the_difference_by_kind() -> None:
    before = [ProcessSample(1, "sip-worker", 1.0, 10), ProcessSample(2, "model-server", 5.0, 50)]
    after = [
        ProcessSample(1, "sip-worker", 1.5, 11),
        ProcessSample(2, "model-server", 6.0, 50),
        ProcessSample(3, "sip-worker", 0.25, 4),
    ]
    usage = usage_by_kind(before, after)
    assert (usage["sip-worker"].cpu_s, usage["sip-worker"].pss_growth_mb) == (0.75, 5.0)
    assert usage["sip-worker"].processes == 2
    assert usage["model-server"].cpu_s == 1.0


def test_a_real_child_is_seen_at_work() -> None:
    """A child that says when it has used 0.2 s of CPU."""
    program = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()
        (seen,) = sample(child.pid)
        child.stdin.close()
    assert seen.cpu_s >= 0.15
    assert seen.pss_mb > 0.5 and 0.5 < seen.own_mb <= seen.pss_mb


def test_a_spare_that_came_meanwhile_is_no_memory_of_calls() -> None:
    before = [ProcessSample(1, "sip-worker", 1.0, 10)]
    after = [ProcessSample(1, "sip-worker", 1.5, 12), ProcessSample(2, "spare", 0.5, 40)]
    assert grown_mb(before, after) == 2.0
