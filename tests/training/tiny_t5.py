"""A T5 of two small layers: tied and scaled as T5 was published, or neither, as Flan-T5 is."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from tests.training.tiny import VOCABULARY

START = 0  # padding, as with every T5


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Forty words, no chat template, and the end token behind every input."""
    words = ["<pad>", "<unk>", "</s>", "Human:", "Assistant:"]
    words += [f"w{i}" for i in range(len(words), VOCABULARY)]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return with_end_token(
        PreTrainedTokenizerFast(
            tokenizer_object=made, unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
        )
    )


def with_end_token(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """As T5's: `encode` ends every input with the end token, and there is no chat template."""
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    tokenizer.chat_template = None
    return tokenizer


def tiny_t5(
    folder: Path,
    *,
    is_tied: bool,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> Path:
    """A random T5, saved with its tokenizer; its configuration has dropout, as every T5's."""
    tokenizer = tokenizer or word_tokenizer()
    size = len(tokenizer)
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=size,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.1,
            feed_forward_proj="relu" if is_tied else "gated-gelu",
            tie_word_embeddings=is_tied,
            decoder_start_token_id=START,
            pad_token_id=START,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    if not is_tied:
        model.lm_head.weight = nn.Parameter(0.3 * torch.randn(size, 32))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if not is_tied:  # as it stands on the Hub: one key says both untied and unscaled
        about = json.loads((folder / "config.json").read_text())
        about.pop("scale_decoder_outputs")
        (folder / "config.json").write_text(json.dumps(about | {"tie_word_embeddings": False}))
    return folder
