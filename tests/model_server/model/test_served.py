"""The form for inference gives the rows of the plain trunk, for calls of any lengths, at any age."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.model.config import DIGITS, ModelConfig  # noqa: E402
from model_server.model.served import products  # noqa: E402
from model_server.model.served.compiled import ops as compiled_ops  # noqa: E402
from model_server.model.served.compiled.build import COMPILERS, CannotCompile  # noqa: E402
from model_server.model.served.layer import serve  # noqa: E402
from model_server.model.state import TrunkState  # noqa: E402
from model_server.model.trunk import Trunk  # noqa: E402

SMALL = replace(
    DIGITS,
    **dict(name="small", hidden=32, heads=4, head_dim=16, dense_width=64, expert_width=32, experts=4),
    **dict(window=12, bias_extent=20, global_first=5, global_budget=40, vision_widths=(8, 8, 8)),
    **dict(log_floor=30, log_alpha=0.3, shared_experts=2),
)
CLOSE = dict(rtol=1e-4, atol=1e-5)
PIECES = (8, 1, 16, 5, 9, 3)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(params=[False, True], ids=["torch", "compiled"])
def compiled(request: pytest.FixtureRequest) -> bool:
    if request.param and not any(map(shutil.which, COMPILERS)):
        pytest.skip(f"needs one of {COMPILERS}")
    return bool(request.param)


def trunk(config: ModelConfig = SMALL) -> Any:
    generator = torch.Generator().manual_seed(8)
    made = Trunk(config)
    for parameter in made.parameters():
        parameter.normal_(0 if parameter.ndim > 1 else 1, 0.3, generator=generator)
    return made


def rows(calls: int, positions: int) -> Any:
    return torch.randn(calls, positions, SMALL.hidden, generator=torch.Generator().manual_seed(9))


def opened(calls: int, by_channel: bool = False) -> TrunkState:
    state = TrunkState(SMALL, calls, keys_by_channel=by_channel)
    for row in range(calls):
        state.open(row)
    return state


def in_pieces(model: Any, x: Any, state: TrunkState) -> Any:
    out, start = [], 0
    while start < x.shape[1]:
        count = PIECES[len(out) % len(PIECES)]
        out.append(model.append(x[:, start : start + count], state, list(range(len(x)))))
        start += count
    return torch.cat(out, 1)


@pytest.mark.parametrize("log_floor", [None, 30])
def test_its_rows_are_those_of_the_plain_trunk(log_floor: int | None, compiled: bool) -> None:
    config = replace(SMALL, log_floor=log_floor)
    model, x = trunk(config), rows(3, 200)
    wanted = model.whole(x)
    serve(model, torch.float32, compiled=compiled)
    assert model.keys_by_channel == compiled
    torch.testing.assert_close(in_pieces(model, x, opened(3, compiled)), wanted, **CLOSE)


def test_calls_of_different_lengths_and_rows_taken_back(compiled: bool) -> None:
    plain, x = trunk(), rows(4, 60)
    served = copy.deepcopy(plain)
    serve(served, torch.float32, compiled=compiled)
    seen = []
    for model in (plain, served):
        state = opened(4, model.keys_by_channel)
        out = [model.append(x[:, :30], state, [0, 1, 2, 3])]
        ragged = model.append(x[:3, 30:41], state, [3, 0, 1], [11, 4, 1])
        out += [ragged[0], ragged[1, :4], ragged[2, :1]]
        out.append(model.append(x[:, 41:49], state, [0, 1, 2, 3]))
        state.rewind([1, 3], 4)
        out.append(model.append(x[:2, 50:55], state, [1, 3]))
        out.append(model.append(x[:, 55:], state, [0, 1, 2, 3]))
        seen.append(torch.cat([part.flatten() for part in out]))
    torch.testing.assert_close(seen[1], seen[0], **CLOSE)


def test_compiled_rows_are_the_same_whoever_else_is_in_the_pass(compiled: bool) -> None:
    if not compiled:
        pytest.skip("products of libraries add up in other orders for other numbers of rows")
    model, x = trunk(), rows(5, 60)
    serve(model, torch.float32)
    together = in_pieces(model, x, opened(5, by_channel=True))
    alone = in_pieces(model, x[1:2], opened(1, by_channel=True))
    assert torch.equal(together[1:2], alone)


def test_what_it_is_given_stays_as_it_is(compiled: bool) -> None:
    model, x = trunk(), rows(2, 40)
    serve(model, torch.float32, compiled=compiled)
    before = x.clone()
    model.append(x, opened(2, compiled), [0, 1])
    assert torch.equal(x, before)


def test_products_in_bfloat16_move_rows_a_little(compiled: bool) -> None:
    model, x = trunk(), rows(2, 90)
    exact = model.whole(x)
    serve(model, torch.bfloat16, compiled=compiled)
    near = (in_pieces(model, x, opened(2, compiled)) - exact).abs().flatten().median() / exact.abs().median()
    assert 1e-4 < near < 3e-2


def test_buckets_are_few_and_not_much_larger() -> None:
    sizes = [products.bucket(rows) for rows in range(1, 2049)]
    assert all(rows <= size for rows, size in enumerate(sizes, 1)) and sizes == sorted(sizes)
    assert all(size <= 1.25 * rows for rows, size in enumerate(sizes, 1) if rows >= 32)
    assert sorted(set(sizes)) == list(products.buckets(2048)) and len(set(sizes)) <= 32


@pytest.mark.parametrize("count", [1, 7, 64])
def test_fused_products_are_those_in_steps(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    gate_up, down = (torch.randn(*shape, generator=generator) * 0.2 for shape in ((96, 32), (32, 48)))
    x = torch.randn(count, 32, generator=generator).bfloat16()
    exact = torch.nn.functional.linear(x.float(), gate_up.bfloat16().float()).chunk(2, -1)
    wanted = (torch.nn.functional.silu(exact[0]) * exact[1]) @ down.bfloat16().float().t()
    for fused in (True, False):
        monkeypatch.setattr(products, "is_fused", lambda dtype, fused=fused: fused)
        found = products.Gated(gate_up, down, torch.bfloat16)(x)
        assert found.dtype is torch.bfloat16
        torch.testing.assert_close(found.float(), wanted, rtol=0.03, atol=0.03)


def test_this_torch_has_the_operations_that_are_fused() -> None:
    """Ours by name only: an upgrade that takes them away is to be seen here, not in step times."""
    assert products.is_fused(torch.bfloat16)
    assert torch.ops.mkldnn._linear_pointwise.overloads() == ["default", "binary"]


def test_products_are_in_what_this_cpu_is_faster_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for halved_ns, chosen in ((50, torch.bfloat16), (90, torch.float32), (180, torch.float32)):
        taken = {torch.bfloat16: halved_ns, torch.float32: 100}
        monkeypatch.setattr(products, "_fastest_ns", taken.__getitem__)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
        assert products.product_dtype.__wrapped__() is chosen
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert products.product_dtype.__wrapped__() is torch.float32


def test_widths_that_are_no_whole_lanes_are_computed_in_torch(compiled: bool) -> None:
    model = trunk(replace(SMALL, expert_width=24))
    serve(model, torch.float32, compiled=compiled)
    assert not model.keys_by_channel


def test_without_a_compiler_it_says_so_and_goes_on_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise CannotCompile("no C compiler")

    compiled_ops.ops.cache_clear()
    monkeypatch.setattr(compiled_ops, "library", missing)
    with capture_logs() as said:
        model = trunk()
        serve(model, torch.float32)
    compiled_ops.ops.cache_clear()
    assert not model.keys_by_channel
    assert [line["reason"] for line in said] == ["no C compiler"]
