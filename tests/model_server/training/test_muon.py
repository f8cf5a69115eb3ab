"""Updates by Muon: orthogonal, as large as AdamW's, the same for a stack as for its matrices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model_server.training.muon import ADAM_RMS, Muon, orthogonal


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (3, 40, 16)])
def test_singular_values_are_brought_near_one(shape: tuple[int, ...]) -> None:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    singular = torch.linalg.svdvals(orthogonal(drawn))
    before = torch.linalg.svdvals(drawn)
    assert (before.amax(-1) / before.amin(-1)).min() > 2
    assert singular.min() > 0.5 and singular.max() < 1.3


def test_singular_vectors_stay() -> None:
    drawn = torch.randn(20, 30, generator=torch.Generator().manual_seed(2))
    left, _, right = torch.linalg.svd(drawn, full_matrices=False)
    turned = left.mT @ orthogonal(drawn) @ right.mT
    assert (turned - turned.diagonal().diag()).abs().max() < 0.05


def test_a_stack_learns_as_its_matrices_do() -> None:
    generator = torch.Generator().manual_seed(3)
    start, gradients = (
        torch.randn(4, 8, 12, generator=generator),
        torch.randn(5, 4, 8, 12, generator=generator),
    )
    stack, alone = nn.Parameter(start.clone()), [nn.Parameter(matrix.clone()) for matrix in start]
    together, apart = Muon([stack], 0.01, 0.1), Muon(alone, 0.01, 0.1)
    for gradient in gradients:
        stack.grad = gradient.clone()
        for matrix, part in zip(alone, gradient, strict=True):
            matrix.grad = part.clone()
        together.step()
        apart.step()
    torch.testing.assert_close(stack, torch.stack(list(alone)), rtol=0, atol=2e-3)


def test_an_update_is_as_large_as_one_of_adam() -> None:
    matrix = nn.Parameter(torch.zeros(32, 96))
    optimiser = Muon([matrix], 0.01, 0.0)
    matrix.grad = torch.randn(32, 96, generator=torch.Generator().manual_seed(4)) * 1e-6
    optimiser.step()
    rms = float(matrix.detach().square().mean().sqrt())
    assert rms == pytest.approx(0.01 * ADAM_RMS, rel=0.3)


def test_what_has_no_gradient_stays_but_what_has_decays() -> None:
    still, decaying = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    decaying.grad = torch.zeros(4, 4)
    Muon([still, decaying], 0.1, 0.5).step()
    assert torch.equal(still, torch.ones(4, 4))
    torch.testing.assert_close(decaying.detach(), torch.full((4, 4), 0.95))
