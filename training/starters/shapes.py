"""The architectures of the starter models, untrained: their sizes are the caller's.

A Llama for policy and judge, a RoBERTa for the reward, a DistilBERT for the metric: two classifiers
that differ in architecture and tokenizer agree less where both are wrong. The label names are those
that `labeling.labelers.config.STARTER_LABELS` maps.
"""

from __future__ import annotations

from pathlib import Path

from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)


def chat_model(
    tokenizer: PreTrainedTokenizerFast, *, hidden: int, intermediate: int, layers: int, heads: int
) -> LlamaForCausalLM:
    """A Llama that reads as much as its tokenizer allows and samples from itself, uncut.

    vLLM's attention on a CPU takes no heads below 32 (`hidden / heads`).
    """
    markers = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=True,
        **markers,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        **markers,
        do_sample=True,
        temperature=1.0,
        top_k=0,  # no cut: what is sampled is the policy itself
    )
    return model


def reward_model(
    tokenizer: PreTrainedTokenizerFast, *, hidden: int, intermediate: int, heads: int
) -> RobertaForSequenceClassification:
    """A RoBERTa of two layers that calls a text polite or rude."""
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=heads,
        # RoBERTa counts positions from the padding id upwards
        max_position_embeddings=tokenizer.model_max_length + tokenizer.pad_token_id + 1,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        id2label={0: "polite", 1: "rude"},
        label2id={"polite": 0, "rude": 1},
    )
    return RobertaForSequenceClassification(config)


def metric_model(
    tokenizer: PreTrainedTokenizerFast, *, hidden: int, intermediate: int, heads: int
) -> DistilBertForSequenceClassification:
    """A DistilBERT of two layers that calls a text acceptable or toxic."""
    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=hidden,
        hidden_dim=intermediate,
        n_layers=2,
        n_heads=heads,
        max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        id2label={0: "acceptable", 1: "toxic"},
        label2id={"acceptable": 0, "toxic": 1},
    )
    return DistilBertForSequenceClassification(config)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Both in Hugging Face layout."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
