"""Passes as graphs: called where there is no GPU, replayed where there is one, and right for other rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.model.config import DIGITS  # noqa: E402
from model_server.model.device.graphs import Graphs  # noqa: E402
from model_server.model.device.random_weights import (  # noqa: E402
    random_flow_head,
    random_interaction,
    weight_bytes,
)
from model_server.model.device.step import DeviceStep  # noqa: E402
from model_server.model.flow_head import OUTPUTS, FlowHead  # noqa: E402
from model_server.model.inputs import TurnInputs  # noqa: E402
from model_server.model.interaction import Interaction  # noqa: E402
from tests.support.random_turns import random_turns  # noqa: E402

CPU = torch.device("cpu")
SMALL = replace(
    DIGITS,
    **dict(
        name="small", layers=2, hidden=64, heads=4, head_dim=16, dense_layers=1, dense_width=64, experts=4
    ),
    **dict(expert_width=64, window=32, bias_extent=32, global_first=16, global_budget=64),
    vision_widths=(8, 8, 8),
)


def test_on_a_cpu_a_pass_is_called_every_time_and_nothing_is_captured() -> None:
    graphs, ran = Graphs(CPU), []
    graphs.capture("a", lambda: ran.append("captured"))
    for _ in range(2):
        graphs.run("a", lambda: ran.append("called"))
    assert ran == ["called", "called"] and len(graphs) == 0 and not graphs.enabled


def test_random_weights_are_those_of_the_seed_and_all_of_them_are_there() -> None:
    one, same, other = (random_interaction(SMALL, seed, torch.float32, CPU) for seed in (1, 1, 2))
    plain = Interaction(SMALL)
    plain.initialise(1)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(one.state_dict()[name], tensor), name
        assert torch.equal(same.state_dict()[name], tensor), name
    assert not torch.equal(one.text.weight, other.text.weight)
    halved = random_interaction(SMALL, 1, torch.bfloat16, CPU)
    floats = {name for name, tensor in halved.state_dict().items() if tensor.dtype is torch.float32}
    assert floats == {"trunk.layers.1.mlp.router.balance"}
    head = random_flow_head(64, 1, CPU)
    assert weight_bytes(halved) == sum(p.numel() * 2 for p in plain.parameters()) + 4 * SMALL.experts
    assert weight_bytes(head) == sum(t.numel() * 4 for t in FlowHead(64).state_dict().values())


def turned(step: DeviceStep, rows: list[int], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    turns = random_turns(rng, len(rows))
    noise = torch.randn(4 * len(rows), OUTPUTS, generator=torch.Generator().manual_seed(seed))
    found = step.turn(rows, TurnInputs.of(turns), noise)
    return found.tokens, found.hidden.float().cpu().clone(), found.pcm.clone()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replayed_passes_are_those_that_are_called(dtype: Any) -> None:
    device = torch.device("cuda")
    model, head = random_interaction(SMALL, 3, dtype, device), random_flow_head(64, 4, device)
    steps = [DeviceStep(model, head, 4, buckets=(1, 2, 4), contexts=(0,)) for _ in range(2)]
    replayed, called = steps
    for step in steps:
        for row in range(4):
            step.open(row)
    replayed.capture()
    called.graphs.enabled = False
    assert len(replayed.graphs) == 3 * 3 and len(called.graphs) == 0
    for turn, rows in enumerate([[0], [3, 1, 2], [2, 0], [1, 0, 3, 2]] * 4):
        tokens, hidden, pcm = turned(replayed, rows, turn)
        wanted = turned(called, rows, turn)
        assert tokens == wanted[0]
        assert torch.equal(hidden, wanted[1]) and torch.equal(pcm, wanted[2])
    assert torch.equal(replayed.state.positions, called.state.positions)
