"""What the model server tells of GPUs: nothing where it computes on none, else the figures of the table."""

from __future__ import annotations

import re
import sys

import pytest

from gateway import catalogue
from gateway.metrics import Metrics
from model_server import gpu


def test_without_a_gpu_nothing_is_told_and_torch_is_not_loaded_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert gpu.figures() == {} and "torch" not in sys.modules


class Cards:
    """In torch's place where there is no GPU: one card that answers, and one that is lost."""

    def __init__(self, *, used: bool) -> None:
        self.cuda = self
        self._used = used

    def is_initialized(self) -> bool:
        return self._used

    def device_count(self) -> int:
        return 2

    def mem_get_info(self, number: int) -> tuple[int, int]:
        if number == 1:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return 30 << 30, 80 << 30

    def memory_reserved(self, number: int) -> int:
        return 40 << 30


def test_a_gpu_that_nobody_computes_on_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", Cards(used=False))  # type: ignore[arg-type]
    assert gpu.figures() == {}


def test_a_lost_gpu_is_told_beside_those_that_answer_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", Cards(used=True))  # type: ignore[arg-type]
    told = gpu.figures()
    assert told == {
        "gpu_up:0": 1, "gpu_memory_used_bytes:0": 50 << 30, "gpu_memory_total_bytes:0": 80 << 30,
        "gpu_memory_reserved_bytes:0": 40 << 30, "gpu_up:1": 0,
    }  # fmt: skip
    shown = {f"model.{name.partition(':')[0]}" for name in told}
    assert shown == {source for family in catalogue.families("gpu") for source in family.sources}
    metrics = Metrics()
    metrics.model = {"counters": {}, "gauges": told, "histograms": {}}
    text = metrics.text().decode()
    assert 'microturn_model_gpu_up{gpu="0"} 1.0' in text and 'microturn_model_gpu_up{gpu="1"} 0.0' in text
    [used] = re.findall(r'^microturn_model_gpu_memory_used_bytes\{gpu="(\d)"\} (\S+)$', text, re.M)
    assert used[0] == "0" and float(used[1]) == 50 << 30, "of the lost one nothing is known"


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
