"""Ranks, here threads that share memory, give what the plain model gives."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

import torch
from torch import Tensor

from model_server.model.config import DIGITS, ModelConfig
from model_server.model.interaction import Interaction
from model_server.model.served.layer import serve
from model_server.model.sharding.parallel import RankExperts, rank_of
from model_server.model.sharding.plan import plan_of
from turn_kernels.all_reduce.shared_memory import SharedMemory, region_bytes

HALF_BYTES = 4096
"""Less than a pass has: sums go in pieces."""
CLOSE = {"rtol": 1e-4, "atol": 1e-5}

SMALL = replace(
    DIGITS,
    **dict(name="small", layers=3, hidden=32, heads=8, kv_heads=4, kv_heads_sliding=4, head_dim=8),
    **dict(dense_width=48, dense_layers=1, expert_width=24, experts=4, window=24, bias_extent=30),
    **dict(global_first=7, global_budget=60, vision_widths=(8, 8, 8), shared_experts=2),
)


def model_of(config: ModelConfig) -> Interaction:
    model = Interaction(config)
    model.initialise(seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return model.eval().requires_grad_(False)


def as_ranks(
    config: ModelConfig, ranks: int, run: Callable[[Interaction], Tensor], *, served: bool = False
) -> list[Tensor]:
    """What each rank's model gives; `served`: in the form for inference, in float32."""
    plan, whole = plan_of(config, ranks), model_of(config)
    memory = mmap.mmap(-1, region_bytes(ranks, HALF_BYTES))

    def rank(number: int) -> Tensor:
        collectives = SharedMemory(memory, number, ranks, HALF_BYTES)
        with torch.inference_mode():
            model = rank_of(whole, plan, number, collectives)
            if served:
                serve(model.trunk, torch.float32, collectives.all_reduce)
            return run(model)

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(rank, range(ranks)))


def streamed(counts: Sequence[int]) -> Callable[[Interaction], Tensor]:
    """Hidden rows and logits of two calls, in passes of so many positions: rings go round, a pass is taken back."""

    def run(model: Interaction) -> Tensor:
        generator = torch.Generator().manual_seed(5)
        state, out = model.state(3), []
        for row in (2, 0):
            state.open(row)
        for count in counts:
            x = torch.randn(2, count, model.config.hidden, generator=generator)
            hidden = model.trunk.append(x, state, [2, 0])
            out.append(model.logits(hidden).flatten())
            state.rewind([0], count // 2)
        return torch.cat(out)

    return run


@pytest.mark.parametrize("ranks", [2, 4])
def test_so_are_those_in_the_form_for_inference(ranks: int) -> None:
    config = replace(SMALL, log_floor=30, log_alpha=0.3)
    run = streamed((8, 1, 16, 3) * 5)
    with torch.inference_mode():
        wanted = run(model_of(config))
    for found in as_ranks(config, ranks, run, served=True):
        torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize("ranks", [2, 4])
def test_streamed_rows_are_those_of_the_plain_model(ranks: int) -> None:
    run = streamed((8, 1, 16, 3) * 5)
    with torch.inference_mode():
        expected = run(model_of(SMALL))
    found = as_ranks(SMALL, ranks, run)
    for each in found:
        torch.testing.assert_close(each, expected, **CLOSE)
        assert torch.equal(each, found[0]), "every rank chooses among the same bits"


def test_whole_conversations_are_those_of_the_plain_model() -> None:
    x = torch.randn(2, 150, SMALL.hidden, generator=torch.Generator().manual_seed(6))

    def run(model: Interaction) -> Tensor:
        return model.trunk.whole(x)

    with torch.inference_mode():
        expected = run(model_of(SMALL))
    for each in as_ranks(SMALL, 2, run):
        torch.testing.assert_close(each, expected, **CLOSE)


def test_a_rank_without_any_of_the_chosen_experts_adds_the_shared_ones_alone() -> None:
    def run(model: Interaction) -> Tensor:
        experts = model.trunk.layers[2].mlp
        experts.router.balance.copy_(torch.tensor([9.0, 9.0, 0.0, 0.0]))  # all rows go to experts 0 and 1
        chosen: list[Tensor] = []
        out = experts(x, chosen)
        assert chosen[0].max() <= 1
        if isinstance(experts, RankExperts) and 2 in experts.local:
            experts.gate_up.fill_(float("nan"))
            experts.down.fill_(float("nan"))
        return torch.stack([out, experts(x)])

    x = torch.randn(1, 5, SMALL.hidden, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        expected = run(model_of(SMALL))
    for each in as_ranks(SMALL, 2, run):
        torch.testing.assert_close(each, expected, **CLOSE)


def test_halved_matrices_stay_halved() -> None:
    whole = model_of(SMALL)
    whole.trunk.halve()
    plan = plan_of(SMALL, 2)
    memory = mmap.mmap(-1, region_bytes(1, HALF_BYTES))
    rank = rank_of(whole, plan, 1, SharedMemory(memory, 0, 1, HALF_BYTES))
    dtypes = {name: value.dtype for name, value in rank.state_dict().items()}
    assert dtypes == {name: value.dtype for name, value in whole.state_dict().items()}
    assert torch.bfloat16 in dtypes.values()
