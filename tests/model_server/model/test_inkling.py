"""A checkpoint in the published layout, written by transformers, read by us."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the model needs the extra: pip install 'microturn[torch]'")

from safetensors.torch import load_file, save_file  # noqa: E402

from model_server.model.config import INTERACTION_276B_A12B_RELEASED  # noqa: E402
from model_server.model.inkling import INDEX, OURS, config_of_inkling, load_inkling, separated  # noqa: E402
from model_server.model.interaction import Interaction  # noqa: E402
from tests.model_server.model.family import Family  # noqa: E402

PUBLISHED = {
    "text_config": {
        **dict(num_hidden_layers=42, hidden_size=4096, num_attention_heads=32, num_key_value_heads=8),
        **dict(swa_num_attention_heads=32, swa_num_key_value_heads=8, head_dim=128, swa_head_dim=128),
        **dict(sliding_window_size=512, d_rel=16, rel_extent=1024, sconv_kernel_size=4, dense_mlp_idx=2),
        **dict(dense_intermediate_size=16384, intermediate_size=2048, n_routed_experts=256),
        **dict(num_experts_per_tok=6, n_shared_experts=2, route_scale=8.0, logits_mup_width_multiplier=16.0),
        **dict(log_scaling_n_floor=128000, log_scaling_alpha=0.1, rms_norm_eps=1e-6, vocab_size=201024),
        **dict(unpadded_vocab_size=200058),
    }
}


def directory_of(tmp_path: Path, config: dict[str, Any]) -> Path:
    directory = tmp_path / INTERACTION_276B_A12B_RELEASED.name
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_the_published_configuration_is_ours(tmp_path: Path) -> None:
    assert config_of_inkling(directory_of(tmp_path, PUBLISHED)) == INTERACTION_276B_A12B_RELEASED


@pytest.mark.parametrize(
    "other", [{"swa_head_dim": 64}, {"swa_num_attention_heads": 64}, {"local_layer_ids": [0, 1, 2, 4, 5]}]
)
def test_a_shape_that_the_trunk_has_not_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    config = {"text_config": {**PUBLISHED["text_config"], **other}}
    with pytest.raises(ValueError, match="this trunk has no other form"):
        config_of_inkling(directory_of(tmp_path, config))


def test_the_checkpoint_says_the_shape(family: Family) -> None:
    config = family.ours.config
    assert (config.layers, config.window, config.bias_extent, config.log_floor) == (7, 24, 40, 20)
    assert (config.dense_layers, config.dense_width, config.expert_width, config.experts) == (1, 96, 48, 8)
    assert (config.kv_heads, config.kv_heads_sliding, config.vocabulary, config.vocabulary_used) == (
        2,
        4,
        300,
        290,
    )


def test_what_the_family_has_not_keeps_its_values(family: Family) -> None:
    first = Interaction(family.ours.config)
    first.initialise(seed=1)
    for (name, value), loaded in zip(
        first.state_dict().items(), family.ours.state_dict().values(), strict=True
    ):
        assert torch.equal(value, loaded) == name.startswith(OURS), name


def test_gate_and_up_rows_are_separated() -> None:
    w13 = torch.tensor([[1], [10], [2], [20], [3], [30]])
    assert separated(w13).flatten().tolist() == [1, 2, 3, 10, 20, 30]
    assert separated(torch.stack([w13, -w13])).shape == (2, 6, 1)


def test_several_files_without_padding_and_with_more_than_we_need(family: Family, tmp_path: Path) -> None:
    tensors = load_file(family.directory / "model.safetensors")
    tensors["model.llm.unembed.weight"] = tensors["model.llm.unembed.weight"][:290].clone()
    tensors["model.mtp.layers.0.attn_norm.weight"] = torch.zeros(1)
    tensors["model.visual.surprise"] = torch.zeros(1)
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    weights = {name: file for file, part in files.items() for name in part}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weights}))
    model = Interaction(family.ours.config)
    model.initialise(seed=1)
    assert load_inkling(model, tmp_path) == ("model.visual.surprise",)
    for name, value in family.ours.state_dict().items():
        cut = slice(290) if name == "unembedding.weight" else slice(None)
        assert torch.equal(model.state_dict()[name][cut], value[cut]), name


def test_what_is_missing_or_misshapen_is_named(family: Family, tmp_path: Path) -> None:
    shutil.copy(family.directory / "config.json", tmp_path)
    tensors = load_file(family.directory / "model.safetensors")
    gone = tensors.pop("model.llm.layers.3.attn.wr_du.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    model = Interaction(family.ours.config)
    with pytest.raises(ValueError, match="layers.3.attn.wr_du.weight"):
        load_inkling(model, tmp_path)
    save_file({**tensors, "model.llm.layers.3.attn.wr_du.weight": gone[1:]}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="trunk.layers.3.attention.inputs.weight"):
        load_inkling(model, tmp_path)
