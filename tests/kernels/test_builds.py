"""Every Triton form compiles to machine code of Hopper and of Blackwell, with the instructions that it is for."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.conftest import environment

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="the extra `kernels` is not installed: pip install -e '.[kernels]'",
)

OPS = {path.parent.name for path in Path("kernels/turn_kernels").glob("*/triton_form.py")}
ARCHITECTURES = ("sm_90a", "sm_100a")
SHARED_BYTES = 227 * 1024
"""That a block of either may have."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of every build, compiled in one process, which interprets nothing."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compile_builds.py")), *ARCHITECTURES],
        env=environment(tmp_path_factory.mktemp("builds")),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_forms_compile_without_a_gpu(architecture: str, rows: list[dict[str, Any]]) -> None:
    ours = [row for row in rows if row["architecture"] == architecture]
    assert {row["op"] for row in ours} == OPS, "each form names at least one build"
    for row in ours:
        assert row["cubin_bytes"] > 0, row
        assert row["target"].startswith(architecture), row
        assert row["shared_bytes"] <= SHARED_BYTES, row
        assert not row["missing"], row


def test_the_collective_is_compiled_with_the_switch_s_instructions() -> None:
    source = Path("kernels/turn_kernels/all_reduce_norm/triton_form.py").read_text()
    for instruction in ("multimem.ld_reduce", "multimem.red", "ld.global.sys.acquire"):
        assert source.count(f'"{instruction}') >= 1, f"no build asks for {instruction}"
