"""Append and attend over ring pages: against the model's own attention, and the forms against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model_server.model.attention import Attention
from model_server.model.config import DIGITS
from model_server.model.state import TrunkState
from turn_kernels.append_attend import Pages, Reach, append_attend
from turn_kernels.forms import Form

FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}
BFLOAT16 = {"rtol": 2**-7, "atol": 2**-6}  # shares rounded to bfloat16 before they weigh values of size 1


def made(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class Calls:
    """Pages of some calls, poisoned, and what is appended to them pass by pass."""

    def __init__(
        self,
        reach: Reach,
        calls: int,
        heads: tuple[int, int],
        width: int,
        rank: int,
        extent: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.reach, self.heads, self.width, self.rank = reach, heads, width, rank
        self.dtype, self.device, self.calls = dtype, device, calls
        count = calls * reach.pages + 2
        order = torch.randperm(count - 1, generator=torch.Generator().manual_seed(7))[: calls * reach.pages]
        self.table = order.view(calls, reach.pages).int().to(device)
        self.spare = sorted(set(range(count)) - set(order.tolist()))
        shape = (count, heads[1], reach.page, width)
        self.pages = Pages(*(torch.full(shape, float("nan"), dtype=dtype, device=device) for _ in range(2)))
        self.profiles = made(rank, extent, seed=8, dtype=dtype).to(device)
        self.positions = torch.zeros(calls, dtype=torch.int32)
        self.passes = 0

    def append(self, longest: int, counts: list[int], form: Form) -> Tensor:
        """A pass of random rows; rows beyond a call's own are NaN."""
        h, g = self.heads
        self.passes += 1
        rows = []
        for index, shape in enumerate(((h, self.width), (g, self.width), (g, self.width), (h, self.rank))):
            row = made(self.calls, longest, *shape, seed=10 * self.passes + index, dtype=self.dtype)
            for b, count in enumerate(counts):
                row[b, count:] = float("nan")
            rows.append(row.to(self.device))
        tables = (self.table, self.positions.to(self.device), torch.tensor(counts).int().to(self.device))
        out = append_attend(*rows, self.profiles, self.pages, *tables, self.reach, form)
        self.positions += torch.tensor(counts).int()
        return out


REACHES = [
    (Reach(visible=20, first=0, page=16, ring=3), (4, 2), 8, 3, 20),
    (Reach(visible=33, first=21, page=16, ring=4), (6, 1), 24, 5, 11),
    (Reach(visible=16, first=3, page=32, ring=1), (3, 3), 16, 1, 16),
]
"""Reach, query and KV heads, their width, profiles, distances."""
BEFORE = [(16, [16, 11, 16]), (16, [16, 0, 16]), (16, [16, 16, 1])]
"""Longest and counts of three calls, in the plain form."""
PASSES = [(5, [5, 0, 3]), (1, [1, 1, 1]), (9, [9, 2, 9]), (13, [13, 13, 13])]
"""Then, in both forms: rings go round, a call waits, a call has one position."""


