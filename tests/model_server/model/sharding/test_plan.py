"""What each rank holds, for every configuration and number of ranks."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

import torch

from model_server.model.config import CONFIGS, DIGITS, INTERACTION_276B_A12B, SMALL_30B_A3B, ModelConfig
from model_server.model.interaction import Interaction
from model_server.model.sharding.parallel import empty_rank
from model_server.model.sharding.plan import plan_of


class Nobody:
    """Nothing is computed."""

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a sum")

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a gather")


def sizes(model: Interaction) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "ranks"),
    [("digits", 1), ("digits", 2), ("small-30b-a3b", 4), *((name, 8) for name in CONFIGS if "276b" in name)],
)
def test_every_rank_is_built_on_the_meta_device_at_the_size_of_its_cuts(name: str, ranks: int) -> None:
    plan = plan_of(CONFIGS[name], ranks)
    with torch.device("meta"):
        whole = sizes(Interaction(plan.config))
        found = sizes(empty_rank(plan, ranks - 1, Nobody()))
    assert plan.cuts.keys() <= whole.keys() == found.keys()
    for name_, shape in whole.items():
        expected = list(shape)
        if cut := plan.cuts.get(name_):
            assert sum(cut.blocks) == shape[cut.axis], name_
            expected[cut.axis] //= ranks
        assert found[name_] == tuple(expected), name_


def test_a_rank_of_eight_holds_an_eighth_of_the_276_billion_and_what_is_whole() -> None:
    plan = plan_of(INTERACTION_276B_A12B, 8)
    with torch.device("meta"):
        whole = Interaction(plan.config)
        rank = empty_rank(plan, 3, Nobody())
    kept_whole = sum(p.numel() for name, p in whole.named_parameters() if name not in plan.cuts)
    total = sum(p.numel() for p in whole.parameters())
    held = sum(p.numel() for p in rank.parameters())
    assert held == (total - kept_whole) // 8 + kept_whole
    assert total // 8 < held < total // 8 * 1.03, "embeddings and routers are all that is there eight times"
    assert plan.sums_a_pass == 84


def test_heads_and_experts_are_in_equal_runs() -> None:
    plan = plan_of(INTERACTION_276B_A12B, 8)
    assert [plan.experts_of(rank) for rank in (0, 7)] == [range(0, 32), range(224, 256)]
    assert [plan.kv_heads_of(rank, 5) for rank in range(8)] == [range(n, n + 1) for n in range(8)]
    assert plan.heads_of(1) == range(4, 8), "those that read KV head 1"
    assert plan.rank_config.heads // plan.rank_config.kv_heads == 4
    alone = plan_of(DIGITS, 1)
    assert not alone.cuts and alone.rank_config == DIGITS


@pytest.mark.parametrize(
    ("config", "ranks", "said"),
    [
        (DIGITS, 4, "kv_heads = 2"),
        (DIGITS, 0, "expected at least 1"),
        (SMALL_30B_A3B, 8, "kv_heads = 4"),
        (replace(DIGITS, vocabulary=257), 2, "vocabulary = 257"),
        (replace(DIGITS, experts=7), 2, "experts = 7"),
    ],
)
def test_what_cannot_be_divided_is_refused(config: ModelConfig, ranks: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan_of(config, ranks)
