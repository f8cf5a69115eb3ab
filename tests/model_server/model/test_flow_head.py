from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model_server.model.flow_head import OUTPUTS, FlowHead, training_times
from model_server.model.vocoder import FEATURES

HIDDEN = 24


def head_of(seed: int = 0, hidden: int = HIDDEN, width: int = 48, blocks: int = 2) -> FlowHead:
    torch.manual_seed(seed)
    return FlowHead(hidden, width, blocks)


def stirred(head: FlowHead) -> FlowHead:
    """With no weight left at the zero it starts from."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return head


def noise(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, OUTPUTS, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def learned() -> tuple[FlowHead, Tensor, Tensor]:
    """A head that was shown 12 conditions with a smooth curve each, the conditions, and the curves [12, 4, F]."""
    generator = torch.Generator().manual_seed(2)
    phases = torch.rand(12, 1, 1, generator=generator) * 6 + torch.arange(4)[:, None] * 0.3
    vectors = 0.5 * torch.sin(phases + torch.arange(FEATURES) / 9) - 1.5
    conditions = torch.randn(12, HIDDEN, generator=generator)
    head = head_of()
    head.normalise_by(vectors.flatten(0, 1).mean(0), vectors.flatten(0, 1).std(0))
    optimiser = torch.optim.Adam(head.parameters(), 5e-3, fused=True)
    for _ in range(250):
        start = torch.randn(48, OUTPUTS, generator=generator)
        loss = head.loss(
            conditions.repeat(4, 1), vectors.repeat(4, 1, 1), start, training_times(48, generator)
        ).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return head.eval(), conditions, vectors


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_what_was_learned_comes_back(learned: tuple[FlowHead, Tensor, Tensor], steps: int) -> None:
    head, conditions, vectors = learned
    found = head.sample(conditions, noise(12), steps)
    off = (found - vectors).square().mean().sqrt()
    spread = vectors.std()
    assert off < 0.15 * spread, (float(off), float(spread))


def test_two_answers_to_one_condition_stay_two(learned: tuple[FlowHead, Tensor, Tensor]) -> None:
    """A flow gives one or the other, where least squares would give their mean."""
    generator = torch.Generator().manual_seed(4)
    head = head_of(1)
    two = torch.tensor([-1.0, 1.0])[:, None, None].expand(2, 4, FEATURES)
    optimiser = torch.optim.Adam(head.parameters(), 3e-3)
    given = torch.ones(64, HIDDEN)
    for _ in range(300):
        start = torch.randn(64, OUTPUTS, generator=generator)
        loss = head.loss(given, two.repeat(32, 1, 1), start, training_times(64, generator)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = head.sample(torch.ones(40, HIDDEN), noise(40), 16).mean((1, 2))
    assert found.abs().min() > 0.5
    assert 8 < (found > 0).sum() < 32


def test_same_noise_same_vectors_and_other_noise_others() -> None:
    head = stirred(head_of())
    condition = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(3))
    once = head.sample(condition, noise(3), 2)
    assert once.shape == (3, 4, FEATURES)
    assert torch.equal(once, head.sample(condition, noise(3), 2))
    assert not torch.allclose(once, head.sample(condition, noise(3, seed=9), 2))


def test_rows_do_not_hear_of_each_other() -> None:
    head = stirred(head_of())
    condition = torch.randn(5, HIDDEN, generator=torch.Generator().manual_seed(3))
    together = head.sample(condition, noise(5), 3)
    alone = torch.cat([head.sample(condition[i : i + 1], noise(5)[i : i + 1], 3) for i in range(5)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


def test_the_loss_is_that_of_the_velocity() -> None:
    """Against its definition: the velocity to what is predicted, less that from noise to the vectors."""
    head = stirred(head_of())
    head.normalise_by(torch.full((FEATURES,), -1.0), torch.full((FEATURES,), 2.0))
    generator = torch.Generator().manual_seed(6)
    condition = torch.randn(4, HIDDEN, generator=generator)
    vectors = torch.randn(4, 4, FEATURES, generator=generator)
    time = torch.tensor([0.0, 0.3, 0.6, 0.85])
    clean = ((vectors + 1) / 2).flatten(1)
    at = time[:, None] * clean + (1 - time[:, None]) * noise(4)
    velocity = (head(at, time, condition) - at) / (1 - time[:, None])
    expected = (velocity - (clean - noise(4))).square().mean(1)
    torch.testing.assert_close(head.loss(condition, vectors, noise(4), time), expected, rtol=1e-4, atol=1e-5)


def test_every_weight_learns() -> None:
    head = stirred(head_of())
    loss = head.loss(torch.ones(4, HIDDEN), torch.ones(4, 4, FEATURES), noise(4), torch.full((4,), 0.5)).sum()
    loss.backward()
    idle = [name for name, weight in head.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not idle


def test_size_for_the_hidden_row_of_digits() -> None:
    assert sum(parameter.numel() for parameter in FlowHead(192).parameters()) < 600_000


def test_statistics_travel_with_the_weights() -> None:
    head = stirred(head_of())
    head.normalise_by(torch.full((FEATURES,), -2.0), torch.full((FEATURES,), 0.5))
    other = head_of(8)
    other.load_state_dict(head.state_dict())
    condition = torch.ones(2, HIDDEN)
    assert torch.equal(other.sample(condition, noise(2), 2), head.sample(condition, noise(2), 2))


def test_times_begin_at_the_noise_and_end_before_the_vectors() -> None:
    times = training_times(4000, torch.Generator().manual_seed(0))
    assert 0.2 < (times == 0).float().mean() < 0.3
    assert times.min() >= 0 and times.max() < 1


def test_no_step_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="steps = 0: expected at least 1"):
        head_of().sample(torch.ones(1, HIDDEN), noise(1), 0)


def test_statistics_without_spread_are_refused() -> None:
    with pytest.raises(ValueError, match="smallest deviation 0: expected"):
        head_of().normalise_by(torch.zeros(FEATURES), torch.zeros(FEATURES))
