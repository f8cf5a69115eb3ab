"""All fast forms together, as the step on a device calls them: a small model's turns against the references."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from model_server.model.config import DIGITS
from model_server.model.device.random_weights import random_flow_head, random_interaction
from model_server.model.device.step import DeviceStep
from model_server.model.flow_head import OUTPUTS
from model_server.model.inputs import TurnInputs
from tests.support.random_turns import random_turns
from turn_kernels.forms import Form

SMALL = replace(
    DIGITS,
    **dict(
        name="small", layers=2, hidden=32, heads=4, head_dim=16, dense_layers=1, dense_width=32, experts=4
    ),
    **dict(expert_width=16, window=17, bias_rank=3, bias_extent=20, global_first=5, global_budget=24),
    **dict(log_floor=12, vision_widths=(8, 8, 8)),
)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def test_turns_by_the_fast_forms_are_those_of_the_references(device: torch.device) -> None:
    torch.set_num_threads(1)
    model = random_interaction(SMALL, 1, torch.float32, device)
    head = random_flow_head(SMALL.hidden, 2, device)
    rng = np.random.default_rng(3)
    rows_of_turns = ([1, 0], [0], [4, 3, 0, 2, 1])  # the last with more rows than `mixture` calls few
    steps = [
        DeviceStep(model, head, 5, buckets=(1, 2, 5), contexts=(0,), form=form)
        for form in (Form.REFERENCE, Form.TRITON)
    ]
    for step in steps:
        step.graphs.enabled = False
        for row in range(5):
            step.open(row)
    for number, rows in enumerate(rows_of_turns):
        turns = random_turns(rng, len(rows))
        noise = torch.randn(4 * len(rows), OUTPUTS, generator=torch.Generator().manual_seed(number))
        wanted, found = (step.turn(rows, TurnInputs.of(turns), noise, 1) for step in steps)
        assert found.tokens == wanted.tokens
        torch.testing.assert_close(found.hidden, wanted.hidden, **CLOSE)
        off: Any = (found.pcm.int() - wanted.pcm.int()).abs().max()
        assert int(off) <= 2
    assert torch.equal(*(step.state.positions for step in steps))
