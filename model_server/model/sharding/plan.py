"""Tensor and expert parallelism as data: what each rank holds of every parameter.

    heads        query heads, and the KV heads that they read, in equal runs: rank 0 the first ones
    inputs       cut by row within queries, keys, values and rho each; outputs by column, so that ranks' sums add up
    dense MLP    gate and up by row, down by column; shared experts too
    experts      routed ones in equal runs of whole experts; every rank routes every row itself
    unembedding  by token; the logits are gathered
    whole        norms, routers, profiles, convolutions behind a sum, embeddings and towers

Between two sums a rank has the same rows as any other, so the state that is not keys and values is the same too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from model_server.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Cut:
    """A parameter lies in blocks along one axis; each block is cut into equal parts, one for each rank."""

    axis: int
    blocks: tuple[int, ...]
    """Lengths; they add up to the parameter's own along the axis."""


@dataclass(frozen=True, slots=True)
class ShardingPlan:
    """Of one configuration for so many ranks; made by `plan_of`."""

    config: ModelConfig
    """Of the whole model."""
    ranks: int
    cuts: Mapping[str, Cut]
    """By the parameter's name in `Interaction`; what is not here is whole everywhere."""

    @property
    def rank_config(self) -> ModelConfig:
        """The sizes of what one rank computes by itself; its router still knows all experts."""
        config = self.config
        return replace(
            config,
            heads=config.heads // self.ranks,
            kv_heads=config.kv_heads // self.ranks,
            kv_heads_sliding=config.kv_heads_sliding // self.ranks,
            dense_width=config.dense_width // self.ranks,
        )

    def heads_of(self, rank: int) -> range:
        """Query heads."""
        return self._run(self.config.heads, rank)

    def kv_heads_of(self, rank: int, layer: int) -> range:
        """KV heads of that layer."""
        return self._run(self.config.kv_heads_of(layer), rank)

    def experts_of(self, rank: int) -> range:
        """Routed experts."""
        return self._run(self.config.experts, rank)

    @property
    def sums_a_pass(self) -> int:
        """All-reduces of one pass through the trunk."""
        return 2 * self.config.layers

    def _run(self, count: int, rank: int) -> range:
        each = count // self.ranks
        return range(rank * each, (rank + 1) * each)


def plan_of(config: ModelConfig, ranks: int) -> ShardingPlan:
    """`ValueError` names what cannot be divided among so many ranks."""
    divided = {
        "kv_heads": config.kv_heads,
        "kv_heads_sliding": config.kv_heads_sliding,
        "heads": config.heads,
        "dense_width": config.dense_width,
        "experts": config.experts,
        "expert_width": config.expert_width,
        "vocabulary": config.vocabulary,
    }
    if ranks < 1:
        raise ValueError(f"ranks = {ranks}: expected at least 1")
    for name, size in divided.items():
        if size % ranks:
            raise ValueError(
                f"ranks = {ranks}: {config.name} has {name} = {size}, expected a multiple of the ranks; "
                "take fewer ranks"
            )
    cuts = dict(_cuts(config)) if ranks > 1 else {}
    return ShardingPlan(config, ranks, cuts)


def _cuts(config: ModelConfig) -> Iterator[tuple[str, Cut]]:
    yield "unembedding.weight", Cut(0, (config.vocabulary,))
    for layer in range(config.layers):
        prefix = f"trunk.layers.{layer}"
        yield from _attention(config, layer, f"{prefix}.attention")
        yield from (
            _dense(config, f"{prefix}.mlp") if config.is_dense(layer) else _experts(config, f"{prefix}.mlp")
        )


def _attention(config: ModelConfig, layer: int, prefix: str) -> Iterator[tuple[str, Cut]]:
    queries = config.heads * config.head_dim
    kv = config.kv_heads_of(layer) * config.head_dim
    yield f"{prefix}.inputs.weight", Cut(0, (queries, kv, kv, config.heads * config.bias_rank))
    yield f"{prefix}.kv_convolution.weight", Cut(0, (kv, kv))
    yield f"{prefix}.output.weight", Cut(1, (queries,))


def _dense(config: ModelConfig, prefix: str) -> Iterator[tuple[str, Cut]]:
    yield f"{prefix}.gate_up", Cut(0, (config.dense_width,) * 2)
    yield f"{prefix}.down", Cut(1, (config.dense_width,))


def _experts(config: ModelConfig, prefix: str) -> Iterator[tuple[str, Cut]]:
    yield f"{prefix}.gate_up", Cut(0, (config.experts,))
    yield f"{prefix}.down", Cut(0, (config.experts,))
    yield f"{prefix}.shared_gate_up", Cut(1, (config.expert_width,) * 2)
    yield f"{prefix}.shared_down", Cut(2, (config.expert_width,))
