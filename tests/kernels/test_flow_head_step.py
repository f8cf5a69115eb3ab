"""The flow head's step, against the model's own head and against the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from model_server.model.flow_head import FlowHead, _waves
from turn_kernels.flow_head_step import FlowWeights, flow_head_step, weights_of
from turn_kernels.forms import Form

# Sums of 328 products of size about 1, in another order: 328 ** 0.5 * 2 ** -24, and some for 14 products in a row.
FLOAT32 = {"rtol": 1e-4, "atol": 2e-5}
BFLOAT16 = {"rtol": 2e-2, "atol": 2e-2}  # an operand on the edge rounds the other way: 2 ** -8, 14 times


def made(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def head_of(hidden: int, width: int, blocks: int) -> FlowHead:
    """Random, the layers that begin as zeros included."""
    head = FlowHead(hidden, width, blocks)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in head.parameters():
            scale = parameter.shape[-1] ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return head


def narrow(width: int, features: int, blocks: int, dtype: torch.dtype) -> FlowWeights:
    shapes = {
        "noisy": (width, features),
        "modulations": (blocks, 3 * width, width),
        "ups": (blocks, width, width),
        "downs": (blocks, width, width),
        "last": (2 * width, width),
        "clean": (features, width),
    }
    biases = {"noisy": "noisy_bias", "modulations": "modulation_biases", "ups": "up_biases"}
    biases |= {"downs": "down_biases", "last": "last_bias", "clean": "clean_bias"}
    made_of = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        made_of[name] = (made(*shape, seed=seed) * shape[-1] ** -0.5).to(dtype)
        made_of[biases[name]] = made(*shape[:-1], seed=50 + seed) * 0.1
    return FlowWeights(**made_of)


def test_the_reference_is_the_model_s_head() -> None:
    head = head_of(hidden=24, width=16, blocks=2)
    condition, noise = made(5, 24, seed=1), made(5, 328, seed=2)
    steps, x = 3, noise
    weights = weights_of(head.state_dict())
    with torch.inference_mode():
        rows = head.condition(condition)
        for step in range(steps):
            time = head.time(_waves(torch.tensor([step / steps])))[0]
            x = flow_head_step(x, rows, time, weights, steps - step)
    expected = head.sample(condition, noise, steps)
    torch.testing.assert_close(x.unflatten(1, (4, 82)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "width", "features", "blocks"),
    [(1, 144, 328, 3), (17, 37, 41, 1), (16, 16, 16, 2), (7, 67, 131, 2)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fast_form_is_the_reference(
    rows: int,
    width: int,
    features: int,
    blocks: int,
    dtype: torch.dtype,
    device: torch.device,
    poisoned: Callable[..., Tensor],
) -> None:
    weights = narrow(width, features, blocks, dtype)
    x, condition, time = made(rows, features, seed=11), made(rows, width, seed=12), made(width, seed=13)
    expected = flow_head_step(x, condition, time, weights, 3, Form.REFERENCE)
    placed = replace(
        weights, **{field.name: poisoned(getattr(weights, field.name)) for field in fields(weights)}
    )
    found = flow_head_step(poisoned(x), poisoned(condition), poisoned(time), placed, 3, Form.TRITON)
    tolerance = FLOAT32 if dtype is torch.float32 else BFLOAT16
    torch.testing.assert_close(found.cpu(), expected, **tolerance)


def test_a_row_does_not_depend_on_the_others(device: torch.device) -> None:
    weights = narrow(19, 23, 1, torch.float32)
    x, condition, time = made(18, 23, seed=1), made(18, 19, seed=2), made(19, seed=3)
    together = flow_head_step(x, condition, time, weights, 2, Form.TRITON)
    x[:17] = float("nan")
    alone = flow_head_step(x, condition, time, weights, 2, Form.TRITON)
    assert torch.equal(together[17], alone[17]) and bool(alone[:17].isnan().all())


def test_no_rows_give_no_rows(device: torch.device) -> None:
    weights = narrow(16, 16, 1, torch.float32)
    out = flow_head_step(made(0, 16, seed=1), made(0, 16, seed=1), made(16, seed=1), weights, 1, Form.TRITON)
    assert out.shape == (0, 16)


def test_what_does_not_fit_is_refused() -> None:
    weights = narrow(16, 24, 1, torch.float32)
    x, condition, time = made(2, 24, seed=1), made(2, 16, seed=1), made(16, seed=1)
    with pytest.raises(ValueError, match="x is"):
        flow_head_step(x.bfloat16(), condition, time, weights, 1)
    with pytest.raises(ValueError, match="condition is"):
        flow_head_step(x, condition[:1], time, weights, 1)
    with pytest.raises(ValueError, match="remaining = 0"):
        flow_head_step(x, condition, time, weights, 0)
    wide = narrow(300, 24, 1, torch.float32)
    with pytest.raises(ValueError, match="holds 256"):
        flow_head_step(x, made(2, 300, seed=1), made(300, seed=1), wide, 1, Form.TRITON)
