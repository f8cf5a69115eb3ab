"""The trunk against transformers' Inkling: the same random weights, float32, sequences beyond every limit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.model_server.model.family import Family

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from model_server.model import attention  # noqa: E402
from model_server.model.band import HIDDEN, Block, blocks  # noqa: E402
from model_server.model.mlp import Experts  # noqa: E402
from model_server.model.router import Route, Router  # noqa: E402

TOLERANCE = 1e-4
"""Of the largest logit. Ours differ by 3e-6 to 4e-6 of it; the smallest of the mistakes below by 0.28."""


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def difference(ours: Any, theirs: Any) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def truth(family: Family, ids: Any, levels: Any, patches: Any) -> Any:
    return family.theirs(input_ids=ids[None], audio_input_ids=levels[None], pixel_values=patches).logits[0]


def whole(model: Any, family: Family, sequence: tuple[Any, Any, Any]) -> Any:
    return model.logits(model.trunk.whole(family.rows(*sequence, ours=model)))[0]


def streamed(family: Family, sequence: tuple[Any, Any, Any], sizes: list[int], piece_limit: int = 16) -> Any:
    x = family.rows(*sequence)
    state = family.ours.state(1, piece_limit)
    state.open(0)
    parts, start = [], 0
    while start < x.shape[1]:
        part = x[:, start : start + sizes[len(parts) % len(sizes)]]
        parts.append(family.ours.trunk.append(part, state, [0]))
        start += part.shape[1]
    return family.ours.logits(torch.cat(parts, 1))[0]


def test_a_whole_sequence_equals_the_family(family: Family) -> None:
    sequence = family.sequence(turns=60, seed=1)  # 600 positions, more than two blocks of queries
    assert difference(whole(family.ours, family, sequence), truth(family, *sequence)) < TOLERANCE


def test_fifty_turns_appended_equal_the_family_appended(family: Family) -> None:
    from transformers import DynamicCache

    ids, levels, patches = family.sequence(turns=50, seed=2)
    past = DynamicCache(config=family.theirs.config.get_text_config())
    theirs = [
        family.theirs(
            input_ids=ids[None, 10 * turn : 10 * turn + 10],
            audio_input_ids=levels[None, 4 * turn : 4 * turn + 4],
            pixel_values=patches[2 * turn : 2 * turn + 2],
            past_key_values=past,
            use_cache=True,
        ).logits[0]
        for turn in range(50)
    ]
    ours = streamed(family, (ids, levels, patches), [10])
    assert difference(ours, torch.cat(theirs)) < TOLERANCE
    assert difference(ours, truth(family, ids, levels, patches)) < TOLERANCE


@pytest.mark.parametrize("sizes", [[1], [1, 3, 10, 7, 2, 5, 1, 1], [40, 1, 9]])
def test_pieces_of_any_size_equal_the_family(family: Family, sizes: list[int]) -> None:
    sequence = family.sequence(turns=14, seed=3)
    assert difference(streamed(family, sequence, sizes), truth(family, *sequence)) < TOLERANCE


def test_the_same_weights_do_choose_different_experts(family: Family) -> None:
    chosen: list[Any] = []
    family.ours.trunk.whole(family.rows(*family.sequence(turns=14, seed=3)), chosen)
    assert len(chosen) == 6 and all(len(experts.unique()) > 3 for experts in chosen)


# A tolerance is worth what it catches: each of these is a mistake that one may make from the formulas.


def window_one_longer(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        attention, "blocks", lambda count, window, *rest: blocks(count, window and window + 1, *rest)
    )


def bias_of_the_last_distance_beyond_it(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in model.trunk.layers:
        profiles = layer.attention.profiles
        layer.attention.profiles = torch.nn.Parameter(
            torch.cat([profiles, profiles[:, -1:].expand(-1, 1000)], 1)
        )


def square_root_of_the_width(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in model.trunk.layers:
        layer.attention.q_norm.weight *= 4


def no_tau(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention.torch.Tensor, "log", torch.Tensor.zero_)


def tau_on_the_content_only(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project = attention.Attention._project

    def without(self: Any, x: Any, past: Any, positions: Any) -> Any:
        q, k, v, rho, rows = project(self, x, past, positions)
        _, _, _, plain, _ = project(self, x, past, torch.zeros_like(positions))
        return q, k, v, plain, rows

    monkeypatch.setattr(attention.Attention, "_project", without)


def no_residual_in_convolutions(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in model.trunk.layers:
        layer.mlp_convolution.weight[:, -1] -= 1


def keys_and_values_swapped_in_the_convolution(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in model.trunk.layers:
        layer.attention.kv_convolution.weight.copy_(layer.attention.kv_convolution.weight.roll(16, 0))


def routes(change: Callable[[Router, Any, Route], Route]) -> Callable[[Any, pytest.MonkeyPatch], None]:
    forward = Router.forward

    def mutate(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Router, "forward", lambda self, x: change(self, x, forward(self, x)))

    return mutate


def without_balance(router: Router, x: Any, route: Route) -> Route:
    scores = (x @ router.weight[: router.experts].T).sigmoid()
    chosen = scores.topk(router.chosen).indices
    return Route(chosen, route.weights_NK, route.shared_NS)


def over_routed_alone(router: Router, x: Any, route: Route) -> Route:
    total = router.route_scale * router.scale
    return Route(
        route.experts_NK,
        route.weights_NK / route.weights_NK.sum(1, keepdim=True) * total,
        route.shared_NS / route.shared_NS.sum(1, keepdim=True) * total,
    )


def gate_and_up_interleaved(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in model.trunk.layers:
        if isinstance(layer.mlp, Experts):
            gate, up = layer.mlp.gate_up.chunk(2, 1)
            layer.mlp.gate_up.copy_(torch.stack([gate, up], 2).flatten(1, 2))


MISTAKES = {
    "window": window_one_longer,
    "bias beyond": bias_of_the_last_distance_beyond_it,
    "1/sqrt": square_root_of_the_width,
    "no tau": no_tau,
    "tau on content": tau_on_the_content_only,
    "no residual": no_residual_in_convolutions,
    "kv channels": keys_and_values_swapped_in_the_convolution,
    "no balance": routes(without_balance),
    "routed alone": routes(over_routed_alone),
    "interleaved": gate_and_up_interleaved,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_tolerance_catches(family: Family, mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = family.sequence(turns=14, seed=4)
    expected = truth(family, *sequence)
    model = copy.deepcopy(family.ours)
    assert difference(whole(model, family, sequence), expected) < TOLERANCE
    MISTAKES[mistake](model, monkeypatch)
    assert difference(whole(model, family, sequence), expected) > 10 * TOLERANCE


def test_a_block_of_queries_sees_what_the_definition_says() -> None:
    for window, first, budget in ((7, 0, 0), (None, 3, 20), (None, 0, 400)):
        columns = 40 if window is None else window
        bias = torch.randn(600, columns)
        for block in blocks(600, window, first, budget):
            got = bias_by_key(block, bias)
            for query in range(block.queries.start, block.queries.stop, 37):
                for key in range(0, query + 1):
                    distance = query - key
                    seen = distance < window if window else distance < budget or key < first
                    expected = HIDDEN if not seen else bias[query, distance] if distance < columns else 0
                    at = (
                        got[query - block.queries.start, key - block.keys.start]
                        if key >= block.keys.start
                        else None
                    )
                    assert at == expected if at is not None else not seen, (window, query, key)


def bias_by_key(block: Block, bias: Any) -> Any:
    """The block's bias where query t mixes profiles with row t of the identity: `bias[t, e]` at distance e."""
    rho = torch.eye(len(bias))[block.queries]
    return block.bias(rho[None, None], bias)[0, 0]
