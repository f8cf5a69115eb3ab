"""The step on the device gives what the plain model gives, whoever comes and goes, whatever fills a bucket up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.model.config import DIGITS  # noqa: E402
from model_server.model.device.random_weights import random_flow_head  # noqa: E402
from model_server.model.device.state import session_bytes  # noqa: E402
from model_server.model.device.step import DeviceStep, bucket_of  # noqa: E402
from model_server.model.flow_head import OUTPUTS  # noqa: E402
from model_server.model.inputs import TurnInputs  # noqa: E402
from model_server.model.interaction import Interaction  # noqa: E402
from model_server.model.micro_turn import MicroTurn  # noqa: E402
from model_server.model.vocabulary import END, SIZE  # noqa: E402
from model_server.model.vocoder import Vocoder  # noqa: E402

SMALL = replace(
    DIGITS,
    **dict(name="small", hidden=32, heads=4, head_dim=8, dense_layers=1, dense_width=48, experts=6),
    **dict(expert_width=24, shared_experts=2, window=20, bias_extent=30, global_first=7, global_budget=60),
    **dict(log_floor=20, log_alpha=0.3, vision_widths=(8, 8, 8), route_scale=2.0),
)
"""Sliding and global layers, one dense, a window, a bias, first positions and a floor of tau that calls outgrow."""
CLOSE = dict(rtol=1e-4, atol=1e-4)
LSB = 2
"""Of a sample: two ways to round."""
FLOW_STEPS = 2
NAN = float("nan")


@pytest.fixture(autouse=True)
def one_thread_without_gradients() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model() -> Any:
    made = Interaction(SMALL)
    made.initialise(seed=11)
    generator = torch.Generator().manual_seed(12)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.2
        for layer in list(made.trunk.layers)[1:]:
            layer.mlp.router.balance += torch.randn(6, generator=generator) * 0.2
        made.unembedding.weight[END] *= 4.0  # some turns end at once, some write as much as they may
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def head() -> Any:
    return random_flow_head(SMALL.hidden, 13, torch.device("cpu"))


def a_turn(rng: np.random.Generator, *, alone: bool = False) -> MicroTurn:
    """With a picture or text now and then, unless it is to be alone."""
    patches = rng.normal(size=(int(rng.integers(1, 7)), 2, 40, 40, 3)).astype(np.float32)
    return MicroTurn(
        heard=rng.integers(0, 16, (4, 80), dtype=np.uint8),
        own=rng.integers(0, 16, (4, 80), dtype=np.uint8),
        truth=rng.integers(0, 4, 4).astype(np.uint8),
        patches=patches if not alone and rng.random() < 0.2 else None,
        text=() if alone or rng.random() < 0.8 else tuple(rng.integers(1, SIZE, 9).tolist()),
    )


def noise_of(turn: int, rows: int) -> Any:
    return torch.randn(rows * 4, OUTPUTS, generator=torch.Generator().manual_seed(turn))


class Plain:
    """The plain model, flow head and vocoder, a row a session."""

    def __init__(self, model: Any, head: Any, sessions: int) -> None:
        self.model, self.head, self.vocoder = model, head, Vocoder()
        self.state, self.voice = model.state(sessions), self.vocoder.start(sessions)

    def open(self, row: int) -> None:
        self.state.open(row)
        self.voice.open(row)

    def turn(self, rows: Sequence[int], inputs: TurnInputs, noise: Any) -> tuple[Any, Any, Any]:
        spoken = self.model.turn(self.state, rows, inputs)
        vectors = self.head.sample(spoken.hidden.flatten(0, 1), noise, FLOW_STEPS)
        features = vectors.unflatten(0, (len(rows), -1)).flatten(1, 2)
        at = torch.tensor(list(rows))
        pcm, after = self.vocoder(features, self.voice.select(at))
        self.voice.put(at, after)
        return spoken.tokens, spoken.hidden, pcm


def device_step(model: Any, head: Any, sessions: int, **told: Any) -> DeviceStep:
    given = dict(buckets=(1, 2, 4, 8), contexts=(0, 8, 16), flow_steps=FLOW_STEPS) | told
    step = DeviceStep(model, head, sessions, **given)
    poison(step)
    return step


def poison(step: DeviceStep) -> None:
    """All that a device form may not read: pages of nobody, rows that are filled up, replies of before."""
    for layer in step.state.layers:
        for part in (layer.pages.keys, layer.pages.values):
            part.fill_(NAN)
        for rows in layer.convolutions():
            rows[: step.state.sessions] = NAN
    for name in ("tail", "source", "log_f0"):
        getattr(step._sound.voice, name)[: step.state.sessions] = NAN
    for buffer in (step._buffers.noise, step._buffers.context, step._buffers.hidden, step._host.noise):
        buffer.fill_(NAN)
    step._buffers.heard.fill_(15)


SCRIPT = (
    *([("open", 2), ("open", 0)], [0, 2], [2, 0], [2], [2, 0]),
    *([("open", 4), ("open", 1), ("open", 3)], [0, 1, 2, 3, 4], [4, 3, 1], [0, 1, 2, 3, 4]),
    *([("close", 2)], [0, 1, 3, 4], [3], [("open", 2)], [2, 4, 1], [0, 1, 2, 3, 4]),
)
"""Calls that come and go, and who steps, in what order."""


def test_turns_are_those_of_the_plain_model_whoever_comes_and_goes(model: Any, head: Any) -> None:
    plain, step = Plain(model, head, 5), device_step(model, head, 5)
    rng, written, passes, seen = np.random.default_rng(1), set(), set(), 0
    spare_before = [rows[-1].clone() for layer in step.state.layers for rows in layer.convolutions()]
    live: list[int] = []
    for turn, told in enumerate([*SCRIPT, *([[0, 1, 2, 3, 4], [4, 0]] * 5)]):
        if isinstance(told[0], tuple):
            for word, row in told:
                getattr(plain, word, plain.state.close)(row)
                getattr(step, word)(row)
            continue
        rows = list(map(int, told))
        inputs = TurnInputs.of([a_turn(rng) for _ in rows])
        seen += len(inputs.patches) + len(inputs.text)
        tokens, hidden, pcm = plain.turn(rows, inputs, noise_of(turn, len(rows)))
        found = step.turn(rows, inputs, noise_of(turn, len(rows)))
        assert found.tokens == tokens
        torch.testing.assert_close(found.hidden, hidden, **CLOSE)
        assert int((found.pcm.int() - pcm.int()).abs().max()) <= LSB and 50 < int(pcm.abs().max()) < 30_000
        written |= {len(of_row) for of_row in tokens}
        passes.add(found.passes)
        live = sorted({*live, *rows})
    assert step.state.positions[:5].tolist() == plain.state.positions.tolist()
    assert int(plain.state.positions.max()) > 2 * SMALL.global_budget, "rings went round"
    assert written == {0, 1, 2, 3} and seen > 5
    spare = [rows[-1] for layer in step.state.layers for rows in layer.convolutions()]
    assert all(torch.equal(*pair) for pair in zip(spare, spare_before, strict=True)), (
        "nobody's row was written"
    )


def test_what_fills_a_bucket_up_changes_nothing(model: Any, head: Any) -> None:
    alone, wide = device_step(model, head, 3), device_step(model, head, 3, buckets=(8,), contexts=(16,))
    rng = np.random.default_rng(2)
    for step in (alone, wide):
        step.open(0)
        step.open(2)
    for turn in range(12):
        rows = [[2, 0], [0], [2]][turn % 3]
        inputs = TurnInputs.of([a_turn(rng) for _ in rows])
        one, other = (step.turn(rows, inputs, noise_of(turn, len(rows))) for step in (alone, wide))
        assert one.tokens == other.tokens
        torch.testing.assert_close(other.hidden, one.hidden, **CLOSE)
    assert wide.state.positions.tolist() == alone.state.positions.tolist()
    for layer in wide.state.layers:
        pages = layer.pages.keys.unflatten(0, (3, -1))
        assert bool(pages[1].isnan().all()), "pages of nobody were written"


def test_without_a_look_all_passes_run_and_nothing_else_is_different(model: Any, head: Any) -> None:
    steps = [device_step(model, head, 1) for _ in range(2)]
    rng, passes = np.random.default_rng(3), set()
    for step in steps:
        step.open(0)
    for turn in range(10):
        inputs = TurnInputs.of([a_turn(rng)])
        one, other = (
            step.turn([0], inputs, noise_of(turn, 1), 2, look=look)
            for step, look in zip(steps, (True, False), strict=True)
        )
        assert other.tokens == one.tokens and other.passes == 3 and len(other.tokens[0]) <= 2
        assert torch.equal(other.hidden, one.hidden) and torch.equal(other.pcm, one.pcm)
        passes.add(one.passes)
    assert passes > {3}, "a look saves a pass"


def test_a_row_that_is_opened_again_knows_nothing(model: Any, head: Any) -> None:
    step, rng = device_step(model, head, 2), np.random.default_rng(4)
    first, other = (TurnInputs.of([a_turn(rng, alone=True)]) for _ in range(2))
    step.open(1)
    wanted = step.turn([1], first, noise_of(0, 1)).hidden.clone()
    for turn in range(10):
        step.turn([1], other, noise_of(turn, 1))
    step.close(1)
    step.open(1)
    assert torch.equal(step.turn([1], first, noise_of(0, 1)).hidden, wanted)


def test_a_call_made_like_another_goes_on_as_that_one_does(model: Any, head: Any) -> None:
    step, rng = device_step(model, head, 3), np.random.default_rng(6)
    for row in range(3):
        step.open(row)
    for turn in range(9):
        rows = [0, 1, 2] if turn % 2 else [1]
        step.turn(rows, TurnInputs.of([a_turn(rng) for _ in rows]), noise_of(turn, len(rows)))
    step.copy(1, 2)
    for turn in range(3):
        same, noise = a_turn(rng), noise_of(turn, 1).repeat(3, 1)
        turned = step.turn([0, 1, 2], TurnInputs.of([same] * 3), noise)
        assert turned.tokens[1] == turned.tokens[2]
        torch.testing.assert_close(turned.hidden[2], turned.hidden[1], **CLOSE)
        assert not torch.allclose(turned.hidden[0], turned.hidden[1], **CLOSE)
        assert int((turned.pcm[1].int() - turned.pcm[2].int()).abs().max()) <= LSB
    assert step.state.broken() == []


def test_sessions_cost_what_is_said(model: Any, head: Any) -> None:
    step = device_step(model, head, 3)
    kept = sum(
        part.numel() * 4 for layer in step.state.layers for part in (layer.pages.keys, layer.pages.values)
    )
    kept += sum(rows[:3].numel() * 4 for layer in step.state.layers for rows in layer.convolutions())
    assert kept == 3 * session_bytes(SMALL, 8 + 16, item_bytes=4)


@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 1), (2, 4), (4, 4), (5, 16), (16, 16)])
def test_a_bucket_is_the_smallest_with_room(count: int, size: int) -> None:
    assert bucket_of(count, (1, 4, 16)) == size


def test_more_than_there_is_room_for_is_refused(model: Any, head: Any) -> None:
    with pytest.raises(ValueError, match=r"17 at once: expected at most 16, the largest of \(1, 4, 16\)"):
        bucket_of(17, (1, 4, 16))
    step, rng = device_step(model, head, 1), np.random.default_rng(5)
    step.open(0)
    crowded = replace(a_turn(rng, alone=True), text=tuple(range(1, 18)))
    with pytest.raises(ValueError, match="17 at once: expected at most 16"):
        step.turn([0], TurnInputs.of([crowded]), noise_of(0, 1))
