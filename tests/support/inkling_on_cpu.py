"""SGLang's own Inkling on a CPU: its modules, layout of weights and order of things; what it has for GPUs only in
reference forms. For tests; nothing here is quick.

    kernels      triton and CUDA: gate, mixture of experts, gated products, short convolutions, scaling by position
    attention    triton with `relative_bias_score_mod`, over pages: here over a list of keys and values a request
    states       its pool of convolution states, bfloat16: here float32
    platform     it insists on a pool that can take snapshots of such states, which SGLang has for GPUs only

The package of FA4 is left out, since importing it needs CUTLASS: with triton as its back end Inkling does without.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CUTE = "sglang.kernels.ops.attention.flash_attn.cute"
LLAMA = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=32, intermediate_size=32,
    num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=8, vocab_size=100,
    max_position_embeddings=512, torch_dtype="float32",
)  # fmt: skip
"""What SGLang's settings are resolved for: for Inkling it refuses to, on a CPU."""


@contextmanager
def on_cpu(folder: Path) -> Iterator[Any]:
    """SGLang's module `models.inkling`, ready to make models. This process is then good for nothing else."""
    import sglang

    package = types.ModuleType(CUTE)
    package.__path__ = [str(Path(sglang.__file__).parent.joinpath(*CUTE.split(".")[1:]))]
    sys.modules[CUTE] = package
    inkling = importlib.import_module("sglang.srt.models.inkling")
    from sglang.srt.runtime_context import get_exec

    _settle(folder)
    _replace_kernels()
    with get_exec().mamba.override(enable_mamba_extra_buffer=True):
        yield inkling


def _settle(folder: Path) -> None:
    """Settings and groups of one process, as SGLang's scheduler makes them."""
    from sglang.srt.distributed.parallel_state import init_distributed_environment, initialize_model_parallel
    from sglang.srt.runtime_context import SpawnRanks, publish
    from sglang.srt.server_args import ServerArgs

    (folder / "config.json").write_text(json.dumps(LLAMA))
    settings = dict(
        device="cpu", dtype="float32", attention_backend="torch_native", sampling_backend="pytorch"
    )
    more = dict(disable_overlap_schedule=True, disable_cuda_graph=True, skip_tokenizer_init=True)
    publish(
        ServerArgs(model_path=str(folder), moe_runner_backend="triton", **settings, **more),
        role="scheduler",
        ranks=SpawnRanks(world_rank=0),
    )
    alone = (folder / "group").as_uri()
    init_distributed_environment(
        world_size=1, rank=0, local_rank=0, backend="gloo", distributed_init_method=alone
    )
    initialize_model_parallel(backend="gloo")


def _replace_kernels() -> None:
    from sglang.kernels.ops.moe import inkling_moe
    from sglang.srt.models.inkling_common import attn, dense_mlp, moe, sconv

    for name in ("swiglu", "_sum_dim0"):  # as they are written, not compiled
        setattr(dense_mlp, name, inspect.unwrap(getattr(dense_mlp, name)))
    moe._FP32_GEMM_UPCAST = True  # torch.mm has no out_dtype on a CPU
    moe.gate_topk = gate_topk
    moe.moe_tp_forward = moe_tp_forward
    inkling_moe.silu_and_mul_triton = silu_and_mul
    attn._apply_log_scaling_tau = apply_log_scaling_tau
    sconv.causal_conv1d = causal_conv1d
    sconv.update_sconv_cache = update_sconv_cache
    sconv.fused_causal_conv1d_update_decode = fused_causal_conv1d_update_decode


def gate_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The largest k of each row, and where they are, int32."""
    values, indices = torch.topk(x, k, -1)
    return values, indices.int()


def silu_and_mul(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Rows gate, up, gate, up ... [N, 2f] to SiLU(gate) * up [N, f], each row by its weight."""
    y = F.silu(x[..., 0::2].float()) * x[..., 1::2].float()
    return (y if weights is None else y * weights[:, None].float()).to(x.dtype)


def moe_tp_forward(
    x: Tensor, weights_NK: Tensor, ids_NK: Tensor, w13: Tensor, w2: Tensor, *biases: Any, **named: Any
) -> Tensor:
    """Every row through its K experts, one after another."""
    out = torch.zeros_like(x)
    for row, (weights, ids) in enumerate(zip(weights_NK, ids_NK.long().tolist(), strict=True)):
        for weight, expert in zip(weights, ids, strict=True):
            out[row] += weight * (w2[expert] @ silu_and_mul(w13[expert] @ x[row]))
    return out


def apply_log_scaling_tau(x: Tensor, tau: Tensor) -> Tensor:
    """`x` by the scale of its position."""
    return (x.float() * tau).to(x.dtype)


def causal_conv1d(
    x: Tensor, weight: Tensor, sconv_cache: Tensor, cache_mask: Tensor, safe_idx: Tensor, cu: Tensor, si: Tensor,
    activation: str | None = None, use_residual: bool = True, is_decode: bool = False,
) -> Tensor:  # fmt: skip
    """Sequences one behind another, x [N, D]; before each stand the rows of its state, or zeros."""
    assert activation is None and use_residual
    parts = []
    for b in range(len(cu) - 1):
        here = x[cu[b] : cu[b + 1]]
        rows = torch.cat([sconv_cache[safe_idx[b]] * cache_mask[b].view(1, 1).to(x.dtype), here])
        parts.append(here + (rows.unfold(0, weight.shape[1], 1) * weight).sum(-1))
    return torch.cat(parts)


