"""A folder as Moshi's weights come in one, of the package's own classes, small and with random weights.

Everything of the real shape is there but the size: 24 kHz in frames of 80 ms, rings of keys that come round, two
streams of codebooks, delayed against each other, a network over the codebooks, words of a tokenizer.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

CONTEXT = 24
"""Frames that the language model looks back: 1.92 s, so that every call's ring comes round."""
SEED = 11
TEXT_CARD = 48
CODEBOOKS, CARD = 4, 32
DIM = 32
WORDS = "you work for a company and your name is system what good day can help yes no one two three"
LOUDNESS = 0.1
"""RMS of what it says, of full scale."""

MIMI: dict[str, Any] = {
    "sample_rate": 24_000,
    "channels": 1,
    "frame_rate": 12.5,
    "seanet": {
        "channels": 1, "dimension": 16, "causal": True, "n_filters": 2, "n_residual_layers": 1,
        "activation": "ELU", "compress": 2, "dilation_base": 2, "disable_norm_outer_blocks": 0, "kernel_size": 7,
        "residual_kernel_size": 3, "last_kernel_size": 3, "norm": "none", "pad_mode": "constant",
        "ratios": [8, 6, 5, 4], "true_skip": True,
    },
    "quantizer": {
        "dimension": 8, "n_q": CODEBOOKS, "bins": CARD, "input_dimension": 16, "output_dimension": 16,
    },
    "transformer": {
        "d_model": 16, "num_heads": 2, "num_layers": 1, "causal": True, "layer_scale": 0.5, "context": 20,
        "conv_layout": True, "max_period": 10_000, "gating": "none", "norm": "layer_norm",
        "positional_embedding": "rope", "dim_feedforward": 32, "input_dimension": 16, "output_dimensions": [16],
    },
}  # fmt: skip
LM: dict[str, Any] = {
    "dim": DIM, "text_card": TEXT_CARD, "existing_text_padding_id": 3, "n_q": 2 * CODEBOOKS, "dep_q": CODEBOOKS,
    "card": CARD, "num_heads": 4, "num_layers": 2, "hidden_scale": 2.0, "causal": True, "layer_scale": None,
    "context": CONTEXT, "max_period": 10_000, "gating": "silu", "norm": "rms_norm_f32",
    "positional_embedding": "rope", "depformer_dim": 16, "depformer_dim_feedforward": 32,
    "depformer_num_heads": 2, "depformer_num_layers": 2, "depformer_layer_scale": None,
    "depformer_multi_linear": True, "depformer_context": CODEBOOKS, "depformer_max_period": 10_000,
    "depformer_gating": "silu", "depformer_pos_emb": "none", "depformer_weights_per_step": True,
    "delays": [0, *([0] + [1] * (CODEBOOKS - 1)) * 2],
}  # fmt: skip


def write(folder: Path, **more: Any) -> Path:
    """The folder, with `config.json`, both networks and the tokenizer. `more`: of config.json.

    The likeliest token is taken unless `more` has another `lm_gen_config`.
    """
    import torch
    from moshi.models import loaders
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = LM | {"lm_gen_config": {"use_sampling": False}, "model_type": "moshi"} | more
    names = {
        "moshi_name": "model.safetensors", "mimi_name": "mimi.safetensors", "mimi_config_name": "mimi.json",
        "tokenizer_name": "tokenizer.model",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | names))
    (folder / "mimi.json").write_text(json.dumps(MIMI))
    torch.manual_seed(SEED)
    lm_config = {name: config[name] for name in LM}
    lm = loaders.get_moshi_lm(None, lm_config, dtype=torch.float32)
    mimi = loaders.get_mimi(None, MIMI, num_codebooks=CODEBOOKS)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(1.5)  # else the likeliest token is the same in every frame
        _liven(mimi)
    save_file(
        {name: value.contiguous() for name, value in lm.state_dict().items()}, folder / names["moshi_name"]
    )
    save_file(
        {name: value.contiguous() for name, value in mimi.state_dict().items()}, folder / names["mimi_name"]
    )
    (folder / names["tokenizer_name"]).write_bytes(tokenizer())
    return folder


def write_personaplex(folder: Path, context: int) -> Path:
    """The same as PersonaPlex comes: twice the networks over codebooks, packed; its voices beside it.

    `voices/ann.wav` is noise; who needs a `.pt` makes one.
    """
    import numpy as np
    import soundfile
    import torch
    from moshi.models import loaders
    from safetensors.torch import save_file

    tokens = {"silence_tokens": [5, 9, 1, 30], "tone_tokens": [17, 2, 22, 8]}
    write(folder, model_type="personaplex", context=context, **tokens)
    (folder / "voices").mkdir()
    noise = np.random.default_rng(5).normal(0, 3000, 6 * 1920 - 700).astype(np.int16)
    soundfile.write(folder / "voices" / "ann.wav", noise, 24_000, subtype="PCM_16")
    torch.manual_seed(SEED + 1)
    lm = loaders.get_moshi_lm(None, whole_config(context), dtype=torch.float32)
    state: dict[str, Any] = {}
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(1.5)
    for name, value in lm.state_dict().items():
        layer, found, rest = name.partition("in_projs.")
        layer, found, rest = (layer, found, rest) if found else name.partition("out_projs.")
        packed = layer + ("in_proj_weight" if found == "in_projs." else "out_proj.weight") if found else name
        state[packed] = torch.cat([state[packed], value]) if packed in state else value
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    return folder


def whole_config(context: int) -> dict[str, Any]:
    """As NVIDIA runs it: what the caller says is generated, too, and put aside."""
    return LM | {"dep_q": 2 * CODEBOOKS, "context": context}


def _liven(mimi: Any) -> None:
    """So that different sounds have different codes: no biases, and latents as far apart as codes are."""
    import torch

    for name, parameter in mimi.named_parameters():
        if name.endswith("conv.bias") or name.endswith("convtr.bias"):
            parameter.zero_()
    for name, buffer in mimi.named_buffers():
        if name.endswith("embedding_sum"):
            buffer.normal_()
        elif name.endswith("_initialized"):
            buffer.fill_(True)
    latent = mimi.encode_to_latent(torch.randn(1, 1, 24_000) * 0.2, quantize=False)
    for part in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest):
        part.input_proj.weight /= part.input_proj(latent).std()
    sound = mimi.decode(torch.randint(CARD, (1, CODEBOOKS, 12)))
    mimi.decoder.model[-1].conv.conv.weight *= LOUDNESS / sound.std()


def tokenizer() -> bytes:
    """A sentencepiece model of `TEXT_CARD` pieces."""
    import sentencepiece

    words = WORDS.split()
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words)] * 3 + words), model_writer=made, vocab_size=TEXT_CARD,
        hard_vocab_limit=False, unk_id=0, bos_id=1, eos_id=2, pad_id=3, minloglevel=2,
    )  # fmt: skip
    return made.getvalue()
