"""The whole model: what it streams turn by turn is what it computes from a whole conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.model.config import DIGITS  # noqa: E402
from model_server.model.inputs import Conversations, TurnInputs  # noqa: E402
from model_server.model.interaction import Interaction, likeliest  # noqa: E402
from model_server.model.micro_turn import Kind, MicroTurn  # noqa: E402
from model_server.model.vocabulary import END, SIZE  # noqa: E402

SMALL = replace(
    DIGITS,
    **dict(
        name="small", hidden=32, heads=4, head_dim=8, dense_width=48, expert_width=24, experts=4, window=24
    ),
    **dict(
        bias_extent=30, global_first=7, global_budget=60, log_floor=20, log_alpha=0.3, vision_widths=(8, 8, 8)
    ),
)
CLOSE = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def model() -> Any:
    made = Interaction(SMALL)
    made.initialise(seed=11)
    generator = torch.Generator().manual_seed(12)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.2
    return made.eval()


def conversation(turns: int, seed: int) -> list[MicroTurn]:
    rng = np.random.default_rng(seed)

    def some(limit: int) -> tuple[int, ...]:
        return tuple(int(token) for token in rng.integers(1, SIZE, rng.integers(0, limit + 1)))

    return [
        MicroTurn(
            heard=rng.integers(0, 16, (4, 80), dtype=np.uint8),
            own=rng.integers(0, 16, (4, 80), dtype=np.uint8),
            truth=rng.integers(0, 4, 4).astype(np.uint8),
            patches=rng.normal(size=(6, 2, 40, 40, 3)).astype(np.float32) if rng.random() < 0.3 else None,
            text=some(40) if rng.random() < 0.2 else (),
            say=some(SMALL.say_limit),
        )
        for _ in range(turns)
    ]


def streamed(model: Any, calls: list[list[MicroTurn]], rows: list[int]) -> tuple[list[Any], list[Any]]:
    """Logits where a token is to be predicted, and hidden rows of speech, of each call, teacher forced."""
    state = model.state(max(rows) + 1)
    for row in rows:
        state.open(row)
    logits: list[list[Any]] = [[] for _ in calls]
    hidden: list[list[Any]] = [[] for _ in calls]
    for turn in range(max(map(len, calls))):
        live = [c for c, call in enumerate(calls) if turn < len(call)]
        to_say = [[*calls[c][turn].say, END] for c in live]

        def forced(given: Any, writing: Sequence[int], live: Any = live, to_say: Any = to_say) -> Any:
            for b, row in zip(writing, given, strict=True):
                logits[live[b]].append(row)
            return torch.tensor([to_say[b].pop(0) for b in writing])

        inputs = TurnInputs.of([calls[c][turn] for c in live])
        spoken = model.turn(state, [rows[c] for c in live], inputs, forced)
        assert [tuple(tokens) for tokens in spoken.tokens] == [calls[c][turn].say for c in live]
        for c, of_turn in zip(live, spoken.hidden, strict=True):
            hidden[c].append(of_turn)
    return [torch.stack(rows) for rows in logits], [torch.cat(rows) for rows in hidden]


def test_streamed_equals_whole_for_calls_of_different_lengths_and_turns(model: Any) -> None:
    calls = [conversation(turns, seed) for turns, seed in ((30, 1), (7, 2), (40, 3))]
    batch = Conversations.of(calls, SMALL)
    with torch.no_grad():
        whole = model.whole(batch)
        logits, hidden = streamed(model, calls, rows=[3, 0, 2])
    for c in range(3):
        torch.testing.assert_close(logits[c], model.logits(whole[c][batch.targets[c] >= 0]), **CLOSE)
        torch.testing.assert_close(hidden[c], whole[c][batch.where(Kind.SPEAK)[c]], **CLOSE)


def test_a_turn_writes_what_the_whole_would_have_written(model: Any) -> None:
    calls = [conversation(6, seed) for seed in (4, 5, 6)]
    state = model.state(3)
    for row in range(3):
        state.open(row)
    said: list[list[MicroTurn]] = [[], [], []]
    given = []
    with torch.no_grad():
        for turn in range(6):
            spoken = model.turn(state, [0, 1, 2], TurnInputs.of([call[turn] for call in calls]))
            given.append(spoken.hidden)
            for c, tokens in enumerate(spoken.tokens):
                assert END not in tokens and len(tokens) <= SMALL.say_limit
                said[c].append(replace(calls[c][turn], say=tuple(tokens)))
        batch = Conversations.of(said, SMALL)
        whole = model.whole(batch)
    for c in range(3):
        expected = whole[c][batch.where(Kind.SPEAK)[c]]
        torch.testing.assert_close(torch.cat([hidden[c] for hidden in given]), expected, **CLOSE)
        at = batch.targets[c] >= 0
        assert torch.equal(likeliest(model.logits(whole[c][at]), []), batch.targets[c][at])


def test_calls_write_until_their_end_or_the_limit(model: Any) -> None:
    state = model.state(3)
    for row in range(3):
        state.open(row)
    wanted = {0: [END], 1: [7, END], 2: [7, 8, 9, 10]}
    asked: list[list[int]] = []

    def choose(logits: Any, writing: Sequence[int]) -> Any:
        asked.append(list(writing))
        return torch.tensor([wanted[b][len(asked) - 1] for b in writing])

    with torch.no_grad():
        spoken = model.turn(state, [0, 1, 2], TurnInputs.of([conversation(1, 7)[0]] * 3), choose)
    assert spoken.tokens == [[], [7], [7, 8, 9]] and asked == [[0, 1, 2], [1, 2], [2]]
    assert (state.positions - state.positions[0]).tolist() == [0, 1, 3]


def test_training_reaches_every_weight(model: Any) -> None:
    batch = Conversations.of([conversation(25, 8), conversation(12, 9)], SMALL)
    hidden = model.whole(batch)
    at = batch.targets >= 0
    loss = torch.nn.functional.cross_entropy(model.logits(hidden[at]), batch.targets[at])
    loss = loss + hidden[batch.where(Kind.SPEAK)].square().mean()
    model.zero_grad()
    loss.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    still = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.any()]
    model.zero_grad()
    assert idle == [] and still == []


def test_what_follows_a_conversation_in_a_batch_is_nothing(model: Any) -> None:
    short, long = conversation(5, 10), conversation(30, 11)
    with torch.no_grad():
        together = model.whole(Conversations.of([short, long], SMALL))
        alone = model.whole(Conversations.of([short], SMALL))
    torch.testing.assert_close(together[0, : alone.shape[1]], alone[0], **CLOSE)


def test_a_seed_makes_the_same_weights() -> None:
    made = [Interaction(SMALL) for _ in range(3)]
    for model, seed in zip(made, (1, 1, 2), strict=True):
        model.initialise(seed)
    states = [torch.cat([p.flatten() for p in model.parameters()]) for model in made]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
