"""Tiny models on disk for the tests of this room: built in milliseconds, nothing downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import models as token_models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
)


def byte_tokenizer(*, chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """One token per byte, digits among them, and the control tokens of ChatML."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {c: 3 + i for i, c in enumerate(alphabet)}
    tokenizer = Tokenizer(token_models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    # Not special: splitting special tokens leaves it alone.
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|im_end|>",
        sep_token="</s>",
        cls_token="<s>",
    )
    fast.chat_template = chat_template
    return fast


def save_judge(
    folder: Path, *, tokenizer: PreTrainedTokenizerFast | None = None, positions: int = 512
) -> Path:
    """A random Llama that vLLM loads too: heads of 32."""
    tokenizer = tokenizer or byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_random_classifier(folder: Path, names: tuple[str, ...] = ("nothate", "hate")) -> Path:
    """A random RoBERTa over bytes, windows of up to 62 bytes."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=65,
        type_vocab_size=1,
        initializer_range=0.5,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(names)),
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


WORDS = ("<s>", "<pad>", "</s>", "<unk>", "idiot", "good", "day", "bread", ".", "s", "<", ">", "/")


def save_word_classifier(folder: Path, *, is_flipped: bool = False, window: int = 16) -> Path:
    """A RoBERTa set by hand: logits (-m, m) with m > 0 when a window holds "idiot", else (m, -m).

    Embedding (1, -1, 1, -1) for every word but "idiot" (-1, 1, 1, -1); the query asks for a
    negative first feature, so attention finds "idiot" among any number of words; the head reads
    the first feature. `is_flipped` exchanges the two label names.
    """
    tokenizer = _word_tokenizer(window)
    names = ("hate", "nothate") if is_flipped else ("nothate", "hate")
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=window + 2,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(names)),
    )
    model = RobertaForSequenceClassification(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "LayerNorm.weight" in name else 0.0)
        embeddings = model.roberta.embeddings.word_embeddings.weight
        embeddings[:] = torch.tensor([1.0, -1.0, 1.0, -1.0])
        embeddings[WORDS.index("idiot")] = torch.tensor([-1.0, 1.0, 1.0, -1.0])
        attention = model.roberta.encoder.layer[0].attention
        attention.self.query.bias[0] = -40.0
        attention.self.key.weight[:] = torch.eye(4)
        attention.self.value.weight[:] = torch.eye(4)
        attention.output.dense.weight[:] = 1e5 * torch.eye(4)
        model.classifier.dense.weight[:] = torch.eye(4)
        model.classifier.out_proj.weight[0, 0] = 3.0
        model.classifier.out_proj.weight[1, 0] = -3.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _word_tokenizer(window: int) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(token_models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=window,
    )
