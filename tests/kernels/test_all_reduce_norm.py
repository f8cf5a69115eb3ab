"""The fused collective: with several processes, alone, and what it refuses."""

from __future__ import annotations

import mmap
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.kernels.conftest import environment
from turn_kernels.all_reduce_norm import Layout, Team, all_reduce_norm, best_form, team_in_slab
from turn_kernels.all_reduce_norm.reference import add_norm
from turn_kernels.forms import Form

EPS = 1e-6


def team_of_one(width: int, rows: int = 8, blocks: int = 3, world: int = 1) -> Team:
    layout = Layout(world, rows, width, blocks)
    return team_in_slab(mmap.mmap(-1, world * layout.region_bytes), 0, layout)


def made(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.fixture(scope="module")
def statuses(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Exit statuses of two ranks, and of four: one process, which forks: importing takes long."""
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("all_reduce_ranks.py")), str(folder), "2", "4"],
        env={**environment(folder), "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return [*done.stdout.splitlines(), done.stderr[-4000:]]


@pytest.mark.processes
@pytest.mark.parametrize(("line", "world"), [(0, 2), (1, 4)])
def test_ranks_agree_with_gloo_bit_for_bit(
    line: int, world: int, device: torch.device, statuses: list[str]
) -> None:
    assert statuses[line] == str([0] * world), statuses[-1]


@pytest.mark.parametrize("width", [8, 104, 1000, 2048])
@pytest.mark.parametrize("count", [1, 7])
def test_a_team_of_one_adds_and_norms(
    width: int, count: int, device: torch.device, poisoned: Callable[..., Tensor]
) -> None:
    if device.type == "cuda":
        pytest.skip("its memory is on the CPU; `team_of_gpus` is tested with several of them")
    team = team_of_one(width)
    x, residual, weight = (poisoned(made(*shape)) for shape in ((count, width), (count, width), (width,)))
    expected = residual.clone()
    normed = add_norm(x, expected, weight, EPS)
    out = all_reduce_norm(x, residual, weight, EPS, team, Form.PEER)
    assert torch.equal(residual, expected)
    apart = (out.view(torch.int16).int() - normed.view(torch.int16).int()).abs().max()
    assert apart <= 1, "of the last place: the sum of squares has another order"
    memory = residual.untyped_storage()
    around = torch.tensor(memory.tolist(), dtype=torch.uint8).view(torch.bfloat16)
    assert int(around.isnan().sum()) == 2 * 256, "nothing around the residual was written"


def test_a_call_without_rows_leaves_the_count_of_calls(device: torch.device) -> None:
    team = team_of_one(16)
    out = all_reduce_norm(made(0, 16), made(0, 16), made(16), EPS, team, Form.PEER)
    assert out.shape == (0, 16) and not team.epochs.any()


def test_the_reference_is_chosen_on_a_cpu() -> None:
    team = team_of_one(16)
    assert best_form(team) is Form.REFERENCE
    x, residual = made(3, 16), made(3, 16, seed=2)
    expected = (x.float() + residual.float()).bfloat16()
    out = all_reduce_norm(x, residual, torch.ones(16).bfloat16(), EPS, team)
    assert torch.equal(residual, expected)
    mean = expected.float().square().mean(1, keepdim=True)
    assert torch.allclose(out.float(), expected.float() / (mean + EPS).sqrt(), rtol=2**-8)


def test_what_does_not_fit_is_refused(device: torch.device) -> None:
    team = team_of_one(16, rows=2)
    good = (made(2, 16), made(2, 16), made(16), EPS, team)
    for index, wrong, said in (
        (0, made(2, 16).float(), "x is torch.float32"),
        (0, made(2, 24), "x is"),
        (1, made(1, 16), "residual is"),
        (1, made(2, 32)[:, ::2], "strides"),
        (2, made(8), "weight is"),
    ):
        arguments = list(good)
        arguments[index] = wrong
        with pytest.raises(ValueError, match=said):
            all_reduce_norm(*arguments, Form.PEER)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 rows"):
        all_reduce_norm(made(3, 16), made(3, 16), made(16), EPS, team)
    with pytest.raises(ValueError, match="no multicast address"):
        all_reduce_norm(*good, Form.MULTIMEM)
    with pytest.raises(ValueError, match="without a process group"):
        all_reduce_norm(made(1, 16), made(1, 16), made(16), EPS, team_of_one(16, world=2), Form.REFERENCE)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((3, 8, 64, 2), "world is one of"),
        ((2, 8, 60, 2), "multiple of 8"),
        ((2, 0, 64, 2), "at least 1"),
        ((2, 8, 32_768, 2), "width is"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(sizes: tuple[int, int, int, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Layout(*sizes)


def test_regions_hold_their_parts() -> None:
    layout = Layout(4, 7, 104, 3)
    assert layout.signals_at == 2 * 7 * 104 * 2
    assert layout.counters_at - layout.signals_at == 3 * 4 * 8
    assert layout.region_bytes % 128 == 0 and layout.region_bytes >= layout.counters_at + 3 * 8


def test_memory_that_is_too_small_is_refused() -> None:
    layout = Layout(2, 7, 104, 3)
    with pytest.raises(ValueError, match="expected 2 regions"):
        team_in_slab(mmap.mmap(-1, layout.region_bytes), 0, layout)
