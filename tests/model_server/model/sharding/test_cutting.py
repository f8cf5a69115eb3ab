"""Parts of tensors are the whole again; from memory and from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model_server.model.config import DIGITS
from model_server.model.interaction import Interaction
from model_server.model.sharding.cutting import part_of, state_of_rank, whole_of
from model_server.model.sharding.plan import Cut, plan_of


def test_blocks_are_cut_each_by_itself() -> None:
    rows = torch.arange(12)[:, None]
    cut = Cut(0, (4, 2, 6))
    assert part_of(rows, cut, 0, 2)[:, 0].tolist() == [0, 1, 4, 6, 7, 8]
    assert part_of(rows, cut, 1, 2)[:, 0].tolist() == [2, 3, 5, 9, 10, 11]
    assert part_of(rows.mT, Cut(1, (12,)), 2, 3).tolist() == [[8, 9, 10, 11]]


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_parts_of_all_ranks_are_the_whole_model(ranks: int) -> None:
    model = Interaction(DIGITS)
    model.initialise(seed=1)
    plan, whole = plan_of(DIGITS, ranks), model.state_dict()
    parts = [state_of_rank(whole, plan, rank) for rank in range(ranks)]
    for name, value in whole.items():
        again = whole_of([part[name] for part in parts], plan.cuts.get(name))
        assert torch.equal(again, value), name
        assert all(part[name].is_contiguous() for part in parts), name


def test_a_part_is_read_from_a_file_without_the_rest(tmp_path: Path) -> None:
    value = torch.randn(4, 6, 10, generator=torch.Generator().manual_seed(1))
    save_file({"x": value}, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        for cut in (None, Cut(0, (4,)), Cut(1, (2, 4)), Cut(2, (10,))):
            found = part_of(file.get_slice("x"), cut, 1, 2)
            assert torch.equal(found, part_of(value, cut, 1, 2)), cut
