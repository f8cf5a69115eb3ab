"""A checkpoint of ours as a folder that SGLang loads: configuration, words, and the weights by a link."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from model_server.engine.sglang.trunk import INKLING, OWN
from model_server.engine.sglang.turn_item import IDS
from model_server.model.checkpoint import Checkpoint
from model_server.model.published import config_of_ours
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
    folder: Path,
    loaded: Checkpoint,
    *,
    rows: int,
    context: int,
    products: torch.dtype | None = None,
    trunk: str = OWN,
) -> None:
    """`rows`: calls at once. `context`: positions of a session. `products`: see `DigitsEngine`."""
    if loaded.config.vocabulary != len(NAMES):
        raise ValueError(
            f"checkpoint {loaded.path}: {loaded.config.vocabulary} tokens, expected {len(NAMES)}: this engine "
            "speaks the vocabulary of digits"
        )
    ours = {
        "config": dataclasses.asdict(loaded.config),
        "products": "" if products is None else str(products).removeprefix("torch."),
        "rows": rows,
    }
    config = _inkling(loaded, context) if trunk == INKLING else _counted(context)
    (folder / "config.json").write_text(json.dumps({**config, SETTINGS: ours}, indent=1))
    _write_words(folder)
    (folder / "model.safetensors").symlink_to(loaded.path.resolve())


def _inkling(loaded: Checkpoint, context: int) -> dict[str, Any]:
    """What SGLang makes its own Inkling of; the ids beyond words are those of `turn_item.py`."""
    config = config_of_ours(loaded.config)
    text = {**config["text_config"], "vocab_size": IDS, "max_position_embeddings": context}
    return {**config, "text_config": text, "eos_token_id": END, "bos_token_id": None}


def _counted(context: int) -> dict[str, Any]:
    """A model that SGLang does nothing for but count: the trunk is ours."""
    return {
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
    }


def _write_words(folder: Path) -> None:
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