def update_sconv_cache(
    x: Tensor, sconv_cache: Tensor, cache_indices: Tensor, has_initial_state: Tensor, query_start_loc: Tensor
) -> None:
    """The newest rows of each sequence become its state."""
    kept = sconv_cache.shape[1]
    for b, slot in enumerate(cache_indices.tolist()):
        before = sconv_cache[slot] if has_initial_state[b] else torch.zeros_like(sconv_cache[slot])
        rows = torch.cat([before, x[query_start_loc[b] : query_start_loc[b + 1]]])
        sconv_cache[slot] = rows[-kept:].clone()


def fused_causal_conv1d_update_decode(
    x: Tensor, weight: Tensor, sconv_cache: Tensor, cache_indices: Tensor, cache_mask: Tensor, **named: Any
) -> Tensor:
    """One row a sequence; `update_sconv_cache` behind it."""
    starts = torch.arange(len(x) + 1)
    whole = torch.ones(len(x), 1, 1, dtype=torch.bool)
    y = causal_conv1d(x, weight, sconv_cache, whole, cache_indices, starts, starts)
    update_sconv_cache(x, sconv_cache, cache_indices, whole.view(-1), starts)
    return y


@dataclass
class Backend:
    """What Inkling asks of an attention back end, for one batch after another. Requests are slots of its states."""

    config: Any
    """Of SGLang: `InklingModelConfig`."""
    slots: int = 8
    prefill_attention_backend_str: str = "triton"
    decode_attention_backend_str: str = "triton"
    keys: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    """(layer, slot) -> keys, values [S, G, D]"""
    states: list[list[Tensor]] = field(default_factory=list)
    """By stream and layer, [slots, k - 1, channels]."""

    def __post_init__(self) -> None:
        shapes = self.config.mamba2_cache_params.shape.conv
        layers = range(self.config.num_hidden_layers)
        self.states = [[torch.zeros(self.slots, *shape) for _ in layers] for shape in shapes]

    def batch(self, slots: Sequence[int], counts: Sequence[int], begun: Sequence[int]) -> Any:
        """A pass that appends so many positions to each of these requests, which have so many."""
        from sglang.srt.model_executor.forward_batch_info import (
            CaptureHiddenMode,
            ForwardBatch,
            ForwardMode,
        )

        is_decode = set(counts) == {1} and all(begun)
        starts = torch.tensor([0, *counts]).cumsum(0)
        has = torch.tensor([start > 0 for start in begun])
        self._slots, self._starts = list(slots), starts.tolist()
        self._meta = SimpleNamespace(
            cache_indices=torch.tensor(slots),
            query_start_loc=starts,
            has_initial_state=has,
            precomputed=dict(
                cache_mask=has.view(-1, 1, 1), safe_idx=torch.tensor(slots), cu=starts, si=starts[:0]
            ),
            track_conv_indices=None,
            track_cache_indices=None,
        )
        positions = torch.cat([torch.arange(at, at + count) for at, count in zip(begun, counts, strict=True)])
        lengths = torch.tensor([at + count for at, count in zip(begun, counts, strict=True)])
        return ForwardBatch(
            forward_mode=ForwardMode.DECODE if is_decode else ForwardMode.EXTEND,
            batch_size=len(slots),
            input_ids=torch.zeros(len(positions), dtype=torch.long),
            req_pool_indices=torch.tensor(slots),
            seq_lens=lengths,
            out_cache_loc=torch.arange(len(positions)),
            seq_lens_sum=int(lengths.sum()),
            positions=positions,
            extend_seq_lens=torch.tensor(counts),
            extend_seq_lens_cpu=list(counts),
            extend_prefix_lens=torch.tensor(begun),
            capture_hidden_mode=CaptureHiddenMode.NULL,
        )

    def conv_state_metadata(self, layer_id: int, batch: Any) -> Any:
        """Where states are and whose."""
        return self._meta

    def sconv_state(self, *, layer_id: int, stream: int) -> Tensor:
        """[slots, k - 1, channels]."""
        return self.states[stream][layer_id]

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, layer: Any, batch: Any, save_kv_cache: bool,
        score_mod: Any = None, aux_tensors: Sequence[Tensor] = (),
    ) -> Tensor:  # fmt: skip
        """Attention with a bias by distance, `aux_tensors[0]` [N, H, extent]; causal, by the layer's window."""
        (bias,) = aux_tensors
        q = q.view(len(q), layer.tp_q_head_num, layer.head_dim)
        out = torch.empty_like(q)
        for b, slot in enumerate(self._slots):
            here = slice(self._starts[b], self._starts[b + 1])
            kept = self.keys.get((layer.layer_id, slot), (k[:0], v[:0]))
            keys, values = (torch.cat([old, new[here]]) for old, new in zip(kept, (k, v), strict=True))
            self.keys[layer.layer_id, slot] = keys, values
            group = layer.tp_q_head_num // layer.tp_k_head_num
            keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
            queries = q[here]
            distance = torch.arange(len(keys))[-len(queries) :, None] - torch.arange(len(keys))[None]
            near = distance.clamp(0, bias.shape[2] - 1)[:, None].expand(-1, queries.shape[1], -1)
            biased = bias[here].gather(2, near) * ((distance >= 0) & (distance < bias.shape[2]))[:, None]
            hidden = distance < 0
            if layer.sliding_window_size > 0:
                hidden |= distance > layer.sliding_window_size
            scores = torch.einsum("thd,shd->ths", queries, keys) * layer.scaling + biased
            weights = scores.masked_fill(hidden[:, None], -torch.inf).softmax(-1)
            out[here] = torch.einsum("ths,shd->thd", weights, values)
        return out.flatten(1)
