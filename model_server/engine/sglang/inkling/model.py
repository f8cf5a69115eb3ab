"""The interaction model around SGLang's own Inkling: our towers, placeholders, rows that become sound; its trunk.

It has the name of SGLang's class, since SGLang decides by that name what it makes for the model: pages of two kinds
for global and sliding layers, a pool of convolution states with snapshots, FA4 or triton, how it is cut over GPUs.

A turn is two requests to one session, and nothing is taken back, since pages cannot be:

    hears     pictures, text, four `hear` positions; then what is written, decoded as SGLang decodes any text
    speaks    the four `speak` positions; nothing is decoded, their rows go along as `customized_info`

SGLang puts the token that was sampled last before the session's next request. Where that is `END`, it is the first
`speak` position (`END` has no position of its own, `micro_turn.py`) and the request brings three; where words were
as many as may be, it is the last word, and the request brings four. So a call's positions are those of `digits`.

Only `extend` looks at requests, on the host; decoding is SGLang's, and may be captured in graphs. NOT RUN ON A GPU
YET: on a CPU, with reference forms of its kernels, `tests/on_sglang/test_inkling_trunk.py` compares it with ours.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from sglang.srt.layers.logits_processor import LogitsProcessor, LogitsProcessorOutput
from sglang.srt.models import inkling
from torch import Tensor

from model_server.engine.sglang.folder import HIDDEN_KEY, LOST_KEY, SETTINGS
from model_server.engine.sglang.turn_item import HEAR, IMAGE, SPEAK, packed, taken
from model_server.model import checkpoint
from model_server.model.config import ModelConfig
from model_server.model.micro_turn import HEAR_POSITIONS, MEL_CHANNELS, SPEAK_POSITIONS
from model_server.model.published import OURS, published
from model_server.model.towers import Ears, NormedEmbedding, PatchTower

_PREFIX = "interaction."


class InklingForConditionalGeneration(inkling.InklingForConditionalGeneration):
    """See the module; `config` is what `folder.py` wrote."""

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        super().__init__(config, quant_config, prefix)
        self.shape: ModelConfig = checkpoint.config_from(dict(getattr(config, SETTINGS)["config"]))
        self.ears = Ears(self.shape)
        self.eyes = PatchTower(self.shape)
        self.mouth = NormedEmbedding(SPEAK_POSITIONS, self.shape.hidden, self.shape.norm_eps)
        used = copy.copy(config.text_config)
        used.vocab_size = self.shape.vocabulary_used  # not the ids of what is no word
        self.llm.logits_processor = LogitsProcessor(used)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Of one of our checkpoints; `ValueError` names what no tensor of it fills."""
        named = dict(self.named_parameters())
        filled: set[str] = set()

        def rest() -> Iterator[tuple[str, Tensor]]:
            for name, weight in weights:
                ours = name.removeprefix(_PREFIX)
                if ours == name:
                    continue  # flow head and voice are in the engine's process
                if ours.startswith(OURS):
                    _fill(named, ours, weight)
                    filled.add(ours)
                else:
                    yield ours, weight

        filled |= super().load_weights(published(self.shape, rest()))
        if empty := sorted(set(named) - filled):
            raise ValueError(f"the checkpoint fills no {', '.join(empty)}; expected all of them")
        return filled

    def pad_input_ids(self, input_ids: Any, mm_inputs: Any) -> Any:
        """As they are: nothing is looked up by them, and no session shares another's beginning."""
        return input_ids

    @torch.no_grad()
    def forward(
        self, input_ids: Tensor, positions: Tensor, forward_batch: Any, **more: Any
    ) -> LogitsProcessorOutput:
        """A pass of SGLang's batch."""
        rows, ends = None, [0]
        if forward_batch.forward_mode.is_extend():
            rows, ends = self._rows(input_ids, forward_batch)
        hidden = self.llm(input_ids, positions, forward_batch, input_embeds=rows)
        output: LogitsProcessorOutput = self.llm.logits_processor(
            input_ids, hidden / self.shape.logits_divisor, self.llm.lm_head, forward_batch
        )
        if rows is not None:
            said = [packed(hidden[end - SPEAK_POSITIONS : end]) if end else "" for end in ends]
            output.customized_info = {HIDDEN_KEY: said, LOST_KEY: [""] * len(said)}
        return output

    def _rows(self, input_ids: Tensor, batch: Any) -> tuple[Tensor, list[int]]:
        """Rows [N, d] of what requests bring; where those that speak end, 0 for others."""
        x = self.llm.get_input_embeddings()(input_ids.clamp(max=self.shape.vocabulary - 1))
        ends, begin = [], 0
        for b, length in enumerate(batch.extend_seq_lens_cpu):
            ids, here = input_ids[begin : begin + length].tolist(), x[begin : begin + length]
            turn = taken(batch.mm_inputs[b] if batch.mm_inputs else None)
            if turn is not None and HEAR in ids:
                header, levels, patches = turn
                heard, own, truth = levels.to(x.device).split([MEL_CHANNELS, MEL_CHANNELS, 1], -1)
                at = ids.index(HEAR)
                here[at : at + HEAR_POSITIONS] = self.ears(heard, own, truth[:, 0])
                if patches is not None:
                    at = ids.index(IMAGE)
                    here[at : at + header.patches] = self.eyes(patches.to(x))
            speaks = length >= SPEAK_POSITIONS and ids[-1] == SPEAK
            if speaks:
                here[-SPEAK_POSITIONS:] = self.mouth(torch.arange(SPEAK_POSITIONS, device=x.device))
            begin += length
            ends.append(begin if speaks else 0)
        return x, ends


def _fill(named: dict[str, Any], name: str, weight: Tensor) -> None:
    if name not in named or named[name].shape != weight.shape:
        has = list(named[name].shape) if name in named else "none of that name"
        raise ValueError(f"{name}: the checkpoint has {list(weight.shape)}, expected {has}")
    named[name].data.copy_(weight)


EntryClass = InklingForConditionalGeneration
