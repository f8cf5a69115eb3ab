"""What kernels store as bfloat16 is what torch stores; the words of a multicast load are unpacked in order."""

from __future__ import annotations

import pytest
import torch

triton = pytest.importorskip(
    "triton", reason="the extra `kernels` is not installed: pip install -e '.[kernels]'"
)


def test_stores_round_as_torch_does(device: torch.device) -> None:
    from tests.kernels.small_kernels import store_rounded

    special = [0.0, -0.0, float("inf"), -float("inf"), 3.4e38, -3.4e38, 1e-40, 1.00390625, 1.01171875]
    values = torch.randn(4096 - len(special), generator=torch.Generator().manual_seed(1)) * 100
    x = torch.cat([torch.tensor(special), values]).to(device)
    out = torch.empty(4096, dtype=torch.bfloat16, device=device)
    store_rounded[(1,)](x, out, BLOCK=4096)
    assert torch.equal(out.view(torch.int16), x.bfloat16().view(torch.int16))


def test_nan_stays_nan(device: torch.device) -> None:
    from tests.kernels.small_kernels import store_rounded

    patterns = torch.tensor([0x7F800001, 0x7FFFFFFF, -1, 0x7FC00000], dtype=torch.int32)
    out = torch.zeros(4, dtype=torch.bfloat16, device=device)
    store_rounded[(1,)](patterns.view(torch.float32).to(device), out, BLOCK=4)
    assert out.isnan().all()


@pytest.mark.parametrize("units", [1, 2, 16])
def test_words_of_a_multicast_load_come_in_the_order_of_memory(units: int, device: torch.device) -> None:
    from tests.kernels.small_kernels import unpack_words

    x = torch.randn(units * 8, generator=torch.Generator().manual_seed(2)).bfloat16().to(device)
    out = torch.full((units * 8,), float("nan"), device=device)
    unpack_words[(1,)](x.view(torch.int32), out, UNITS=units)
    assert torch.equal(out, x.float())
