"""A tiny language model with random weights: `python -m tests.gateway.background.tiny_model FOLDER`.

It says words of a parcel's way in no order, and never comes to an end by itself.
"""

from __future__ import annotations

import sys

WORDS = ["it", "is", "on", "the", "way", "and", "comes", "soon", "your", "parcel", "left", "lyon", "today"]
END = "."


def main(folder: str) -> None:
    """Model and tokenizer, as transformers keeps them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: place for place, word in enumerate(["<unk>", "<s>", "</s>", *WORDS, END])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = "{% for m in messages %}<s> {{ m['content'] }} {% endfor %}"
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=4_096,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    assert model.generation_config is not None
    model.generation_config.do_sample = True
    model.generation_config.suppress_tokens = [0, 1, 2]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1])
