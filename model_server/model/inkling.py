"""Loads a published checkpoint of the Inkling family (Apache-2.0) into our modules.

A directory has `config.json` and safetensors files, with `model.safetensors.index.json` when there are several.
Gate and up rows of every MLP are interleaved there; queries, keys, values and rho are four matrices, where we have
one. What the family has not (our own speech, network truth, placeholders of speech) keeps the values that it has;
what we have not (multi-token prediction, sound decoder) is left out.

Names: transformers 5.23.0, `conversion_mapping.py`, "inkling_mm_model".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from model_server.model.config import ModelConfig
from model_server.model.interaction import Interaction

OURS = ("ears.own.", "ears.truth", "mouth.")
"""What the family does not have."""
THEIRS = ("model.mtp.", "model.audio.decoder.", "audio.decoder.")
"""What we do not load."""

INDEX = "model.safetensors.index.json"

OUTSIDE = {
    "text.weight": "model.llm.embed.weight",
    "text.norm.weight": "model.llm.embed_norm.weight",
    "trunk.norm.weight": "model.llm.norm.weight",
    "unembedding.weight": "model.llm.unembed.weight",
    "ears.caller.weight": "model.audio.encoder.weight",
    "ears.caller.norm.weight": "model.audio.final_norm.weight",
}
IN_LAYER = {
    "attention_norm.weight": ("attn_norm.weight",),
    "attention.inputs.weight": (
        "attn.wq_du.weight",
        "attn.wk_dv.weight",
        "attn.wv_dv.weight",
        "attn.wr_du.weight",
    ),
    "attention.kv_convolution.weight": ("attn.k_sconv.weight", "attn.v_sconv.weight"),
    "attention.q_norm.weight": ("attn.q_norm.weight",),
    "attention.k_norm.weight": ("attn.k_norm.weight",),
    "attention.profiles": ("attn.rel_logits_proj.proj",),
    "attention.output.weight": ("attn.wo_ud.weight",),
    "attention_convolution.weight": ("attn_sconv.weight",),
    "mlp_norm.weight": ("mlp_norm.weight",),
    "mlp_convolution.weight": ("mlp_sconv.weight",),
}
"""Parts of a layer, and the tensors that are joined into each."""
IN_DENSE_MLP = {
    "mlp.gate_up": ("mlp.w13_dn.weight",),
    "mlp.down": ("mlp.w2_md.weight",),
    "mlp.scale": ("mlp.global_scale",),
}
IN_EXPERTS = {
    "mlp.router.weight": ("mlp.gate.weight",),
    "mlp.router.scale": ("mlp.gate.global_scale",),
    "mlp.router.balance": ("mlp.gate.bias",),
    "mlp.gate_up": ("mlp.experts.w13_weight",),
    "mlp.down": ("mlp.experts.w2_weight",),
    "mlp.shared_gate_up": ("mlp.shared_experts.shared_w13_weight",),
    "mlp.shared_down": ("mlp.shared_experts.shared_w2_weight",),
}


class Shards:
    """Tensors of a directory by name, read when asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if (directory / INDEX).exists():
            self.files: dict[str, str] = json.loads((directory / INDEX).read_text())["weight_map"]
        else:
            with safe_open(directory / "model.safetensors", "pt") as file:
                self.files = dict.fromkeys(file.keys(), "model.safetensors")
        self.read: set[str] = set()

    def __call__(self, name: str) -> Tensor:
        """`ValueError` names what is missing."""
        if name not in self.files:
            raise ValueError(
                f"checkpoint {self.directory}: no tensor {name!r}; expected the layout of Inkling"
            )
        self.read.add(name)
        with safe_open(self.directory / self.files[name], "pt") as file:
            return file.get_tensor(name)


