"""The bench: a table for the CPU when asked for, a refusal where there is no GPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

OPS = {"overlap_add", "flow_head_step", "mixture", "dmel", "append_attend", "all_reduce", "all_gather"}


@pytest.mark.processes
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure on")
def test_without_a_gpu_it_refuses_the_fast_forms_and_measures_the_rest(
    kernels_environment: dict[str, str],
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kernels.bench"],
        env=kernels_environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "no CUDA device: the fast forms are not measured" in done.stderr and "--cpu" in done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert {row["op"] for row in last["rows"]} == OPS and last["missing"] in done.stderr
    assert {row["form"] for row in last["rows"]} == {"reference", "shared_memory", "gloo"}
    assert all(row["us"] > 0 and row["gb_s"] > 0 for row in last["rows"])
    assert last["copy_gb_s"] > 0
    summed = [row for row in last["rows"] if row["op"] == "all_reduce"]
    assert all(row["torch_us"] > 0 and row["shape"].startswith("W=2 ") for row in summed)