@pytest.mark.parametrize(
    ("sizes", "dtype"), [*((sizes, torch.float32) for sizes in REACHES), (REACHES[1], torch.bfloat16)]
)
def test_the_fast_form_is_the_reference(
    sizes: tuple[Reach, tuple[int, int], int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    reach, heads, width, rank, extent = sizes
    known, fast = (Calls(reach, 3, heads, width, rank, extent, dtype, device) for _ in range(2))
    for longest, counts in BEFORE:
        known.append(longest, counts, Form.REFERENCE)
        fast.append(longest, counts, Form.REFERENCE)
    for longest, counts in PASSES:
        expected = known.append(longest, counts, Form.REFERENCE)
        found = fast.append(longest, counts, Form.TRITON)
        torch.testing.assert_close(found, expected, **(FLOAT32 if dtype is torch.float32 else BFLOAT16))
        assert not any(found[b, count:].any() for b, count in enumerate(counts)), "rows that are not there"
        for name in ("keys", "values"):
            wanted, got = getattr(known.pages, name), getattr(fast.pages, name)
            assert torch.equal(got.nan_to_num(99.0), wanted.nan_to_num(99.0)), name
            assert bool(got[known.spare].isnan().all()), "a page that belongs to nobody was written"
    assert int(known.positions.max()) > reach.ring * reach.page, "the ring went round"


@pytest.mark.parametrize("sizes", REACHES)
def test_the_first_positions_of_a_call_are_the_reference_s(
    sizes: tuple[Reach, tuple[int, int], int, int, int], device: torch.device
) -> None:
    reach, heads, width, rank, extent = sizes
    known, fast = (Calls(reach, 3, heads, width, rank, extent, device=device) for _ in range(2))
    for longest, counts in ((3, [3, 0, 1]), (4, [4, 4, 4])):
        expected = known.append(longest, counts, Form.REFERENCE)
        torch.testing.assert_close(fast.append(longest, counts, Form.TRITON), expected, **FLOAT32)


def test_a_call_does_not_depend_on_the_others(device: torch.device) -> None:
    reach, heads, width, rank, extent = REACHES[1]
    together, alone = (Calls(reach, 3, heads, width, rank, extent, device=device) for _ in range(2))
    for longest, counts in PASSES[:3]:
        expected = together.append(longest, counts, Form.TRITON)
        found = alone.append(longest, [0, counts[1], 0], Form.TRITON)
        assert torch.equal(found[1], expected[1])
        assert not found[0].any() and not found[2].any()


@pytest.mark.parametrize("layer", [0, 1])
def test_the_reference_is_the_model_s_attention(layer: int) -> None:
    config = replace(
        DIGITS, hidden=24, heads=4, head_dim=8, window=20, bias_extent=21, global_first=5, global_budget=40
    )
    attention = Attention(config, layer).requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for parameter in attention.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    state = TrunkState(config, 2, piece_limit=9)
    for row in (0, 1):
        state.open(row)
    is_global = config.is_global(layer)
    visible, first = (40, 5) if is_global else (20, 0)
    reach = Reach(visible, first, page=16, ring=3)
    calls = Calls(reach, 2, (4, 2), 8, config.bias_rank, attention.extent)
    calls.profiles = attention.profiles
    for index, count in enumerate([9, 1, 8, 9, 9, 3, 9, 9, 9, 9, 9]):
        x = made(2, count, 24, seed=100 + index)
        piece = state.piece([0, 1], count)
        past = state.layers[layer].kv_rows.read(piece).clone()
        expected = attention.append(x, piece, state.layers[layer])
        state.advance([0, 1], count)
        q, k, v, rho, _ = attention._project(x, past, None)
        out = append_attend(
            *(each.contiguous() for each in (q.transpose(1, 2), k, v, rho.transpose(1, 2))),
            *(calls.profiles, calls.pages, calls.table, calls.positions),
            *(torch.full((2,), count, dtype=torch.int32), reach),
        )
        calls.positions += count
        torch.testing.assert_close(out.flatten(2) @ attention.output.weight.T, expected, rtol=1e-4, atol=1e-5)
    assert int(calls.positions[0]) > 2 * visible


def test_what_does_not_fit_is_refused() -> None:
    reach = Reach(visible=20, first=4, page=16, ring=2)
    calls = Calls(reach, 1, (4, 2), 8, 3, 20)
    with pytest.raises(ValueError, match="14 positions at once: this ring has room for 13"):
        calls.append(14, [14], Form.REFERENCE)
    calls.table = calls.table[:, 1:].contiguous()
    with pytest.raises(ValueError, match="table is"):
        calls.append(2, [2], Form.REFERENCE)
    with pytest.raises(ValueError, match="profiles of 21 distances"):
        Calls(reach, 1, (4, 2), 8, 3, 21).append(2, [2], Form.REFERENCE)
    with pytest.raises(ValueError, match="5 query heads"):
        Calls(reach, 1, (5, 2), 8, 3, 20).append(2, [2], Form.REFERENCE)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((20, 0, 24, 2), "power of two"),
        ((20, 0, 8, 9), "page is 16"),
        ((33, 0, 16, 2), "has room"),
        ((0, 0, 16, 2), "at least 1"),
    ],
)
def test_a_reach_that_cannot_be_is_refused(sizes: tuple[int, int, int, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Reach(*sizes)
