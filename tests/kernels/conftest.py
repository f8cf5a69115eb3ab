"""Kernels run compiled where there is a GPU, and interpreted on the CPU elsewhere: the same tests.

triton decides when it is imported, so it is imported here, before anything else can do it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed: pip install -e '.[torch]'")

ROOT = Path(__file__).parents[2]
HAS_TRITON = importlib.util.find_spec("triton") is not None
HAS_GPU = torch.cuda.is_available()

if HAS_TRITON and not HAS_GPU and "triton" not in sys.modules:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        importlib.import_module("triton")
        importlib.import_module("triton.language")


@pytest.fixture
def device() -> torch.device:
    """Where kernels run; skips where triton is not installed."""
    if not HAS_TRITON:
        pytest.skip("the extra `kernels` is not installed: pip install -e '.[kernels]'")
    return torch.device("cuda" if HAS_GPU else "cpu")


@pytest.fixture(autouse=True)
def interpret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kernels are made when their module is imported: within a test, or a module-level import of it."""
    if not HAS_GPU:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


@pytest.fixture
def poisoned(device: torch.device) -> Callable[..., torch.Tensor]:
    """Puts a tensor into the middle of memory that is NaN (or 0x7F), on both sides."""

    def place(tensor: torch.Tensor) -> torch.Tensor:
        margin = 256
        poison = float("nan") if tensor.is_floating_point() else 0x7F
        memory = torch.full((tensor.numel() + 2 * margin,), poison, dtype=tensor.dtype, device=device)
        inside = memory[margin : margin + tensor.numel()].view(tensor.shape)
        inside.copy_(tensor)
        return inside

    return place


@pytest.fixture
def kernels_environment(tmp_path: Path) -> dict[str, str]:
    """For processes that import the kernels anew: nothing interpreted, nothing kept."""
    return environment(tmp_path)


def environment(folder: Path) -> dict[str, str]:
    """The same, with what triton keeps in `folder`."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return {
        **kept,
        "PYTHONPATH": f"{ROOT / 'kernels'}{os.pathsep}{ROOT}",
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "OMP_NUM_THREADS": "1",
    }
