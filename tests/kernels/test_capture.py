"""What a capture asks of a pass, without a GPU: sizes of small-30b-a3b, on a device that has no memory and no
answers. A pass that asked it for a number, or whose shapes hung on one, would fail here."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model_server.model.config import config_of
from model_server.model.device.step import DeviceStep
from model_server.model.flow_head import FlowHead
from model_server.model.interaction import Interaction
from model_server.model.router import Router

KERNELS = {
    "append_attend.triton_form": ("append_kernel", "attend_kernel"),
    "flow_head_step.triton_form": ("flow_head_step_kernel",),
    "mixture.triton_form": ("route_kernel", "gate_up_kernel", "down_kernel"),
    "mixture.grouped.triton_form": ("gate_up_grouped_kernel", "down_grouped_kernel"),
    "overlap_add.triton_form": ("overlap_add_kernel",),
}
META = torch.device("meta")


class Launches:
    """In place of a kernel: counts, and computes nothing."""

    def __init__(self, name: str, counts: dict[str, int]) -> None:
        self._name, self._counts = name, counts

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert all(isinstance(size, int) and size > 0 for size in grid), (self._name, grid)

        def launch(*arguments: Any, **constants: Any) -> None:
            tensors = [each for each in arguments if isinstance(each, torch.Tensor)]
            assert all(each.device == META for each in tensors), self._name
            self._counts[self._name] = self._counts.get(self._name, 0) + 1

        return launch


class OnTheDevice(TorchDispatchMode):
    """Every operation of a pass takes and gives tensors of the device, but for a number on the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [each for each in (*args, out) if isinstance(each, torch.Tensor)]
        assert all(each.device == META or each.ndim == 0 for each in given), f"{func} leaves the device"
        assert func is not torch.ops.aten._local_scalar_dense.default, "it asks the device for a number"
        return out


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> Iterator[dict[str, int]]:
    """`device`: skips where triton is not installed."""
    counts: dict[str, int] = {}
    for form, names in KERNELS.items():
        module = importlib.import_module(f"turn_kernels.{form}")
        for name in names:
            monkeypatch.setattr(module, name, Launches(name, counts))
    with torch.inference_mode():
        yield counts


def test_a_pass_of_the_30b_model_asks_nothing_of_the_device(launches: dict[str, int]) -> None:
    config = replace(config_of("small-30b-a3b"), layers=6)  # one of them global; all of its widths
    with META:
        model, head = Interaction(config).to(torch.bfloat16), FlowHead(config.hidden)
    for module in model.modules():
        if isinstance(module, Router):
            module.scale = torch.nn.Parameter(torch.ones(1))
            module.balance = torch.zeros(config.experts, device=META)
    step = DeviceStep(model, head, 96, buckets=(1, 2, 64), contexts=(0, 56), flow_steps=4)
    layers, experts = config.layers, config.layers - config.dense_layers
    for run, wanted in (
        (lambda: step._prefill(64, 56), {"append_kernel": layers, "gate_up_grouped_kernel": experts}),
        (lambda: step._prefill(1, 0), {"attend_kernel": layers, "gate_up_kernel": experts}),
        (lambda: step._token(2), {"attend_kernel": layers, "route_kernel": experts, "down_kernel": experts}),
        (lambda: step._speak(64), {"flow_head_step_kernel": 4, "overlap_add_kernel": 1}),
    ):
        launches.clear()
        with OnTheDevice():
            run()
        assert wanted.items() <= launches.items(), launches
