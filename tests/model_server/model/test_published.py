"""A network of ours in the published layout, read back by the loader of published checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from safetensors.torch import save_file  # noqa: E402

from model_server.model.config import DIGITS, INTERACTION_276B_A12B_RELEASED, ModelConfig  # noqa: E402
from model_server.model.inkling import config_of_inkling, load_inkling, separated  # noqa: E402
from model_server.model.interaction import Interaction  # noqa: E402
from model_server.model.published import OURS, config_of_ours, interleaved, published  # noqa: E402

SMALL = replace(
    DIGITS,
    **dict(name="small", layers=6, global_every=6, hidden=32, heads=4, head_dim=8, dense_width=48),
    **dict(expert_width=24, experts=4, window=24, bias_extent=30, global_first=1024, global_budget=65_536),
    **dict(shared_experts=2, vision_widths=(8, 8, 8), dense_layers=1, log_floor=40),
)


def random_model(seed: int, config: ModelConfig = SMALL) -> Interaction:
    model = Interaction(config)
    model.initialise(seed)
    model.trunk.layers[1].mlp.router.balance.fill_(seed / 8)
    return model


def test_it_is_read_back_as_it_was(tmp_path: Path) -> None:
    ours, back = random_model(1), random_model(2)
    tensors = dict(published(SMALL, ours.state_dict().items()))
    towers = {name: tensor for name, tensor in ours.state_dict().items() if name.startswith(OURS)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    for name, tensor in back.state_dict().items():
        if name in towers:
            tensor.copy_(towers[name])
    back.ears, back.eyes, back.mouth = torch.nn.Module(), torch.nn.Module(), torch.nn.Module()
    assert load_inkling(back, tmp_path) == ()
    for name, tensor in back.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name


def test_the_configuration_is_read_back(tmp_path: Path) -> None:
    for config in (SMALL, INTERACTION_276B_A12B_RELEASED):
        folder = tmp_path / config.name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config_of_ours(config)))
        kept = ("picture_size", "say_limit", "shows_change", "extra_column", "init_std", "vision_widths")
        found = config_of_inkling(folder)
        assert replace(found, **{name: getattr(config, name) for name in kept}) == config


def test_gate_and_up_rows_take_turns() -> None:
    gate_up = torch.arange(12.0).view(2, 6, 1)
    assert interleaved(gate_up)[0].flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(separated(interleaved(gate_up)), gate_up)


def test_a_stranger_is_named() -> None:
    with pytest.raises(ValueError, match="heart.weight: expected a tensor of the interaction model"):
        list(published(SMALL, [("heart.weight", torch.zeros(1))]))
    with pytest.raises(ValueError, match=r"trunk.layers.0.mlp.router.weight: expected one of .*mlp.scale"):
        list(published(SMALL, [("trunk.layers.0.mlp.router.weight", torch.zeros(1))]))
