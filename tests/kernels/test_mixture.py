"""Routing and experts, for few rows and for more, against the model's own layer and against the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model_server.model.config import DIGITS
from model_server.model.mlp import Experts
from turn_kernels.forms import Form
from turn_kernels.mixture import FEW_ROWS, MixtureWeights, mixture, route

FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}
BFLOAT16 = {"rtol": 2**-7, "atol": 2**-8}  # the result rounded once, inner values of size 1 once


def made(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights_of(
    hidden: int, width: int, experts: int, chosen: int, shared: int, dtype: torch.dtype = torch.float32
) -> MixtureWeights:
    return MixtureWeights(
        router=made(experts + shared, hidden, seed=1).mul(hidden**-0.5).to(dtype),
        balance=made(experts, seed=2) * 0.1,
        gate_up=made(experts, 2 * width, hidden, seed=3).mul(hidden**-0.5).to(dtype),
        down=made(experts, hidden, width, seed=4).mul(width**-0.5).to(dtype),
        shared_gate_up=made(shared, 2 * width, hidden, seed=5).mul(hidden**-0.5).to(dtype),
        shared_down=made(shared, hidden, width, seed=6).mul(width**-0.5).to(dtype),
        chosen=chosen,
        scale=1.5,
    )


GROUPED_SHAPES = [(33, 37, 19, 5, 5, 2), (40, 70, 20, 9, 2, 1), (97, 17, 5, 1, 1, 1)]
"""More rows than the fast form takes one by one: experts of one block, of several, and of none."""
SHAPES = [(1, 192, 192, 8, 2, 1), (3, 37, 19, 5, 5, 2), (5, 7, 3, 1, 1, 1), (2, 261, 5, 7, 3, 2)]
"""Rows, hidden, width, experts, chosen, shared."""


def test_the_reference_is_the_model_s_layer() -> None:
    layer = Experts(DIGITS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.07)
        layer.router.balance.copy_(torch.randn(DIGITS.experts, generator=generator) * 0.1)
        x = torch.randn(9, DIGITS.hidden, generator=generator)
        weights = MixtureWeights(
            layer.router.weight.detach(),
            layer.router.balance,
            *(each.detach() for each in (layer.gate_up, layer.down, layer.shared_gate_up, layer.shared_down)),
            chosen=DIGITS.experts_chosen,
            scale=float(DIGITS.route_scale * layer.router.scale),
        )
        torch.testing.assert_close(mixture(x, weights), layer(x[None])[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sizes", SHAPES)
def test_routes_are_the_reference_s(sizes: tuple[int, ...], device: torch.device) -> None:
    weights, x = weights_of(*sizes[1:]), made(sizes[0], sizes[1], seed=9)
    expected, found = route(x, weights, Form.REFERENCE), route(x, weights, Form.TRITON)
    assert torch.equal(expected.experts_NK.sort(1).values, found.experts_NK.sort(1).values)
    order, order_found = expected.experts_NK.argsort(1), found.experts_NK.argsort(1)
    chosen = weights.chosen
    torch.testing.assert_close(
        found.weights_NJ[:, :chosen].gather(1, order_found),
        expected.weights_NJ[:, :chosen].gather(1, order),
        rtol=1e-5,
        atol=1e-7,
    )
    torch.testing.assert_close(found.weights_NJ[:, chosen:], expected.weights_NJ[:, chosen:])
    torch.testing.assert_close(found.weights_NJ.sum(1), torch.full((sizes[0],), weights.scale))


@pytest.mark.parametrize("sizes", [*SHAPES, *GROUPED_SHAPES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fast_form_is_the_reference(
    sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device, poisoned: Callable[..., Tensor]
) -> None:
    weights = weights_of(*sizes[1:], dtype)
    x = made(sizes[0], sizes[1], seed=9).to(dtype)
    expected = mixture(x, weights, Form.REFERENCE)
    placed = {
        name: poisoned(value)
        for name in weights.__slots__
        if isinstance(value := getattr(weights, name), Tensor)
    }
    found = mixture(poisoned(x), replace(weights, **placed), Form.TRITON)
    torch.testing.assert_close(found.cpu(), expected, **(FLOAT32 if dtype is torch.float32 else BFLOAT16))


def test_experts_without_rows_are_not_read(device: torch.device) -> None:
    weights, x = weights_of(20, 11, 9, 2, 1), made(2, 20, seed=4)
    expected = mixture(x, weights, Form.REFERENCE)
    idle = sorted(set(range(9)) - set(route(x, weights, Form.REFERENCE).experts_NK.flatten().tolist()))
    assert idle, "the case needs an expert without rows"
    weights.gate_up[idle], weights.down[idle] = float("nan"), float("nan")
    torch.testing.assert_close(mixture(x, weights, Form.TRITON), expected, **FLOAT32)


def test_rows_that_all_choose_one_expert_leave_the_others_unread(device: torch.device) -> None:
    weights, x = weights_of(20, 11, 9, 1, 1), made(FEW_ROWS + 20, 20, seed=4)
    weights.balance.copy_(torch.where(torch.arange(9) == 4, 9.0, 0.0))
    expected = mixture(x, weights, Form.REFERENCE)
    idle = [expert for expert in range(9) if expert != 4]
    weights.gate_up[idle], weights.down[idle] = float("nan"), float("nan")
    torch.testing.assert_close(mixture(x, weights, Form.TRITON), expected, **FLOAT32)


def test_a_row_among_many_is_as_alone(device: torch.device) -> None:
    weights, x = weights_of(20, 11, 9, 2, 1), made(50, 20, seed=4)
    together = mixture(x, weights, Form.TRITON)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(5))
    permuted = mixture(x[order], weights, Form.TRITON)
    if device.type == "cuda":
        assert torch.equal(permuted, together[order])
    else:  # interpreted, products are numpy's, whose BLAS may add up a row in another order at another place
        torch.testing.assert_close(permuted, together[order], **FLOAT32)
    torch.testing.assert_close(mixture(x[:1].contiguous(), weights, Form.TRITON)[0], together[0], **FLOAT32)


def part_of(weights: MixtureWeights, rank: int, ranks: int) -> MixtureWeights:
    """What one rank holds: a run of the routed experts, a part of the width of each shared one."""
    held = weights.experts // ranks
    here = slice(rank * held, (rank + 1) * held)
    gates, ups = (half.chunk(ranks, 1)[rank] for half in weights.shared_gate_up.chunk(2, 1))
    return replace(
        weights,
        gate_up=weights.gate_up[here].clone(),
        down=weights.down[here].clone(),
        shared_gate_up=torch.cat([gates, ups], 1),
        shared_down=weights.shared_down.chunk(ranks, 2)[rank].contiguous(),
        first=rank * held,
    )


@pytest.mark.parametrize("form", [Form.REFERENCE, Form.TRITON])
@pytest.mark.parametrize(("ranks", "rows"), [(2, 3), (4, 3), (2, FEW_ROWS + 9)])
def test_what_ranks_hold_adds_up_to_the_whole(
    form: Form, ranks: int, rows: int, device: torch.device, poisoned: Callable[..., Tensor]
) -> None:
    weights, x = weights_of(37, 20, 8, 3, 2), made(rows, 37, seed=9)
    whole = mixture(x, weights, Form.REFERENCE)
    parts = []
    for rank in range(ranks):
        part = part_of(weights, rank, ranks)
        tensors = {name: getattr(part, name) for name in part.__slots__}
        placed = {
            name: poisoned(value) if form is Form.TRITON else value
            for name, value in tensors.items()
            if isinstance(value, Tensor)
        }
        parts.append(mixture(poisoned(x) if form is Form.TRITON else x, replace(part, **placed), form).cpu())
    torch.testing.assert_close(torch.stack(parts).sum(0), whole, **FLOAT32)
    assert not torch.allclose(parts[0], whole, **FLOAT32)


@pytest.mark.parametrize(("experts", "rows"), [([2, 0, 2, 2, 5, 0, 2], 2), ([0], 16), ([3] * 40, 16)])
def test_pairs_lie_in_blocks_of_one_expert(experts: list[int], rows: int, device: torch.device) -> None:
    from turn_kernels.mixture.grouped.triton_form import blocks_of

    pairs, of_block = blocks_of(torch.tensor(experts), 6, rows)
    blocks = pairs.view(-1, rows)
    assert len(blocks) == len(of_block)
    assert sorted(pairs[pairs < len(experts)].tolist()) == list(range(len(experts))), "every pair once"
    for block, expert in zip(blocks.tolist(), of_block.tolist(), strict=True):
        assert {experts[pair] for pair in block if pair < len(experts)} == ({expert} if expert < 6 else set())


def test_very_negative_logits_still_share_the_weight(device: torch.device) -> None:
    weights = weights_of(16, 5, 4, 2, 1)
    weights.router.copy_(-weights.router.abs() * 200)
    x = torch.full((1, 16), 3.0)
    found = route(x, weights, Form.TRITON).weights_NJ
    torch.testing.assert_close(found.sum(1), torch.tensor([weights.scale]))
    assert sorted(found[0].tolist()) == pytest.approx(
        sorted(route(x, weights, Form.REFERENCE).weights_NJ[0].tolist()), rel=1e-3, abs=1e-7
    )


def test_what_does_not_fit_is_refused(device: torch.device) -> None:
    weights = weights_of(16, 5, 4, 2, 1)
    with pytest.raises(ValueError, match="x is"):
        mixture(made(2, 15, seed=1), weights)
    with pytest.raises(ValueError, match="chosen = 5"):
        mixture(made(2, 16, seed=1), replace(weights, chosen=5))
    with pytest.raises(ValueError, match="first = 1 with 4 experts here: expected 0 .. 0"):
        mixture(made(2, 16, seed=1), replace(weights, first=1))
    assert mixture(made(0, 16, seed=1), weights, Form.TRITON).shape == (0, 16)
