"""What the model server tells of GPUs: nothing where it computes on none, else the figures of the table."""

from __future__ import annotations

import sys

import pytest

from gateway import catalogue
from model_server import gpu


def test_without_a_gpu_nothing_is_told_and_torch_is_not_loaded_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert gpu.figures() == {} and "torch" not in sys.modules


@pytest.mark.gpu
def test_a_gpu_in_use_shows_its_memory() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    held = torch.zeros(1 << 28, dtype=torch.uint8, device="cuda")
    told = gpu.figures()
    shown = {source for family in catalogue.families("gpu") for source in family.sources}
    assert {f"model.{name.partition(':')[0]}" for name in told} == shown
    assert told["gpu_memory_total_bytes:0"] > told["gpu_memory_used_bytes:0"] >= held.numel()
    assert told["gpu_memory_reserved_bytes:0"] >= held.numel()
