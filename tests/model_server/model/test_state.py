"""State of calls: bounded, equal to remembering everything that counts, and touched by its own call alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.model.config import DIGITS, ModelConfig  # noqa: E402
from model_server.model.state import TrunkState  # noqa: E402
from model_server.model.trunk import Trunk  # noqa: E402

SMALL = replace(
    DIGITS,
    **dict(
        name="small", hidden=32, heads=4, head_dim=8, dense_width=48, expert_width=24, experts=4, window=12
    ),
    **dict(
        bias_extent=20, global_first=5, global_budget=40, log_floor=30, log_alpha=0.3, vision_widths=(8, 8, 8)
    ),
)
CLOSE = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def trunk(config: ModelConfig = SMALL) -> Any:
    generator = torch.Generator().manual_seed(8)
    made = Trunk(config)
    for parameter in made.parameters():
        parameter.normal_(0 if parameter.ndim > 1 else 1, 0.3, generator=generator)
    return made


def rows(calls: int, positions: int) -> Any:
    return torch.randn(calls, positions, SMALL.hidden, generator=torch.Generator().manual_seed(9))


def opened(calls: int, config: ModelConfig = SMALL, piece_limit: int = 16) -> TrunkState:
    state = TrunkState(config, calls, piece_limit=piece_limit)
    for row in range(calls):
        state.open(row)
    return state


def snapshot(state: TrunkState, row: int) -> list[Any]:
    buffers = [buffer[row].clone() for layer in state.layers for buffer in layer.buffers()]
    return [*buffers, state.positions[row].clone()]


def same(a: list[Any], b: list[Any]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_rings_that_came_round_many_times_equal_the_whole() -> None:
    model, x = trunk(), rows(2, 300)
    state = opened(2)
    parts = [
        state_part
        for start in range(0, 300, 10)
        for state_part in [model.append(x[:, start : start + 10], state, [0, 1])]
    ]
    torch.testing.assert_close(torch.cat(parts, 1), model.whole(x), **CLOSE)


def test_within_budget_a_bounded_state_equals_an_unbounded_one() -> None:
    unbounded = replace(SMALL, global_budget=400)
    x = rows(1, 120)
    bounded_rows = trunk().append(x, opened(1), [0])
    unbounded_rows = trunk(unbounded).append(x, opened(1, unbounded), [0])
    torch.testing.assert_close(bounded_rows[:, :40], unbounded_rows[:, :40], **CLOSE)
    assert not torch.allclose(
        bounded_rows[:, 60:], unbounded_rows[:, 60:], atol=1e-3
    )  # the middle is forgotten


def test_the_first_positions_are_not_forgotten() -> None:
    model, x = trunk(), rows(1, 200)
    other = x.clone()
    other[:, 2] += 1
    forgetful = replace(SMALL, global_first=0)
    heard = [model.append(y, opened(1), [0])[:, -1] for y in (x, other)]
    assert not torch.allclose(*heard, atol=1e-4)
    # What the layers behind the global one pass on is what it saw: without first positions nothing is left.
    forgotten = [trunk(forgetful).append(y, opened(1, forgetful), [0])[:, -1] for y in (x, other)]
    torch.testing.assert_close(*forgotten, **CLOSE)


def test_memory_is_the_same_after_many_turns() -> None:
    model, state = trunk(), opened(2)
    before = [(buffer.data_ptr(), buffer.numel()) for layer in state.layers for buffer in layer.buffers()]
    for _ in range(60):
        model.append(rows(2, 9), state, [0, 1])
    after = [(buffer.data_ptr(), buffer.numel()) for layer in state.layers for buffer in layer.buffers()]
    assert before == after and state.positions.tolist() == [540, 540]


def test_a_call_of_digits_costs_what_is_declared() -> None:
    places = 2 * (159 + 16 + 1) + 2 * (32 + 511 + 16 + 1)
    convolutions = 4 * 3 * (128 + 192 + 192)
    assert TrunkState(DIGITS, 1).bytes_per_row == 4 * (places * 2 * 2 * 32 + convolutions)


def test_calls_of_different_lengths_in_one_pass() -> None:
    model, x = trunk(), rows(3, 90)
    state = opened(3)
    done, seen = [0, 0, 0], [[], [], []]
    generator = torch.Generator().manual_seed(10)
    while min(done) < 90:
        calls = [call for call in range(3) if done[call] < 90]
        counts = [min(90 - done[c], int(torch.randint(1, 40, (1,), generator=generator))) for c in calls]
        padded = torch.full((len(calls), max(counts), SMALL.hidden), 1e3)
        for b, (call, count) in enumerate(zip(calls, counts, strict=True)):
            padded[b, :count] = x[call, done[call] : done[call] + count]
        out = model.append(padded, state, calls, counts)
        for b, (call, count) in enumerate(zip(calls, counts, strict=True)):
            seen[call].append(out[b, :count])
            done[call] += count
    torch.testing.assert_close(torch.stack([torch.cat(parts) for parts in seen]), model.whole(x), **CLOSE)


@pytest.mark.parametrize("turned", [[0, 2], [1, 2], [3, 1, 0]])
def test_calls_left_out_of_a_pass_are_untouched(turned: list[int]) -> None:
    model, state = trunk(), opened(4)
    model.append(rows(4, 30), state, [0, 1, 2, 3])
    left_out = [row for row in range(4) if row not in turned]
    before = {row: snapshot(state, row) for row in range(4)}
    model.append(rows(len(turned), 7), state, turned, [7, 3, 5][: len(turned)])
    assert all(same(before[row], snapshot(state, row)) for row in left_out)
    assert not any(same(before[row], snapshot(state, row)) for row in turned)


def test_a_closed_row_keeps_nothing_and_can_be_opened_again() -> None:
    model, state = trunk(), opened(2)
    fresh = snapshot(state, 1)
    first = model.append(rows(1, 50), state, [1])
    state.close(1)
    assert same(fresh, snapshot(state, 1))
    state.open(1)
    torch.testing.assert_close(model.append(rows(1, 50), state, [1]), first, rtol=0, atol=0)


def test_a_call_goes_on_in_another_row() -> None:
    model, x = trunk(), rows(1, 80)
    state = opened(3)
    state.close(0)
    start = model.append(x[:, :50], state, [2])
    state.move(2, 0)
    end = model.append(x[:, 50:], state, [0])
    torch.testing.assert_close(torch.cat([start, end], 1), model.whole(x), **CLOSE)
    with pytest.raises(AssertionError, match="not open"):
        state.close(2)


def test_poison_in_one_call_stays_in_it() -> None:
    model, x = trunk(), rows(2, 60)
    poisoned = x.clone()
    poisoned[1, 20:] = torch.nan
    state = opened(2)
    out = model.append(poisoned, state, [0, 1])
    torch.testing.assert_close(out[:1], model.whole(x[:1]), **CLOSE)
    state.close(1)
    state.open(1)
    again = model.append(x[1:], state, [1])
    torch.testing.assert_close(again, model.whole(x[1:]), **CLOSE)


def test_the_length_of_passes_does_not_matter() -> None:
    model, x = trunk(), rows(1, 100)
    for piece_limit in (1, 5, 100):
        out = model.append(x, opened(1, piece_limit=piece_limit), [0])
        torch.testing.assert_close(out, model.whole(x), **CLOSE)


@pytest.mark.parametrize("before", [2, 33, 200])
def test_positions_can_be_taken_back(before: int) -> None:
    model, x = trunk(), rows(3, before + 30)
    state = opened(3)
    model.append(x[:, :before], state, [0, 1, 2])
    guess = torch.cat([x[:, before : before + 4], torch.full((3, 4, SMALL.hidden), 9.0)], 1)
    model.append(guess, state, [2, 0, 1])  # call 2 has the rows of call 0, and so on
    state.rewind([0, 2], 4)
    assert state.positions.tolist() == [before + 4, before + 8, before + 4]
    heard = torch.stack([x[1], x[0]])  # of calls 0 and 2, since the pass above
    heard[:, :before] = x[[0, 2], :before]
    rest = model.append(heard[:, before + 4 : before + 5], state, [0, 2])
    more = model.append(heard[:, before + 5 :], state, [0, 2])
    torch.testing.assert_close(torch.cat([rest, more], 1), model.whole(heard)[:, before + 4 :], **CLOSE)


def test_only_the_last_pass_can_be_taken_back() -> None:
    model, state = trunk(), opened(3)
    model.append(rows(3, 8), state, [0, 1, 2])
    model.append(rows(1, 8), state, [1])
    with pytest.raises(AssertionError):
        state.rewind([0], 4)
    state.rewind([1], 4)
    with pytest.raises(AssertionError):
        state.rewind([1], 1)


def test_halved_matrices_change_rows_a_little_and_keep_streaming() -> None:
    model, x = trunk(), rows(2, 90)
    exact = model.whole(x)
    model.halve()
    names = {name.rsplit(".", 1)[-1] for name, p in model.named_parameters() if p.dtype == torch.bfloat16}
    assert names == {"weight", "gate_up", "down", "shared_gate_up", "shared_down"}
    halved = model.whole(x)
    near = (halved - exact).abs().flatten().median() / exact.abs().median()
    assert 1e-4 < near < 3e-2
    state = opened(2)
    out = torch.cat([model.append(part, state, [0, 1]) for part in x.split(9, 1)], 1)
    assert (out - halved).abs().flatten().median() / exact.abs().median() < 1e-2
