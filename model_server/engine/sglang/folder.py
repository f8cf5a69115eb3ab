"""A checkpoint of ours as a folder that SGLang loads: configuration, words, and the weights by a link."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from model_server.engine.sglang.turn_item import IDS
from model_server.model.checkpoint import Checkpoint
from model_server.model.vocabulary import END, NAMES

ARCHITECTURE = "MicroturnInteraction"
SETTINGS = "microturn"
"""Key of what SGLang does not know, in its configuration."""
HIDDEN_KEY, LOST_KEY = "speak_rows", "lost"
"""Of what comes back beside tokens, one string a pass: base64 of float32 [4, d], and `LOST` or nothing."""
LOST = "lost"
"""The model could not append a turn, and has forgotten the call."""
COUNTED_WIDTH = 2
"""Of the keys that SGLang keeps of a position: 16 bytes of nothing, so that its pool counts positions."""


def write(
    folder: Path, loaded: Checkpoint, *, rows: int, context: int, products: torch.dtype | None = None
) -> None:
    """`rows`: calls at once. `context`: positions of a session. `products`: see `DigitsEngine`."""
    if loaded.config.vocabulary != len(NAMES):
        raise ValueError(
            f"checkpoint {loaded.path}: {loaded.config.vocabulary} tokens, expected {len(NAMES)}: this engine "
            "speaks the vocabulary of digits"
        )
    config = {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",  # the plainest that transformers knows; its shape below is that of what is counted
        "hidden_size": COUNTED_WIDTH,
        "intermediate_size": COUNTED_WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": COUNTED_WIDTH,
        "vocab_size": IDS,
        "max_position_embeddings": context,
        "eos_token_id": END,
        "bos_token_id": None,
        "torch_dtype": "float32",
        SETTINGS: {
            "config": dataclasses.asdict(loaded.config),
            "products": "" if products is None else str(products).removeprefix("torch."),
            "rows": rows,
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    words = {**{name: number for number, name in enumerate(NAMES)}, "<image>": IDS - 3, "<hear>": IDS - 2}
    words["<speak>"] = IDS - 1
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": NAMES[END]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": NAMES[END]})
    )
    (folder / "model.safetensors").symlink_to(loaded.path.resolve())