def config_of_inkling(
    directory: Path, *, global_first: int = 1024, global_budget: int = 65_536
) -> ModelConfig:
    """The shape that `config.json` states; `ValueError` for one that our trunk does not have."""
    text: dict[str, Any] = json.loads((directory / "config.json").read_text())["text_config"]
    dense_width = text.get("dense_intermediate_size")
    layers = text["num_hidden_layers"]
    kinds = text.get("mlp_layer_types") or ["dense"] * text["dense_mlp_idx"]
    config = ModelConfig(
        name=directory.name,
        layers=layers,
        hidden=text["hidden_size"],
        heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        kv_heads_sliding=text["swa_num_key_value_heads"],
        head_dim=text["head_dim"],
        window=text["sliding_window_size"],
        bias_rank=text["d_rel"],
        bias_extent=text["rel_extent"],
        conv_kernel=text.get("sconv_kernel_size") or text["conv_kernel_size"],
        dense_layers=kinds.count("dense"),
        dense_width=dense_width or text["intermediate_size"],
        experts=text["n_routed_experts"],
        experts_chosen=text["num_experts_per_tok"],
        shared_experts=text["n_shared_experts"],
        expert_width=text["intermediate_size"] if dense_width else text["moe_intermediate_size"],
        route_scale=text["route_scale"],
        logits_divisor=text["logits_mup_width_multiplier"],
        log_floor=text["log_scaling_n_floor"],
        log_alpha=text["log_scaling_alpha"],
        norm_eps=text["rms_norm_eps"],
        vocabulary=text["vocab_size"],
        vocabulary_used=text["unpadded_vocab_size"] or text["vocab_size"],
        vision_widths=(128, 320, 4800),
        global_first=global_first,
        global_budget=global_budget,
    )
    _check(config, text, kinds)
    return config


def _check(config: ModelConfig, text: dict[str, Any], kinds: list[str]) -> None:
    sliding = {layer for layer in range(config.layers) if not config.is_global(layer)}
    stated = text.get("local_layer_ids")
    if stated is None and text.get("layer_types") is not None:
        stated = [layer for layer, kind in enumerate(text["layer_types"]) if kind == "hybrid_sliding"]
    checks = {
        "every sixth layer global": stated is None or set(stated) == sliding,
        "dense layers first": "dense" not in kinds[config.dense_layers :],
        "as many heads in sliding layers": text["swa_num_attention_heads"] == config.heads,
        "heads as wide in sliding layers": text["swa_head_dim"] == config.head_dim,
    }
    for expected, holds in checks.items():
        if not holds:
            raise ValueError(f"checkpoint {config.name}: expected {expected}; this trunk has no other form")


def load_inkling(model: Interaction, directory: Path) -> tuple[str, ...]:
    """Fill `model`; returns the tensors of the checkpoint that nothing asked for, `THEIRS` left out.

    `ValueError` when a tensor is missing or has another shape.
    """
    shards = Shards(directory)
    with torch.no_grad():
        for name, target in model.state_dict().items():
            if not name.startswith(OURS):
                _fill(name, target, _tensor(name, shards, model.config))
    return tuple(name for name in sorted(set(shards.files) - shards.read) if not name.startswith(THEIRS))


def _fill(name: str, target: Tensor, source: Tensor) -> None:
    if name in ("text.weight", "unembedding.weight"):  # may be stored without the padding of the vocabulary
        target[source.shape[0] :] = 0
        target = target[: source.shape[0]]
    if target.shape != source.shape:
        raise ValueError(f"{name}: the checkpoint has {list(source.shape)}, expected {list(target.shape)}")
    target.copy_(source)


def _tensor(name: str, shards: Shards, config: ModelConfig) -> Tensor:
    """The tensor of that name in our modules, put together from the checkpoint's."""
    if not name.startswith("trunk.layers."):
        return shards(_outside(name, config))
    layer, part = name.removeprefix("trunk.layers.").split(".", 1)
    sources = IN_LAYER | (IN_DENSE_MLP if config.is_dense(int(layer)) else IN_EXPERTS)
    tensor = torch.cat([shards(f"model.llm.layers.{layer}.{source}") for source in sources[part]])
    if part.endswith("convolution.weight"):
        return tensor.squeeze(1)
    return separated(tensor) if part.endswith("gate_up") else tensor


def separated(w13: Tensor) -> Tensor:
    """Rows gate, up, gate, up ... to all gates, then all ups; along the last dimension but one."""
    return torch.cat([w13[..., 0::2, :], w13[..., 1::2, :]], -2)


def _outside(name: str, config: ModelConfig) -> str:
    """The name in the checkpoint of what lies outside the layers."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, group, number, _ = name.split(".")  # eyes.projections.N.weight, eyes.norms.N.weight
    if group == "norms" and int(number) == len(config.vision_widths):
        return "model.visual.final_norm.weight"
    return f"model.visual.layers.{'linear' if group == 'projections' else 'norm'}_{number}.weight"
