"""What a step takes at least: what it must read at the speed of a copy, its products at that of a large one.

    step = sum over its passes [ max(W(N) / bytes, 2 A N / products) + max(B KV / bytes, attention / products) ]

    B   calls of the step       N   B * positions of the pass       KV   keys and values that a call reads
    W   weights that N rows touch: all but the experts that none of them is sent to       A   weights a row meets

Routing is taken as uniform: of E experts N rows touch E (1 - (1 - K / E)^N). Launches, norms, routing, the sound
and the host are not in it: it is a bound, not a prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

from model_server.model.config import ModelConfig
from model_server.model.micro_turn import HEAR_POSITIONS, SPEAK_POSITIONS


@dataclass(frozen=True, slots=True)
class Speeds:
    """Of a device, measured."""

    bytes_a_second: float
    """Read and written by a large copy."""
    flops_a_second: float
    """Of a large product of matrices, in the dtype of the weights."""


def experts_touched(experts: int, chosen: int, rows: int) -> float:
    """Of so many experts, those that at least one row is sent to, on average."""
    return experts * (1 - (1 - chosen / experts) ** rows)


def weight_bytes(config: ModelConfig, rows: int, item_bytes: int) -> float:
    """W: of trunk and unembedding, touched by one pass of so many rows."""
    routed = experts_touched(config.experts, config.experts_chosen, rows)
    return item_bytes * (_trunk_weights(config, routed) + config.vocabulary * config.hidden)


def row_weights(config: ModelConfig) -> float:
    """A: of the trunk, that one row is multiplied with."""
    return _trunk_weights(config, config.experts_chosen)


def kv_bytes(config: ModelConfig, positions: int, item_bytes: int) -> int:
    """KV: of one call with full memory, read by one pass of so many positions of it."""
    return sum(
        2 * config.kv_heads_of(layer) * config.head_dim * (_seen(config, layer) + positions - 1) * item_bytes
        for layer in range(config.layers)
    )


def attention_flops(config: ModelConfig) -> int:
    """Of one position of a call with full memory: scores and weighted values."""
    each = 4 * config.heads * config.head_dim
    return sum(each * _seen(config, layer) for layer in range(config.layers))


def pass_seconds(config: ModelConfig, calls: int, positions: int, speeds: Speeds, item_bytes: int) -> float:
    """One pass of so many positions of each call."""
    rows = calls * positions
    products = 2 * (row_weights(config) * rows + config.vocabulary * config.hidden * calls)
    weights_s = max(
        weight_bytes(config, rows, item_bytes) / speeds.bytes_a_second, products / speeds.flops_a_second
    )
    attended_s = max(
        calls * kv_bytes(config, positions, item_bytes) / speeds.bytes_a_second,
        rows * attention_flops(config) / speeds.flops_a_second,
    )
    return weights_s + attended_s


def step_seconds(
    config: ModelConfig, calls: int, context: int, tokens: int, speeds: Speeds, item_bytes: int
) -> float:
    """A prefill with so many positions of pictures and text, then so many passes of a token."""
    every = HEAR_POSITIONS + SPEAK_POSITIONS
    prefill_s = pass_seconds(config, calls, context + every, speeds, item_bytes)
    return prefill_s + tokens * pass_seconds(config, calls, SPEAK_POSITIONS + 1, speeds, item_bytes)


def _seen(config: ModelConfig, layer: int) -> int:
    """Keys that a position sees, when its call has come far."""
    return config.global_first + config.global_budget if config.is_global(layer) else config.window


def _trunk_weights(config: ModelConfig, routed: float) -> float:
    """Of all layers and the last norm, with so many routed experts."""
    d, total = config.hidden, float(config.hidden)
    for layer in range(config.layers):
        kv = 2 * config.kv_heads_of(layer) * config.head_dim
        inputs = config.heads * (config.head_dim + config.bias_rank) + kv
        total += d * inputs + config.heads * config.head_dim * d  # attention's two matrices
        total += config.bias_rank * config.bias_extent_of(layer)
        total += config.conv_kernel * (kv + 2 * d) + 2 * d + 2 * config.head_dim  # convolutions, norms
        if config.is_dense(layer):
            total += 3 * d * config.dense_width + 1
        else:
            shared = config.shared_experts
            total += (routed + shared) * 3 * d * config.expert_width + (config.experts + shared) * d + 1
    return total
