"""A small model of the open Inkling family: transformers' modules, their checkpoint, and ours read from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCABULARY, USED, SOUND, PICTURE = 300, 290, 280, 281
"""Sizes of the vocabulary, and the placeholders of positions of sound and of pictures."""


@dataclass(frozen=True, slots=True)
class Family:
    """The same weights in transformers' modules and in ours."""

    theirs: Any
    ours: Any
    directory: Path

    def sequence(self, turns: int, seed: int) -> tuple[Any, Any, Any]:
        """10 positions a turn: ids [P], dMel levels of the sound [4 a turn, 80], patches [2 a turn, ...]."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        text = torch.randint(0, SOUND, (turns, 4), generator=generator)
        sound, picture = torch.full((turns, 4), SOUND), torch.full((turns, 2), PICTURE)
        ids = torch.cat([text[:, :1], sound, text[:, 1:2], picture, text[:, 2:]], 1).flatten()
        levels = torch.randint(0, 16, (4 * turns, 80), generator=generator)
        return ids, levels, torch.randn(2 * turns, 2, 40, 40, 3, generator=generator)

    def rows(self, ids: Any, levels: Any, patches: Any, ours: Any = None) -> Any:
        """Rows of these positions by our towers, [1, P, d]."""
        ours = ours or self.ours
        x = ours.text(ids)
        x[ids == SOUND] = ours.ears.caller(levels)
        x[ids == PICTURE] = ours.eyes(patches)
        return x[None]


def make_family(directory: Path) -> Family:
    """7 layers, one of them global, one dense; a window, a bias and a floor of tau that a short sequence outgrows.

    Every weight is random: the family's own first values, ones and zeros, would hide mistakes.
    """
    import torch
    from transformers.models.inkling import configuration_inkling as shapes
    from transformers.models.inkling.modeling_inkling import InklingForConditionalGeneration

    from model_server.model.inkling import config_of_inkling, load_inkling
    from model_server.model.interaction import Interaction

    hidden = 64
    text = shapes.InklingTextConfig(
        **dict(vocab_size=VOCABULARY, unpadded_vocab_size=USED, hidden_size=hidden, num_hidden_layers=7),
        **dict(num_attention_heads=8, num_key_value_heads=2, head_dim=16, swa_num_attention_heads=8),
        **dict(swa_num_key_value_heads=4, swa_head_dim=16, sliding_window_size=24, d_rel=8, rel_extent=40),
        **dict(n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2, moe_intermediate_size=48),
        **dict(intermediate_size=96, dense_mlp_idx=1, log_scaling_n_floor=20, log_scaling_alpha=0.3),
    )
    config = shapes.InklingConfig(
        text_config=text,
        audio_config=shapes.InklingAudioConfig(mel_vocab_size=16, text_hidden_size=hidden),
        vision_config=shapes.InklingVisionConfig(text_hidden_size=hidden, n_layers=4),
        audio_token_id=SOUND,
        image_token_id=PICTURE,
    )
    config._attn_implementation = "eager"
    theirs = InklingForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            scale, middle = (0.2, 0.0) if parameter.ndim > 1 else (0.3, 1.0)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + middle)
        for name, buffer in theirs.named_buffers():
            if "e_score_correction_bias" in name:
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.3)
    theirs.save_pretrained(directory)  # in the layout of the published checkpoints
    ours = Interaction(config_of_inkling(directory, global_first=16, global_budget=1024))
    ours.initialise(seed=1)
    assert load_inkling(ours, directory) == ()
    return Family(theirs, ours.eval(), directory)
