"""A network of ours as the Inkling family publishes its own: `config.json`, and tensors by their names there.

The other direction of `inkling.py`: gate and up rows interleaved, our one matrix of inputs as the four that it was
joined from. Towers and placeholders are left out: they stay in modules of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from model_server.model.config import ModelConfig
from model_server.model.inkling import IN_DENSE_MLP, IN_EXPERTS, IN_LAYER, OUTSIDE

ARCHITECTURE = "InklingForConditionalGeneration"
TRUNK = "trunk.layers."
OURS = ("ears.", "eyes.", "mouth.")
"""Towers and placeholders: the family has no place for some of them, and we keep all of them as they are."""


def config_of_ours(config: ModelConfig) -> dict[str, Any]:
    """`config.json` of a model of this shape, without towers of sound and pictures: those are ours."""
    text = {
        "vocab_size": config.vocabulary,
        "padded_vocab_size": config.vocabulary,
        "unpadded_vocab_size": config.vocabulary_used,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "d_rel": config.bias_rank,
        "rel_extent": config.bias_extent,
        "local_layer_ids": [layer for layer in range(config.layers) if not config.is_global(layer)],
        "sliding_window_size": config.window,
        "swa_num_attention_heads": config.heads,
        "swa_num_key_value_heads": config.kv_heads_sliding,
        "swa_head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        "use_embed_norm": True,
        "use_sconv": True,
        "sconv_kernel_size": config.conv_kernel,
        "dense_mlp_idx": config.dense_layers,
        "dense_intermediate_size": config.dense_width,
        "intermediate_size": config.expert_width,
        "n_routed_experts": config.experts,
        "n_shared_experts": config.shared_experts,
        "num_experts_per_tok": config.experts_chosen,
        "route_scale": config.route_scale,
        "use_gate_bias": True,
        "use_global_scale": True,
        "shared_expert_sink": True,
        "log_scaling_n_floor": config.log_floor,
        "log_scaling_alpha": config.log_alpha,
        "logits_mup_width_multiplier": config.logits_divisor,
        "num_nextn_predict_layers": 0,
    }
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "inkling_mm_model",
        "text_config": text,
        "audio_config": {},
        "vision_config": {},
    }


def published(config: ModelConfig, ours: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of `Interaction` by name, to those of trunk, text and unembedding by their published names.

    `OURS` are left out; `ValueError` for a stranger.
    """
    for name, tensor in ours:
        if name.startswith(TRUNK):
            layer, part = name.removeprefix(TRUNK).split(".", 1)
            yield from _in_layer(config, int(layer), part, tensor)
        elif name in OUTSIDE and not name.startswith(OURS):
            yield OUTSIDE[name], tensor
        elif not name.startswith(OURS):
            raise ValueError(f"{name}: expected a tensor of the interaction model")


def _in_layer(config: ModelConfig, layer: int, part: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    sources = IN_LAYER | (IN_DENSE_MLP if config.is_dense(layer) else IN_EXPERTS)
    if part not in sources:
        raise ValueError(f"{TRUNK}{layer}.{part}: expected one of {', '.join(sources)}")
    if part.endswith("convolution.weight"):
        tensor = tensor.unsqueeze(1)
    if part.endswith("gate_up"):
        tensor = interleaved(tensor)
    names = [f"model.llm.layers.{layer}.{source}" for source in sources[part]]
    yield from zip(names, tensor.split(_rows(config, layer, part, tensor)), strict=True)


def _rows(config: ModelConfig, layer: int, part: str, tensor: Tensor) -> list[int]:
    """Of each of the tensors that were joined into this one."""
    kv = config.kv_heads_of(layer) * config.head_dim
    if part == "attention.inputs.weight":
        return [config.heads * config.head_dim, kv, kv, config.heads * config.bias_rank]
    return [kv, kv] if part == "attention.kv_convolution.weight" else [len(tensor)]


def interleaved(gate_up: Tensor) -> Tensor:
    """All gates, then all ups, to rows gate, up, gate, up ...; along the last dimension but one."""
    gate, up = gate_up.chunk(2, -2)
    return torch.stack([gate, up], -2).flatten(-3, -2)
