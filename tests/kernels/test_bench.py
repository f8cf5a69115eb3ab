"""The bench: a table for the CPU when asked for, a refusal where there is no GPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure on")
def test_without_a_gpu_it_says_what_is_missing(kernels_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kernels.bench"],
        env=kernels_environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and not done.stdout
    assert "no CUDA device" in done.stderr and "--cpu" in done.stderr


def test_on_the_cpu_it_measures_the_references(kernels_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "kernels/bench/run.py", "--cpu"],
        env=kernels_environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    last = json.loads(done.stdout.splitlines()[-1])
    assert {row["op"] for row in last["rows"]} == {"overlap_add", "flow_head_step", "mixture"}
    assert all(row["form"] == "reference" and row["us"] > 0 for row in last["rows"])
    assert last["copy_gb_s"] > 0
