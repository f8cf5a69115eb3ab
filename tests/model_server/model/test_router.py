"""Experts: sent to by the router, balanced without a gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.model.config import DIGITS  # noqa: E402
from model_server.model.mlp import Experts, gated  # noqa: E402

CONFIG = replace(
    DIGITS, hidden=16, expert_width=8, experts=6, experts_chosen=2, shared_experts=2, route_scale=3.0
)


def experts(seed: int = 1) -> Experts:
    made = Experts(CONFIG)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0 if parameter.ndim > 1 else 1, 0.5, generator=generator)
        made.router.balance.normal_(0, 0.3, generator=generator)
    return made


def test_weights_are_shared_out_over_chosen_and_shared_experts() -> None:
    router = experts().router
    route = router(torch.randn(50, 16, generator=torch.Generator().manual_seed(2)))
    total = route.weights_NK.sum(1) + route.shared_NS.sum(1)
    torch.testing.assert_close(total, (3.0 * router.scale).expand(50))


def test_logits_far_below_zero_do_not_underflow() -> None:
    router = experts().router
    with torch.no_grad():
        router.weight.fill_(-20.0)
    route = router(torch.full((1, 16), 10.0))  # every logit is -3200
    torch.testing.assert_close(route.weights_NK, (3.0 * router.scale / 4).expand(1, 2))


@pytest.mark.parametrize("count", [1, 3, 64])
def test_rows_sorted_by_expert_come_back_in_order(count: int) -> None:
    mixture = experts()
    x = torch.randn(1, count, 16, generator=torch.Generator().manual_seed(3))
    route = mixture.router(x[0])
    for row in range(count):
        expected = sum(
            weight * gated(x[0, row], mixture.gate_up[expert], mixture.down[expert])
            for expert, weight in zip(route.experts_NK[row], route.weights_NK[row], strict=True)
        ) + sum(
            route.shared_NS[row, s] * gated(x[0, row], mixture.shared_gate_up[s], mixture.shared_down[s])
            for s in range(2)
        )
        torch.testing.assert_close(mixture(x)[0, row], expected, rtol=1e-4, atol=1e-5)


def test_rebalancing_spreads_the_load() -> None:
    router = experts().router
    x = torch.randn(600, 16, generator=torch.Generator().manual_seed(4)) + 0.5

    def worst() -> float:
        load = torch.bincount(router(x).experts_NK.flatten(), minlength=6)
        return float(load.max() / load.float().mean())

    before = worst()
    for _ in range(300):
        router.rebalance(router(x).experts_NK, rate=0.005)
    assert before > 1.5 and worst() < 1.2
